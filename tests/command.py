"""The real command, in processes of its own."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import h5py

from milsurv.cli import main

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(
    ["milsurv.runs.pipeline", "milsurv.models.heatmap", "milsurv.models.external"]
)

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def start_forkserver() -> None:
    """Let it import in the background, before an executor of this process starts one that has imported less."""
    forkserver.ensure_running()


def start_milsurv(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """``milsurv`` in a process group of its own, its output captured."""
    command = [sys.executable, "-m", "milsurv", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", **options.pop("environment", {})}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def run_milsurv(
    *arguments: object,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``milsurv`` from start to end, in a process forked from one that has imported what commands need.

    A fresh interpreter takes seconds to import that.
    """
    command = [str(argument) for argument in arguments]
    env = {**os.environ, "COLUMNS": "200", **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _FORKSERVER.Process(target=_run_here, args=(command, cwd, env, printed, preexec_fn))
        process.start()
        process.join()
        output, errors = (path.read_text() for path in printed)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(command, process.exitcode, output, errors)


def _run_here(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    printed: Sequence[Path],
    preexec_fn: Callable[[], None] | None,
) -> None:
    """The command in this process, its output in two files."""
    for descriptor, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if preexec_fn is not None:
        preexec_fn()
    sys.argv = ["milsurv", *arguments]
    main()


def bow_to_permissions() -> None:
    """For ``preexec_fn``: root, too, reads and writes only what it may."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def features_of(workspace: Path) -> dict[str, dict[str, bytes]]:
    """Feature file -> the bytes of each of its datasets and attributes."""
    return {str(path.relative_to(workspace)): _content(path) for path in workspace.rglob("*.h5")}


def results_of(workspace: Path) -> dict[str, bytes]:
    """All that a run computed from its features."""
    names = ("model.safetensors", "predictions.csv", "history.csv", "metrics.json", "splits.csv")
    return {str(p.relative_to(workspace)): p.read_bytes() for n in names for p in workspace.rglob(n)}


def hidden_files(folder: Path) -> list[Path]:
    """Claims and temporary files."""
    return [path for path in folder.rglob(".*") if path.is_file()]


def _content(path: Path) -> dict[str, bytes]:
    content: dict[str, bytes] = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        content.update({f"{name}@{key}": repr(value).encode() for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            content[name] = item[()].tobytes()

    with h5py.File(path, "r", locking=False) as file:
        add("", file)
        file.visititems(add)
    return content


def forbid_flock() -> None:
    """For ``preexec_fn``: the kernel answers every flock as on a file system without locks (Linux alone)."""
    number, machine = {"x86_64": (73, 0xC000003E), "aarch64": (32, 0xC00000B7)}[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # operations of a seccomp filter
    steps = [
        (load, 0, 0, 4),
        (equal, 0, 3, machine),
        (load, 0, 0, 0),
        (equal, 0, 1, number),
        (give, 0, 0, 0x00050000 | errno.ENOLCK),
        (give, 0, 0, 0x7FFF0000),
    ]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(filters)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")
