"""A run that is killed again and again, at random moments, ends as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import WriteConfig

pytestmark = pytest.mark.acceptance
KILLS = 6


def test_random_kills_change_no_byte(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(training={"epochs": 40, "batch_cases": 4, "standardize": True})
    command = [sys.executable, "-m", "milsurv", "run", str(config), "--quiet", "--set", "executor.workers=2"]
    rng = random.Random(11)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
        time.sleep(rng.uniform(3, 14))
        if process.poll() is None:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert killed > 0
    subprocess.run(command, cwd=tmp_path, check=True)
    undisturbed = tmp_path / "undisturbed"
    subprocess.run([*command, "--workspace", str(undisturbed)], cwd=tmp_path, check=True)
    assert _artifacts(tmp_path / "workspace") == _artifacts(undisturbed)
    print(f"killed {killed} times")


def _artifacts(workspace: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "predictions.csv", "history.csv", "metrics.json", "splits.csv")
    found = {str(p.relative_to(workspace)): p.read_bytes() for n in names for p in workspace.rglob(n)}
    assert len(found) == 3 * 3 + 3
    return found
