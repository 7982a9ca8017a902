"""Runs units on this machine: in this process, or side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from milsurv.errors import MilsurvError
from milsurv.executors.base import IN_OTHER_HANDS, Event, Executor, Unit
from milsurv.executors.worker import Done, Idle, Shared, Told, followed_by, pin_threads, serve
from milsurv.interrupts import blocked_interrupts, deferred_interrupts

RETRY_SECONDS = 1.0
"""How long units in other hands are left alone before they are tried again."""
GRACE_SECONDS = 10.0
"""How long a worker may take to end before it is killed. The next run removes what temporary files it leaves."""


PRELOADED = ("milsurv.features.extract", "milsurv.training.loop")
"""What the units of a run import, PyTorch included."""


def worker_context() -> ForkServerContext | SpawnContext:
    """How workers start: on Linux forked from one process that has imported ``PRELOADED``, so that each starts at once.

    That process runs no thread and touches no GPU. Elsewhere each worker is a fresh interpreter.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class LocalExecutor(Executor):
    """``workers`` processes of ``threads`` threads each; where one unit at a time is done, one worker is this process.

    ``gpus``, if there are any, are dealt out to the workers in turn: each sees one.
    """

    def __init__(self, workers: int, threads: int, gpus: Sequence[str] = ()):
        self.workers = workers
        self.threads = threads
        self.gpus = tuple(gpus)
        self._pool: _Pool | None = None

    def __exit__(self, *exception: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        """Stop what is under way, and end the workers."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end()

    def run(
        self,
        units: Sequence[Unit],
        on_event: Callable[[Unit, Event], None],
        side_by_side: int = 1,
        after: Callable[[], None] | None = None,
    ) -> list[Any]:
        results = self._run_once(units, on_event, side_by_side, after)
        told: set[int] = set()
        while waiting := [index for index, result in enumerate(results) if result == IN_OTHER_HANDS]:
            for index in set(waiting) - told:
                on_event(units[index], {"event": IN_OTHER_HANDS})
            told.update(waiting)
            time.sleep(RETRY_SECONDS)
            again = self._run_once([units[index] for index in waiting], on_event, side_by_side, after)
            for index, result in zip(waiting, again, strict=True):
                results[index] = result
        return results

    def _run_once(
        self,
        units: Sequence[Unit],
        on_event: Callable[[Unit, Event], None],
        side_by_side: int,
        after: Callable[[], None] | None,
    ) -> list[Any]:
        if self._pool is None and self.workers == side_by_side == 1:
            pin_threads(self.threads)
            with followed_by(after):
                return [_do_here(unit, on_event) for unit in units]
        if self._pool is None:
            self._pool = _Pool(self.workers, self.threads, self.gpus)
        try:
            return self._pool.run(units, on_event, side_by_side, after)
        except BaseException:
            self._let_go()  # lest they take units of another run
            raise


def _do_here(unit: Unit, on_event: Callable[[Unit, Event], None]) -> Any:
    """Do a unit in this process; Ctrl-C reaches it where it reports, so that it stops between two steps."""
    with deferred_interrupts() as heard:

        def report(event: Event) -> None:
            with heard():
                on_event(unit, event)

        result = unit.do(report)
        with heard():
            return result


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection


class _Pool:
    """At most ``count`` worker processes, started when there is work for them."""

    def __init__(self, count: int, threads: int, gpus: tuple[str, ...]):
        self._count = count
        self._context = worker_context()
        with blocked_interrupts():  # multiprocessing's helper process starts, and unblocks some of them again
            self._shared = Shared(self._context, threads, gpus)
        self._workers: list[_Worker] = []

    def run(
        self,
        units: Sequence[Unit],
        on_event: Callable[[Unit, Event], None],
        side_by_side: int,
        after: Callable[[], None] | None,
    ) -> list[Any]:
        """The units' results, in their order."""
        wanted = min(self._count, len(units))
        self._shared.next_unit.value = 0
        with blocked_interrupts():
            while len(self._workers) < wanted:
                self._start()
        busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers[:wanted]}
        for worker in busy.values():
            _send(worker, (units, side_by_side, after))
        results: dict[int, Any] = {}
        while busy:
            for connection in wait(list(busy)):
                match _receive(busy[connection]):
                    case Told(index, event):
                        on_event(units[index], event)
                    case Done(index, result):
                        results[index] = result
                    case Idle(BaseException() as error):
                        raise error
                    case Idle():
                        del busy[connection]
        return [results[index] for index in range(len(units))]

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._shared, len(self._workers)))
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def end(self) -> None:
        """End the processes: at their next report, or by force when that takes too long or another signal comes."""
        self._shared.stop.value = True
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for worker in self._workers:
                worker.connection.close()  # an idle worker ends by that
            for worker in self._workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            with blocked_interrupts():
                for worker in self._workers:
                    worker.process.kill()
                for worker in self._workers:
                    worker.process.join(GRACE_SECONDS)


def _send(worker: _Worker, message: Any) -> None:
    try:
        worker.connection.send(message)
    except OSError as error:
        raise _death_of(worker) from error


def _receive(worker: _Worker) -> Any:
    try:
        return worker.connection.recv()
    except (EOFError, OSError) as error:
        raise _death_of(worker) from error


def _death_of(worker: _Worker) -> MilsurvError:
    """What is said of a worker whose end of the pipe is closed."""
    worker.process.join(GRACE_SECONDS)
    code = worker.process.exitcode
    how = f"exit status {code}"
    if code is not None and code < 0:
        how = str(-code)
        with suppress(ValueError):
            how = signal.Signals(-code).name
    return MilsurvError(
        f"a worker process died ({how}), perhaps for want of memory; what is finished is kept: run the same command "
        "again, with fewer executor.workers if memory is short"
    )
