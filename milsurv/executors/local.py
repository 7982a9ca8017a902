"""Runs units on this machine: in this process, or in parallel worker processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Literal

from pydantic import PositiveInt

from milsurv.executors.base import (
    Context,
    Event,
    Executor,
    ExecutorConfig,
    OnEvent,
    Placement,
    SharedObjects,
    Unit,
)
from milsurv.executors.devices import VISIBLE_GPUS, cores, visible_gpus
from milsurv.executors.worker import Done, Failed, Reported, packed, pin_threads, run_units
from milsurv.interrupts import blocked_interrupts, deferred_interrupts, ignore_interrupts

MOST_WORKERS = 8
GRACE_SECONDS = 10.0
"""Seconds after which a worker that does not end is killed. The next run removes its temporary files."""
PRELOADED = ("milsurv.features.extraction", "milsurv.training.fold")
"""Modules that the units of a run import, including PyTorch."""


def worker_context() -> ForkServerContext | SpawnContext:
    """How workers start: on Linux, forked from a process that has imported ``PRELOADED``, which saves seconds for each.

    That process has a single thread and does not use a GPU. On other platforms, each worker is a new interpreter.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class LocalConfig(ExecutorConfig):
    """Settings of the local executor."""

    workers: PositiveInt | Literal["auto"] = "auto"
    """Worker processes; GPUs are assigned to them in turn. auto: one per core, at most 8, or one per GPU."""


class LocalExecutor(Executor):
    """Worker processes on this machine. A single unit at a time is run in this process."""

    Config = LocalConfig

    def __init__(self, config: LocalConfig, wanted_device: str):
        super().__init__(config, wanted_device)
        self._wanted_workers = config.workers
        self._pool: _Pool | None = None

    def __exit__(self, *exception: object) -> None:
        self._end_workers()

    def _end_workers(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end()

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that are assigned to workers in turn, as in CUDA_VISIBLE_DEVICES; empty when all use one device."""
        return tuple(visible_gpus(self.device.name))

    @cached_property
    def workers(self) -> int:
        if self._wanted_workers != "auto":
            return self._wanted_workers
        if self.device.kind == "cuda":
            return max(1, len(self.gpus))
        return min(cores(), MOST_WORKERS)

    def run_once(self, units: Sequence[Unit], on_event: OnEvent) -> list[Any]:
        if not units:
            return []
        placement = self.placement(self.workers, math.ceil(self.workers / max(1, len(self.gpus))))
        if self._pool is None and min(self.workers, len(units)) == units[0].resources.units_at_once == 1:
            pin_threads(self.config.threads)
            with SharedObjects() as shared:
                return [_run_here(unit, on_event, placement, shared) for unit in units]
        if self._pool is None:
            self._pool = _Pool(self.workers, placement, self.gpus)
        try:
            return self._pool.run(
                units, on_event, died=lambda unit, how: self.worker_died(unit, how, on_event)
            )
        except BaseException:
            self._end_workers()  # their units belong to this run
            raise


def _run_here(unit: Unit, on_event: OnEvent, placement: Placement, shared: SharedObjects) -> Any:
    """Run a unit in this process. Ctrl-C takes effect when the unit calls its context, i.e. between two steps."""
    with deferred_interrupts() as heard:

        def report(event: Event) -> None:
            with heard():
                on_event(unit, event)

        def raise_if_stopped() -> None:
            with heard():
                pass

        result = unit.run(Context(placement, report, raise_if_stopped, shared))
        raise_if_stopped()
        return result


@dataclass(frozen=True)
class _Idle:
    """A worker has finished the units of a run, and closed their shared objects."""


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    units: set[int] = field(default_factory=set)
    """Indices of the units that were sent to it and are not finished."""
    told_end: bool = False
    """Whether the end of the units was sent to it."""

    def send(self, message: object) -> None:
        with suppress(OSError):  # it died, which is detected when its messages are read
            self.connection.send(message)


class _Pool:
    """Up to ``count`` worker processes, started when there is work for them."""

    def __init__(self, count: int, placement: Placement, gpus: Sequence[str]):
        self._count = count
        self._placement = placement
        self._gpus = gpus
        self._context = worker_context()
        with blocked_interrupts():  # multiprocessing's helper process starts, and unblocks some of them again
            self._stop = self._context.RawValue("b", False)
        self._environment = dict(os.environ)
        self._workers: list[_Worker] = []

    def run(self, units: Sequence[Unit], on_event: OnEvent, died: Callable[[Unit, str], None]) -> list[Any]:
        """The units' results, in their order. ``died`` is called for each unit whose worker died."""
        waiting = deque(range(len(units)))
        results: dict[int, Any] = {}
        while len(self._workers) < min(self._count, len(units)):
            self._workers.append(self._start(len(self._workers)))
        busy = {worker.connection: worker for worker in self._workers[: len(units)]}
        for worker in busy.values():
            worker.told_end = False
            _feed(worker, units, waiting)
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                match _receive(worker):
                    case Reported(index, event):
                        on_event(units[index], event)
                    case Done(index, result):
                        results[index] = result
                        worker.units.discard(index)
                        _feed(worker, units, waiting)
                    case Failed(error):
                        raise error
                    case _Idle():
                        del busy[worker.connection]
                    case None:
                        how, lost = _exit_of(worker.process), sorted(worker.units)
                        for index in lost:
                            died(units[index], how)
                        waiting.extendleft(reversed(lost))
                        del busy[worker.connection]
                        fresh = self._replace(worker)
                        busy[fresh.connection] = fresh
                        _feed(fresh, units, waiting)
        return [results[index] for index in range(len(units))]

    def _start(self, number: int) -> _Worker:
        environment = self._environment
        if self._gpus:
            environment = {**environment, VISIBLE_GPUS: self._gpus[number % len(self._gpus)]}
        with blocked_interrupts():
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_serve, args=(theirs, self._placement, self._stop, environment)
            )
            process.start()
            theirs.close()
        return _Worker(number, process, ours)

    def _replace(self, worker: _Worker) -> _Worker:
        worker.connection.close()
        self._workers[worker.number] = fresh = self._start(worker.number)
        return fresh

    def end(self) -> None:
        """End the processes between two steps of their units; kill them if that takes too long, or on a signal."""
        self._stop.value = True
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for worker in self._workers:
                worker.connection.close()  # ends an idle worker
            for worker in self._workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            with blocked_interrupts():
                for worker in self._workers:
                    worker.process.kill()
                for worker in self._workers:
                    worker.process.join(GRACE_SECONDS)


def _feed(worker: _Worker, units: Sequence[Unit], waiting: deque[int]) -> None:
    """Send the worker as many units as it runs in parallel, and None when there are no more."""
    while waiting and len(worker.units) < units[0].resources.units_at_once and not worker.told_end:
        index = waiting.popleft()
        worker.units.add(index)
        worker.send((index, units[index]))
    if not waiting and not worker.told_end:
        worker.told_end = True
        worker.send(None)


def _receive(worker: _Worker) -> Any:
    """The worker's next message; None when it died."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def _exit_of(process: BaseProcess) -> str:
    """Cause of death of a process that has closed its end of the pipe: a signal's name, or the exit status."""
    process.join(GRACE_SECONDS)
    code = process.exitcode
    if code is None or code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _serve(driver: Connection, placement: Placement, stop: Any, environment: dict[str, str]) -> None:
    """A worker process: runs units from the driver until the driver ends or closes the pipe."""
    ignore_interrupts()
    os.environ.clear()
    os.environ.update(environment)
    outbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    threading.Thread(target=_post, args=(outbox, driver, stop), daemon=True).start()
    with suppress(EOFError, OSError):
        while not stop.value:
            run_units(iter(driver.recv, None), outbox.put, placement, lambda: bool(stop.value))
            outbox.put(_Idle())


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _post(outbox: SimpleQueue[Any], driver: Connection, stop: Any) -> None:
    """Send messages in their order, from a daemon thread, so that units do not wait for a busy driver."""
    with suppress(OSError):  # the driver has closed the pipe
        while True:
            driver.send_bytes(packed(outbox.get()))
    stop.value = True
