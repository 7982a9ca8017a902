"""Reading files in a child process: the HDF5 library crashes on some damaged files, and cannot be interrupted."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from milsurv.interrupts import ignore_interrupts

T = TypeVar("T")
TIMEOUT_SECONDS, BYTES_PER_SECOND = 20.0, 5e6
"""Time limit for a file, which is extended by its size at a slow rate."""


class _Child:
    """A forked process that calls functions and sends back what they return or raise."""

    def __init__(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.parent = os.getpid()
        self.process = os.fork()
        if self.process == 0:
            self.connection.close()
            _serve(theirs)
            os._exit(0)
        theirs.close()

    def call(self, read: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
        """Raises EOFError when the process dies, TimeoutError after ``seconds``, and any exception of ``read``."""
        self.connection.send((read, arguments))
        if not self.connection.poll(seconds):
            raise TimeoutError
        result, error = self.connection.recv()
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.connection.close()


_child: _Child | None = None
_one_at_a_time = threading.Lock()


def read_isolated(read: Callable[..., T], file: Path, *arguments: Any) -> T:
    """``read(file, *arguments)``, a function of a module, in a child process that is kept for the next file.

    Raises exceptions of ``read``, and ValueError when it crashes the process or takes too long. Without fork, the file
    is read in this process.
    """
    global _child
    if not hasattr(os, "fork"):
        return read(file, *arguments)
    with _one_at_a_time:
        if _child is None or _child.parent != os.getpid():
            _child = _Child()
        result: T
        finished = False
        try:
            result = _child.call(
                read, (file, *arguments), TIMEOUT_SECONDS + file.stat().st_size / BYTES_PER_SECOND
            )
            finished = True
        except (EOFError, ConnectionError):
            raise ValueError("the HDF5 library crashes on it") from None
        except TimeoutError:
            raise ValueError("the HDF5 library does not finish reading it") from None
        except Exception:
            finished = True
            raise
        finally:
            if not finished:
                _child.kill()
                _child = None
        return result


def _serve(parent: Connection) -> None:
    """Serve calls until the parent closes its end of the pipe, or exits."""
    ignore_interrupts()
    faulthandler.disable()
    with suppress(EOFError, OSError):
        while True:
            read, arguments = parent.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = read(*arguments), None
            except Exception as error:
                answer = None, error
            parent.send(answer)
