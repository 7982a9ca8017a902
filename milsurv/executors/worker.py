"""A worker process: does the units that its driver sends, and tells of each step through a pipe."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from queue import SimpleQueue
from typing import Any

import cv2
import torch

from milsurv.errors import MilsurvError
from milsurv.executors.base import Event, Stopped, Unit
from milsurv.executors.devices import VISIBLE_GPUS
from milsurv.interrupts import ignore_interrupts


@dataclass(frozen=True)
class Told:
    """A unit reported an event."""

    index: int
    event: Event


@dataclass(frozen=True)
class Done:
    """A unit is finished."""

    index: int
    result: Any


@dataclass(frozen=True)
class Idle:
    """There is nothing left to do, or a unit failed."""

    error: BaseException | None = None


class Shared:
    """What the driver and its workers have in common. No lock is waited for by the driver: its owner may be killed."""

    def __init__(self, context: BaseContext, threads: int, gpus: tuple[str, ...]):
        self.stop = context.RawValue("b", False)
        self.next_unit = context.Value("l", 0)
        """Index of the unit that is taken next."""
        self.threads = threads
        self.gpus = gpus
        self.environment = dict(os.environ)

    def take(self) -> int:
        """Index of a unit that no other worker has taken."""
        with self.next_unit.get_lock():
            index: int = self.next_unit.value
            self.next_unit.value += 1
        return index


def serve(driver: Connection, shared: Shared, number: int) -> None:
    """The life of the worker of that number: ends when the driver closes the pipe, or ends itself."""
    ignore_interrupts()
    os.environ.clear()
    os.environ.update(shared.environment)
    if shared.gpus:  # before anything asks for a GPU here
        os.environ[VISIBLE_GPUS] = shared.gpus[number % len(shared.gpus)]
    pin_threads(shared.threads)
    outbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    threading.Thread(target=_post, args=(outbox, driver, shared), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            units, side_by_side, after = driver.recv()
            with followed_by(after):
                error = _work(units, side_by_side, shared, outbox)
            outbox.put(Idle(error))


@contextmanager
def followed_by(after: Callable[[], None] | None) -> Iterator[None]:
    """Call ``after`` when the block has ended, however it did."""
    try:
        yield
    finally:
        if after is not None:
            after()


def pin_threads(threads: int) -> None:
    """Sums differ between one thread and two."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _post(outbox: SimpleQueue[Any], driver: Connection, shared: Shared) -> None:
    """Send messages in their order, from a daemon thread, so that a driver that does not listen holds nobody up."""
    with suppress(OSError):  # the driver has closed the pipe
        while True:
            driver.send_bytes(packed(outbox.get()))
    shared.stop.value = True


def packed(message: Told | Done | Idle) -> bytes:
    """The message as the driver receives it, or the error of an event or result that cannot be pickled."""
    try:
        return pickle.dumps(message)
    except Exception as error:
        return pickle.dumps(Idle(sendable(error)))


def _work(
    units: Sequence[Unit], side_by_side: int, shared: Shared, outbox: SimpleQueue[Any]
) -> BaseException | None:
    """Do units that no other worker has taken until there are none left; the error of one that failed."""
    failed = threading.Event()

    def report(index: int, event: Event) -> None:
        if shared.stop.value or failed.is_set():
            raise Stopped
        outbox.put(Told(index, event))

    def take() -> BaseException | None:
        while not (failed.is_set() or shared.stop.value):
            index = shared.take()
            if index >= len(units):
                break
            try:
                outbox.put(Done(index, units[index].do(partial(report, index))))
            except BaseException as error:
                failed.set()
                return sendable(error)
        return None

    if side_by_side == 1:
        return take()
    with ThreadPoolExecutor(side_by_side) as threads:
        takers = [threads.submit(take) for _ in range(side_by_side)]
    errors = [error for taker in takers if (error := taker.result()) is not None]
    return min(errors, key=lambda error: isinstance(error, Stopped), default=None)


def sendable(error: BaseException) -> BaseException:
    """The error with its traceback in words, or one that says the same where it cannot be pickled."""
    told = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, MilsurvError):
        error.add_note(f"in a worker process:\n{told}")
    return error
