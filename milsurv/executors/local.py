"""Runs units on this machine: in this process, or side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import Event as StopFlag
from typing import Any

import cv2
import torch

from milsurv.errors import MilsurvError
from milsurv.executors.base import IN_OTHER_HANDS, Event, Executor, Stopped, Unit
from milsurv.executors.devices import VISIBLE_GPUS

RETRY_SECONDS = 1.0
"""How long units in other hands are left alone before they are tried again."""
FINISHED = None
"""Sent after a unit's last event: events travel apart from results, and may come later."""


class LocalExecutor(Executor):
    """``workers`` processes of ``threads`` threads each; where one unit at a time is done, one worker is this process.

    ``gpus``, if there are any, are dealt out to the workers in turn: each sees one.
    """

    def __init__(self, workers: int, threads: int, gpus: Sequence[str] = ()):
        self.workers = workers
        self.threads = threads
        self.gpus = tuple(gpus)
        self._pool: ProcessPoolExecutor | None = None
        self._context = multiprocessing.get_context("spawn")
        self._shared: _Shared | None = None

    def __exit__(self, *exception: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        """Stop what is under way, and end the workers."""
        if self._pool is not None:
            assert self._shared is not None
            self._shared.stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(
        self, units: Sequence[Unit], on_event: Callable[[Unit, Event], None], side_by_side: int = 1
    ) -> list[Any]:
        results = self._run_once(units, on_event, side_by_side)
        told: set[int] = set()
        while waiting := [index for index, result in enumerate(results) if result == IN_OTHER_HANDS]:
            for index in set(waiting) - told:
                on_event(units[index], {"event": IN_OTHER_HANDS})
            told.update(waiting)
            time.sleep(RETRY_SECONDS)
            again = self._run_once([units[index] for index in waiting], on_event, side_by_side)
            for index, result in zip(waiting, again, strict=True):
                results[index] = result
        return results

    def _run_once(
        self, units: Sequence[Unit], on_event: Callable[[Unit, Event], None], side_by_side: int
    ) -> list[Any]:
        if self._pool is None and self.workers == side_by_side == 1:
            _pin_threads(self.threads)
            return [_do_here(unit, on_event) for unit in units]
        return self._run_in_pool(units, on_event, side_by_side)

    def _run_in_pool(
        self, units: Sequence[Unit], on_event: Callable[[Unit, Event], None], side_by_side: int
    ) -> list[Any]:
        if self._pool is None:
            self._shared = _Shared.of(self._context, self.threads, self.gpus)
            self._pool = ProcessPoolExecutor(self.workers, self._context, _start_worker, (self._shared,))
        assert self._shared is not None
        self._shared.next_unit.value = 0
        with _interrupts_held():
            workers = min(self.workers, len(units))
            futures = [self._pool.submit(_work, units, side_by_side) for _ in range(workers)]
        try:
            self._hear(self._shared.events, futures, units, on_event)
        except BaseException:
            self._let_go()  # lest they take units of another run
            raise
        by_index = {index: result for future in futures for index, result in future.result().items()}
        return [by_index[index] for index in range(len(units))]

    def _hear(
        self,
        events: Any,
        futures: Sequence[Future[Any]],
        units: Sequence[Unit],
        on_event: Callable[[Unit, Event], None],
    ) -> None:
        """Pass on what the workers tell until all units are finished and the workers are idle."""
        unfinished = len(units)
        while unfinished or not all(future.done() for future in futures):
            _raise_failure(futures)
            try:
                index, event = events.get(timeout=0.1 if unfinished else 0.01)
            except queue.Empty:
                continue
            if event is FINISHED:
                unfinished -= 1
            else:
                on_event(units[index], event)
        _raise_failure(futures)


def _do_here(unit: Unit, on_event: Callable[[Unit, Event], None]) -> Any:
    """Do a unit in this process; Ctrl-C reaches it where it reports, so that it stops between two steps."""
    with _interrupts_asked_for() as check:

        def report(event: Event) -> None:
            check()
            on_event(unit, event)

        result = unit.do(report)
        check()
    return result


@contextmanager
def _interrupts_asked_for() -> Iterator[Callable[[], None]]:
    """A first Ctrl-C is raised by the next call of what this gives, a second one at once."""
    asked = False

    def on_interrupt(_signal: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    heard = threading.current_thread() is threading.main_thread()
    if not heard or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block ends; workers that start in it inherit that and leave Ctrl-C to the driver."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise_failure(futures: Sequence[Future[Any]]) -> None:
    error = next((future.exception() for future in futures if future.done() and future.exception()), None)
    if isinstance(error, BrokenProcessPool):
        raise MilsurvError(
            "a worker process died, perhaps for want of memory; what is finished is kept: run the same command "
            "again, with fewer executor.workers if memory is short"
        ) from error
    if error is not None:
        raise error


@dataclass(frozen=True)
class _Shared:
    """What the driver and its workers have in common."""

    events: Any
    """Queue of (index of the unit, event)."""
    stop: StopFlag
    next_unit: Any
    """Index of the unit that is taken next."""
    started: Any
    """Workers that have started."""
    threads: int
    gpus: tuple[str, ...]

    @classmethod
    def of(cls, context: SpawnContext, threads: int, gpus: tuple[str, ...]) -> _Shared:
        next_unit, started = context.Value("l", 0), context.Value("l", 0)
        return cls(context.Queue(), context.Event(), next_unit, started, threads, gpus)


_shared: _Shared
"""In a worker: set when it starts."""


def _pin_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _start_worker(shared: _Shared) -> None:
    """Ctrl-C is the driver's to handle; a worker ends with its driver, however that ended."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if shared.gpus:  # before anything asks for a GPU here
        os.environ[VISIBLE_GPUS] = shared.gpus[_take_number(shared.started) % len(shared.gpus)]
    _pin_threads(shared.threads)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _take_number(counter: Any) -> int:
    with counter.get_lock():
        number: int = counter.value
        counter.value += 1
    return number


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _work(units: Sequence[Unit], side_by_side: int) -> dict[int, Any]:
    """Do units that no other worker has taken until there are none left; index -> result."""
    results: dict[int, Any] = {}
    failed = threading.Event()

    def report(index: int, event: Event) -> None:
        if _shared.stop.is_set() or failed.is_set():
            raise Stopped
        _shared.events.put((index, event))

    def take() -> None:
        while not (failed.is_set() or _shared.stop.is_set()):
            index = _take_number(_shared.next_unit)
            if index >= len(units):
                return
            try:
                results[index] = units[index].do(partial(report, index))
            except BaseException:
                failed.set()
                raise
            _shared.events.put((index, FINISHED))

    if side_by_side == 1:
        take()
        return results
    with ThreadPoolExecutor(side_by_side) as threads:
        takers = [threads.submit(take) for _ in range(side_by_side)]
    errors = [error for taker in takers if (error := taker.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
    return results
