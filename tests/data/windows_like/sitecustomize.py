"""Makes Python, and all processes that it starts, lack what Windows lacks, as far as libraries stand it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.modules["fcntl"] = None  # type: ignore[assignment]
sys.modules["resource"] = None  # type: ignore[assignment]
for module, names in (
    (os, ("sched_getaffinity", "sysconf", "fchmod", "mkfifo")),
    (signal, ("pthread_sigmask", "SIGHUP")),
):
    for name in names:
        delattr(module, name)
os.supports_fd.discard(os.utime)

_unlink, _replace, _utime = os.unlink, os.replace, os.utime


def _refuse_open(path: Any) -> None:
    """Windows moves and removes no file that is open."""
    wanted = os.path.realpath(os.fspath(path))
    if Path(wanted).name.startswith("pym-"):  # memory that multiprocessing shares in another way on Windows
        return
    for descriptor in Path("/proc/self/fd").iterdir():
        if os.path.realpath(descriptor) == wanted:
            raise PermissionError(13, "The process cannot access the file", path)


def unlink(path: Any, **options: Any) -> None:
    _refuse_open(path)
    _unlink(path, **options)


def replace(source: Any, target: Any, **options: Any) -> None:
    _refuse_open(source)
    _refuse_open(target)
    _replace(source, target, **options)


def utime(path: Any, *arguments: Any, **options: Any) -> None:
    if isinstance(path, int):
        raise TypeError("path should be string, bytes or os.PathLike, not int")
    _utime(path, *arguments, **options)


for name, function in (
    ("unlink", unlink),
    ("remove", unlink),
    ("replace", replace),
    ("rename", replace),
    ("utime", utime),
):
    setattr(os, name, function)
