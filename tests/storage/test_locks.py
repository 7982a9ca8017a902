"""Claims and temporary files: of living processes, of dead ones, with flock and without."""

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
from milsurv.storage.locks import LEASE, claim, remove_abandoned
from tests.command import forbid_flock, hidden_files

Locks = Callable[[], None] | None
LOCKS = pytest.mark.parametrize("locks", [None, forbid_flock], ids=["flock", "no flock"])

HOLD = """
import sys
from pathlib import Path
from milsurv.artifacts import atomic_path
from milsurv.claims import claim
with claim(Path(sys.argv[1])) as claimed, atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("in hand", claimed, flush=True)
    sys.stdin.readline()
"""
TRY = """
import sys
from pathlib import Path
from milsurv.claims import claim, remove_abandoned
if len(sys.argv) > 2:
    remove_abandoned(Path(sys.argv[2]))
with claim(Path(sys.argv[1])) as claimed:
    print(claimed)
"""
COUNT = """
import sys
from pathlib import Path
from milsurv.claims import claim
counter = Path(sys.argv[1])
added = 0
while added < 200:
    with claim(counter) as claimed:
        if claimed:
            counter.write_text(str(int(counter.read_text()) + 1))
            added += 1
"""
BEAT = """
import os, sys
from pathlib import Path
from milsurv import claims
claims.HEARTBEAT = 0.01
with claims.claim(Path(sys.argv[1])):
    (path,) = Path(sys.argv[1]).parent.glob(".*.claim")
    os.utime(path, (0, 0))
    while path.stat().st_mtime == 0:
        pass
"""


@contextmanager
def _holder(artifact: Path, locks: Locks) -> Iterator[subprocess.Popen[str]]:
    """A process that has claimed the artifact and writes it."""
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


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    with _holder(tmp_path / "slide.h5", None) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert len(hidden_files(tmp_path)) == 3
    assert _try(tmp_path / "slide.h5", None) == "True"
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_flock_the_claim_of_a_killed_process_expires(tmp_path: Path) -> None:
    with _holder(tmp_path / "slide.h5", forbid_flock) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    _make_older(tmp_path, LEASE / 2)
    assert _try(tmp_path / "slide.h5", forbid_flock) == "False"
    _make_older(tmp_path, LEASE / 2 + 1)
    assert _try(tmp_path / "slide.h5", forbid_flock) == "True"


def test_without_flock_what_nobody_touches_is_left_behind_after_a_while(tmp_path: Path) -> None:
    with _holder(tmp_path / "slide.h5", forbid_flock) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    _try(tmp_path / "other.h5", forbid_flock, tmp_path)
    assert len(hidden_files(tmp_path)) == 3
    _make_older(tmp_path, LEASE + 1)
    _try(tmp_path / "other.h5", forbid_flock, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_flock_a_living_process_keeps_its_claim_young(tmp_path: Path) -> None:
    """The process sets its claim's time to 1970, and ends when its heartbeat has set it anew."""
    command = [sys.executable, "-c", BEAT, str(tmp_path / "slide.h5")]
    subprocess.run(command, check=True, preexec_fn=forbid_flock, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_no_two_processes_hold_one_claim(tmp_path: Path) -> None:
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


def test_a_claim_is_let_go_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claim(tmp_path / "slide.h5"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 252 + ".h5")
    with claim(path) as claimed, atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert claimed
    assert path.read_text() == "whole"


def test_other_hidden_files_are_not_touched(tmp_path: Path) -> None:
    others = {".keep", ".mine.tmp", ".mine.claim", "milsurv-table.tmp", ".milsurv-notes"}
    for name in others:
        (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others
