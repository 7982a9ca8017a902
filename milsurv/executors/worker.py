"""The loop of a worker: runs units in this process and sends events and results, for executors of any kind."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import cv2
import torch

from milsurv.errors import MilsurvError
from milsurv.executors.base import Context, Event, Placement, Report, SharedObjects, Stopped, Unit


@dataclass(frozen=True)
class Reported:
    """A unit reported an event."""

    index: int
    event: Event


@dataclass(frozen=True)
class Done:
    """A unit finished."""

    index: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A unit raised ``error``."""

    error: BaseException


Message = Reported | Done | Failed


def run_units(
    units: Iterable[tuple[int, Unit]],
    send: Callable[[Message], object],
    placement: Placement,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run units in this process until there are no more, one fails, or ``stop`` returns True.

    Shared objects are created once and closed at the end. Units whose resources allow it run in parallel.

    Args:
        units: the units with their indices, which are part of the messages; may block until the next unit is known.
        send: called with each message, from any thread. A unit's messages come in order.
        placement: where this worker runs.
        stop: called between the steps of a unit.
    """
    remaining = iter(units)
    first = next(remaining, None)
    if first is None:
        return
    remaining = chain([first], remaining)
    at_once = first[1].resources.units_at_once
    taking, failed = threading.Lock(), threading.Event()

    def raise_if_stopped() -> None:
        if failed.is_set() or stop():
            raise Stopped

    def take() -> tuple[int, Unit] | None:
        with taking:
            return next(remaining, None)

    def run_remaining() -> None:
        while not (failed.is_set() or stop()) and (taken := take()) is not None:
            index, unit = taken
            try:
                context = Context(placement, _reporter(send, index), raise_if_stopped, shared, at_once)
                send(Done(index, unit.run(context)))
            except Stopped:
                return
            except BaseException as error:
                send(Failed(sendable(error)))
                failed.set()

    def pin() -> None:
        pin_threads(placement.config.threads)

    pin()
    with SharedObjects() as shared:
        if at_once == 1:
            run_remaining()
            return
        with ThreadPoolExecutor(at_once, initializer=pin) as threads:
            for running in [threads.submit(run_remaining) for _ in range(at_once)]:
                running.result()


def _reporter(send: Callable[[Message], object], index: int) -> Report:
    def report(event: Event) -> None:
        send(Reported(index, event))

    return report


def pin_threads(threads: int) -> None:
    """Set the threads of PyTorch and OpenCV in this process: sums differ between one thread and two."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def packed(message: Any) -> bytes:
    """The pickled message; ``Failed`` if its event or result cannot be pickled."""
    try:
        return pickle.dumps(message)
    except Exception as error:
        return pickle.dumps(Failed(sendable(error)))


def sendable(error: BaseException) -> BaseException:
    """The error with its traceback as a note, replaced by a RuntimeError when it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, MilsurvError):
        error.add_note(f"in a worker process:\n{text}")
    return error
