"""Signals that ask the process to stop: Ctrl-C, a terminal that closes, a batch system whose time limit is near."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals that this platform has."""


class Interrupted(BaseException):
    """A signal asked the process to stop."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number
        """As a shell reports a process that the signal ended."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def raise_interrupts() -> None:
    """Let the signals raise `Interrupted` in the main thread; one that is ignored, as by ``nohup``, stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def end_by_interrupts() -> None:
    """From now on the signals end the process at once: there is nothing left to tidy up."""
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def ignore_interrupts() -> None:
    """In a worker process: a signal to the whole process group is the driver's to handle."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A first signal waits for a block of what this gives, in which all are raised at once; a second never waits."""
    asked: list[int] = []
    at_once = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if at_once or len(asked) > 1:
            handlers[number](number, frame)

    @contextmanager
    def heard() -> Iterator[None]:
        nonlocal at_once
        at_once = True
        try:
            if asked:
                handlers[asked[0]](asked[0], None)
            yield
        finally:
            at_once = False

    handlers = _raising_handlers()
    try:
        for number in handlers:
            signal.signal(number, on_signal)
        yield heard
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raising_handlers() -> dict[int, Callable[[int, FrameType | None], object]]:
    """Signal -> its handler, of those that raise an exception in this thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: h for n, h in found.items() if callable(h) and h in (_interrupt, signal.default_int_handler)}


@contextmanager
def blocked_interrupts() -> Iterator[None]:
    """Signals wait until the block ends, and processes that start in it inherit that, where the platform can do so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
