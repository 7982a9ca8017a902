"""Locks and temporary files: of living processes, of dead ones, with flock and without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milsurv.storage.atomic import atomic_path
from milsurv.storage.locks import LEASE_SECONDS, remove_abandoned, try_lock
from tests.command import forbid_flock, hidden_files

Locks = Callable[[], None] | None
LOCKS = pytest.mark.parametrize("locks", [None, forbid_flock], ids=["flock", "no flock"])

HOLD = """
import sys
from pathlib import Path
from milsurv.storage.atomic import atomic_path
from milsurv.storage.locks import try_lock
with try_lock(Path(sys.argv[1])) as locked, atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("in hand", locked, flush=True)
    sys.stdin.readline()
"""
TRY = """
import sys
from pathlib import Path
from milsurv.storage.locks import remove_abandoned, try_lock
if len(sys.argv) > 2:
    remove_abandoned(Path(sys.argv[2]))
with try_lock(Path(sys.argv[1])) as locked:
    print(locked)
"""
COUNT = """
import sys
from pathlib import Path
from milsurv.storage.locks import try_lock
counter = Path(sys.argv[1])
added = 0
while added < 200:
    with try_lock(counter) as locked:
        if locked:
            counter.write_text(str(int(counter.read_text()) + 1))
            added += 1
"""
BEAT = """
import os, sys
from pathlib import Path
from milsurv.storage import locks
locks.HEARTBEAT_SECONDS = 0.01
with locks.try_lock(Path(sys.argv[1])):
    (path,) = Path(sys.argv[1]).parent.glob(".*.lease")
    os.utime(path, (0, 0))
    while path.stat().st_mtime == 0:
        pass
"""


@contextmanager
def _holder(artifact: Path, locks: Locks) -> Iterator[subprocess.Popen[str]]:
    """A process that has locked the artifact and writes it."""
    command = [sys.executable, "-c", HOLD, str(artifact)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=locks
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in hand True\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _try(artifact: Path, locks: Locks, *sweep: Path) -> str:
    command = [sys.executable, "-c", TRY, str(artifact), *map(str, sweep)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=locks)
    return done.stdout.strip()


def _make_older(folder: Path, seconds: float) -> None:
    for path in hidden_files(folder):
        before = path.stat().st_mtime - seconds
        os.utime(path, (before, before))


@LOCKS
def test_what_a_living_process_has_in_hand_is_left_to_it(locks: Locks, tmp_path: Path) -> None:
    artifact = tmp_path / "folder" / "slide.h5"
    with _holder(artifact, locks) as holder:
        assert _try(artifact, locks, tmp_path) == "False"
        assert _try(tmp_path / "folder" / "other.h5", locks) == "True"
        assert len(hidden_files(tmp_path)) == 3
        holder.communicate("\n")
    assert artifact.read_text() == "half"
    assert hidden_files(tmp_path) == []
    assert _try(artifact, locks) == "True"


@LOCKS
def test_the_lock_of_a_killed_process_is_free_at_once(locks: Locks, tmp_path: Path) -> None:
    with _holder(tmp_path / "slide.h5", locks) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert len(hidden_files(tmp_path)) == 3
    assert _try(tmp_path / "slide.h5", locks) == "True"
    assert _try(tmp_path / "other.h5", locks, tmp_path) == "True"
    assert list(tmp_path.iterdir()) == []


def test_a_lease_expires_when_its_holder_no_longer_touches_it(tmp_path: Path) -> None:
    """As that of a process which was killed on another machine."""
    with _holder(tmp_path / "slide.h5", forbid_flock) as holder:
        holder.send_signal(signal.SIGSTOP)
        _make_older(tmp_path, LEASE_SECONDS / 2)
        assert _try(tmp_path / "slide.h5", forbid_flock, tmp_path) == "False"
        assert len(hidden_files(tmp_path)) == 3
        _make_older(tmp_path, LEASE_SECONDS / 2 + 1)
        assert _try(tmp_path / "slide.h5", forbid_flock, tmp_path) == "True"
        assert list(tmp_path.iterdir()) == []


def test_without_flock_a_living_process_renews_its_lease(tmp_path: Path) -> None:
    """The process sets its lease's time to 1970, and ends when its heartbeat has set it anew."""
    command = [sys.executable, "-c", BEAT, str(tmp_path / "slide.h5")]
    subprocess.run(command, check=True, preexec_fn=forbid_flock, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_no_two_processes_hold_one_try_lock(tmp_path: Path) -> None:
    """They add to one counter without any other protection, while others sweep."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(counter)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    while any(process.poll() is None for process in processes):
        remove_abandoned(tmp_path)
    assert [process.returncode for process in processes] == [0] * 4
    assert counter.read_text() == "800"
    assert list(tmp_path.iterdir()) == [counter]


def test_a_lock_is_released_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), try_lock(tmp_path / "slide.h5"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 252 + ".h5")
    with try_lock(path) as locked, atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert locked
    assert path.read_text() == "whole"


def test_other_hidden_files_are_not_touched(tmp_path: Path) -> None:
    others = {".keep", ".mine.tmp", ".mine.lock", "milsurv-table.tmp", ".milsurv-notes"}
    for name in others:
        (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others
