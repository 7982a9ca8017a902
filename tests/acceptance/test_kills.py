"""A run that is killed again and again, at random moments, ends as an undisturbed one."""

from __future__ import annotations

import json
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


def test_a_killed_run_goes_on_under_other_evaluation_settings(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    """The fold that was finished is not trained again, and the one under way goes on from its state."""
    config = write_config(training={"epochs": 60, "batch_cases": 4, "standardize": True})
    command = [sys.executable, "-m", "milsurv", "run", str(config), "--quiet"]
    runs = tmp_path / "workspace" / "runs" / "small"
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while not list(runs.glob("*/seed_1/fold_1/state.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (killed,) = runs.iterdir()
    other = ["--set", "evaluation.times=[7, 21]"]
    subprocess.run([*command, *other], cwd=tmp_path, check=True)
    subprocess.run([*command, *other, "--set", "name=undisturbed"], cwd=tmp_path, check=True)
    (resumed,) = (path for path in runs.iterdir() if path != killed)
    (undisturbed,) = (runs.parent / "undisturbed").iterdir()
    events = [json.loads(line) for line in (resumed / "events.jsonl").read_text().splitlines()]
    epochs = [(event["fold"], event["epoch"]) for event in events if event["event"] == "epoch"]
    assert {fold for fold, _ in epochs} <= {1, 2}
    assert (resumed / "metrics.json").read_bytes() == (undisturbed / "metrics.json").read_bytes()
    for fold in range(3):
        for name in ("model.safetensors", "predictions.csv", "history.csv"):
            inner = Path("seed_1") / f"fold_{fold}" / name
            assert (resumed / inner).read_bytes() == (undisturbed / inner).read_bytes()
    assert not list(resumed.rglob("*state.safetensors"))


def _artifacts(workspace: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "predictions.csv", "history.csv", "metrics.json", "splits.csv")
    found = {str(p.relative_to(workspace)): p.read_bytes() for n in names for p in workspace.rglob(n)}
    assert len(found) == 3 * 3 + 3
    return found
