"""A driver that stops while more events wait for it than a pipe holds. Run as a script: FOLDER ENDING..."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from milsurv.executors import local
from milsurv.executors.base import WORKER_DIED, Context, Event, Resources, Unit
from milsurv.executors.local import LocalConfig, LocalExecutor
from milsurv.interrupts import raise_interrupts

EVENTS = 20_000
"""Over a megabyte; a pipe holds 64 KB."""


def babble(context: Context, folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    for number in range(EVENTS):
        context.report({"event": "word", "number": number})
    (folder / "said").touch()
    while not (folder / "fail").exists():
        context.raise_if_stopped()
        time.sleep(0.01)
    raise RuntimeError("a worker's error")


def be_deaf(context: Context, folder: Path) -> None:
    """Do one step that takes for ever."""
    context.report({"event": "deaf"})
    (folder / "said").touch()
    time.sleep(10_000)


def keep_quiet(context: Context) -> None:
    context.report({"event": "quiet"})


def fill_disk(_folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def send(number: int) -> Callable[[Path], None]:
    return lambda _folder: os.kill(os.getpid(), number)


def kill_worker(folder: Path) -> None:
    (folder / "said").unlink()
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


ENDINGS: dict[str, Callable[[Path], None]] = {
    "full disk": fill_disk,
    "SIGINT": send(signal.SIGINT),
    "SIGTERM": send(signal.SIGTERM),
    "SIGHUP": send(signal.SIGHUP),
    "error in a worker": lambda folder: (folder / "fail").touch(),
    "killed worker": kill_worker,
    "deaf worker": send(signal.SIGTERM),
}


def stop(ending: str, folder: Path) -> None:
    folder.mkdir()
    noisy = be_deaf if ending == "deaf worker" else babble
    together = Resources(gpus=0.5)
    units = [
        Unit("noisy", noisy, {"folder": folder}, resources=together),
        Unit("quiet", keep_quiet, resources=together),
    ]
    ended = False

    def on_event(_unit: Unit, event: Event) -> None:
        nonlocal ended
        if event["event"] == WORKER_DIED:
            ended = False
        if event["event"] in ("word", "deaf") and not ended:
            while not (folder / "said").exists():
                time.sleep(0.01)
            ended = True
            ENDINGS[ending](folder)

    try:
        with LocalExecutor(LocalConfig(workers=1), "cpu") as executor:
            executor.run(units, on_event)
        print(f"{ending}: finished", flush=True)
    except BaseException as error:
        left = len(multiprocessing.active_children())
        print(f"{ending}: {type(error).__name__}: {error}; {left} workers left", flush=True)


if __name__ == "__main__":
    raise_interrupts()
    local.GRACE_SECONDS = 2.0
    for position, name in enumerate(sys.argv[2:]):
        stop(name, Path(sys.argv[1]) / str(position))
