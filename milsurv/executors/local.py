"""Runs units on this machine: in this process, or side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event as StopFlag
from typing import Any

import cv2
import torch

from milsurv.errors import MilsurvError
from milsurv.executors.base import IN_OTHER_HANDS, Event, Executor, Stopped, Unit

MOST_WORKERS = 8
RETRY_SECONDS = 1.0
"""How long units in other hands are left alone before they are tried again."""
FINISHED = None
"""Sent after a unit's last event: events travel apart from results, and may come later."""


def choose_device(wanted: str) -> str:
    """The device to compute on; ``auto`` takes a GPU when there is one."""
    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted.startswith("cuda") and not available:
        raise MilsurvError(f"device '{wanted}' is asked for, but torch finds no GPU here; use --device cpu")
    return wanted


def count_workers(wanted: int | str, device: str) -> int:
    """Processes side by side: as wanted; ``auto`` is one per core up to 8, or one on a GPU."""
    if isinstance(wanted, int):
        return wanted
    if device.startswith("cuda"):
        return 1
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        MOST_WORKERS,
    )


class LocalExecutor(Executor):
    """``workers`` processes of ``threads`` threads each; one worker is this process itself."""

    def __init__(self, workers: int, threads: int):
        self.workers = workers
        self.threads = threads
        self._pool: ProcessPoolExecutor | None = None
        self._context = multiprocessing.get_context("spawn")
        self._events: Any = self._context.Queue() if workers > 1 else None
        self._stop: StopFlag | None = self._context.Event() if workers > 1 else None

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            assert self._stop is not None
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(self, units: Sequence[Unit], on_event: Callable[[Unit, Event], None]) -> list[Any]:
        results = self._run_once(units, on_event)
        told: set[int] = set()
        while waiting := [index for index, result in enumerate(results) if result == IN_OTHER_HANDS]:
            for index in set(waiting) - told:
                on_event(units[index], {"event": IN_OTHER_HANDS})
            told.update(waiting)
            time.sleep(RETRY_SECONDS)
            again = self._run_once([units[index] for index in waiting], on_event)
            for index, result in zip(waiting, again, strict=True):
                results[index] = result
        return results

    def _run_once(self, units: Sequence[Unit], on_event: Callable[[Unit, Event], None]) -> list[Any]:
        if self.workers == 1:
            _pin_threads(self.threads)
            return [unit.do(partial(on_event, unit)) for unit in units]
        return self._run_in_pool(units, on_event)

    def _run_in_pool(self, units: Sequence[Unit], on_event: Callable[[Unit, Event], None]) -> list[Any]:
        if self._pool is None:
            start = partial(_start_worker, self._events, self._stop, self.threads)
            self._pool = ProcessPoolExecutor(self.workers, self._context, start)
        failed: list[Future[Any]] = []
        with _interrupts_held():
            futures = [self._pool.submit(_work, index, unit) for index, unit in enumerate(units)]
        for future in futures:
            future.add_done_callback(lambda done: _note_failure(done, failed))
        unfinished = len(units)
        while unfinished:
            if failed:
                _raise_of(failed[0])
            try:
                index, event = self._events.get(timeout=0.1)
            except queue.Empty:
                continue
            if event is FINISHED:
                unfinished -= 1
            else:
                on_event(units[index], event)
        return [future.result() for future in futures]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block ends; workers that start in it inherit that and leave Ctrl-C to the driver."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _note_failure(done: Future[Any], failed: list[Future[Any]]) -> None:
    if not done.cancelled() and done.exception() is not None:
        failed.append(done)


def _raise_of(future: Future[Any]) -> None:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        raise MilsurvError(
            "a worker process died, perhaps for want of memory; what is finished is kept: run the same command "
            "again, with fewer executor.workers if memory is short"
        ) from error
    if error is not None:
        raise error


_worker_events: Any = None
_worker_stop: StopFlag | None = None


def _pin_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _start_worker(events: Any, stop: StopFlag | None, threads: int) -> None:
    """Ctrl-C is the driver's to handle; a worker ends with its driver, however that ended."""
    global _worker_events, _worker_stop
    _worker_events, _worker_stop = events, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _pin_threads(threads)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _work(index: int, unit: Unit) -> Any:
    def report(event: Event) -> None:
        if _worker_stop is not None and _worker_stop.is_set():
            raise Stopped
        _worker_events.put((index, event))

    result = unit.do(report)
    _worker_events.put((index, FINISHED))
    return result
