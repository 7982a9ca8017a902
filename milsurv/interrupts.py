"""Signals that request a stop: Ctrl-C, a closed terminal, a batch system's time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals available on this platform."""


class Interrupted(BaseException):
    """A signal requested that the process stops."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number
        """The status that a shell reports for a process ended by the signal."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def raise_interrupts() -> None:
    """Let the signals raise :class:`Interrupted` in the main thread, unless ignored, as SIGHUP under ``nohup``."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def end_by_interrupts() -> None:
    """Let the signals end the process immediately from now on, as there is nothing left to clean up."""
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def ignore_interrupts() -> None:
    """For worker processes: signals to the process group are handled by the main process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Defer the first signal until a block of the yielded context manager; a second signal is raised immediately."""
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
    """Signal -> handler, for handlers that raise an exception in this thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: h for n, h in found.items() if callable(h) and h in (_interrupt, signal.default_int_handler)}


@contextmanager
def blocked_interrupts() -> Iterator[None]:
    """Block the signals until the block ends, also in processes started in it, if the platform supports it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
