from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.executors.backlog import ENDINGS

ROOT = Path(__file__).parents[2]
SAID = {
    "full disk": "OSError: [Errno 28] No space left on device",
    "SIGINT": "Interrupted: SIGINT",
    "SIGTERM": "Interrupted: SIGTERM",
    "SIGHUP": "Interrupted: SIGHUP",
    "error in a worker": "RuntimeError: a worker's error",
    "killed worker": "MilsurvError: noisy: its worker process died 3 times (SIGKILL), perhaps because memory ran out; "
    "finished work is kept: run the same command again, with fewer executor.workers if memory is short",
    "deaf worker": "Interrupted: SIGTERM",
}


def _stop(folder: Path, *endings: str) -> list[str]:
    """What the driver says of each ending in turn; a driver that hangs fails."""
    command = [sys.executable, "-m", "tests.executors.backlog", str(folder), *endings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_driver_that_stops_amid_a_backlog_of_events_ends(tmp_path: Path) -> None:
    endings = ("full disk", "SIGTERM")
    assert _stop(tmp_path, *endings) == [f"{ending}: {SAID[ending]}; 0 workers left" for ending in endings]


@pytest.mark.acceptance
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_amid_a_backlog(ending: str, tmp_path: Path) -> None:
    assert _stop(tmp_path, ending) == [f"{ending}: {SAID[ending]}; 0 workers left"]
