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
from milsurv.executors.base import Event, Report, Unit
from milsurv.executors.local import LocalExecutor
from milsurv.interrupts import raise_interrupts

EVENTS = 20_000
"""Over a megabyte; a pipe holds 64 KB."""


def babble(report: Report, folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    for number in range(EVENTS):
        report({"event": "word", "number": number})
    (folder / "said").touch()
    while not (folder / "fail").exists():
        report({"event": "waiting"})
        time.sleep(0.01)
    raise RuntimeError("a worker's error")


def be_deaf(report: Report, folder: Path) -> None:
    """Do one step that takes for ever."""
    report({"event": "deaf"})
    (folder / "said").touch()
    time.sleep(10_000)


def keep_quiet(report: Report) -> None:
    report({"event": "quiet"})


def fill_disk(_folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def send(number: int) -> Callable[[Path], None]:
    return lambda _folder: os.kill(os.getpid(), number)


def kill_worker(folder: Path) -> None:
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
    units = [Unit("noisy", noisy, {"folder": folder}), Unit("quiet", keep_quiet)]
    ended = False

    def on_event(_unit: Unit, event: Event) -> None:
        nonlocal ended
        if event["event"] in ("word", "deaf") and not ended:
            while not (folder / "said").exists():
                time.sleep(0.01)
            ended = True
            ENDINGS[ending](folder)

    try:
        with LocalExecutor(1, threads=1) as executor:
            executor.run(units, on_event, side_by_side=2)
        print(f"{ending}: finished", flush=True)
    except BaseException as error:
        left = len(multiprocessing.active_children())
        print(f"{ending}: {type(error).__name__}: {error}; {left} workers left", flush=True)


if __name__ == "__main__":
    raise_interrupts()
    local.GRACE_SECONDS = 2.0
    for position, name in enumerate(sys.argv[2:]):
        stop(name, Path(sys.argv[1]) / str(position))
