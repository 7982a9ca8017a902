"""Several runs on one workspace at the same time, and runs that were killed there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.command import features_of, forbid_flock, hidden_files, results_of, run_milsurv, start_milsurv
from tests.conftest import COLOUR_BACKBONE, DATA, WriteConfig, small_config

pytestmark = pytest.mark.acceptance

SLIDES = 17
STAGED = {
    "plugins": [str(COLOUR_BACKBONE), str(DATA / "plugins" / "staged_reader.py")],
    "reader": {"name": "staged"},
    "splits": {"folds": 2},
    "training": {"epochs": 2, "batch_cases": 4},
    "evaluation": {"bootstraps": 0},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> Path:
    """The workspace of an undisturbed run."""
    folder = tmp_path_factory.mktemp("alone")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(folder / "workspace", small_cohort) | STAGED))
    done = run_milsurv("run", config, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(features_of(folder / "workspace")) == SLIDES
    return folder / "workspace"


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("locks", [None, forbid_flock], ids=["flock", "no flock"])
def test_two_runs_share_the_work_and_end_with_the_same_bytes(
    locks: Callable[[], None] | None, alone: Path, write_config: WriteConfig, tmp_path: Path
) -> None:
    """Each run waits in its first slide for the other to be in one, too."""
    config = write_config(**STAGED)
    stage = tmp_path / "stage"
    environment = {"STAGE": str(stage), "STAGE_MEET": "2"}
    runs = [
        start_milsurv("run", config, cwd=tmp_path, environment=environment, preexec_fn=locks)
        for _ in range(2)
    ]
    for process in runs:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    lines = [line.split(" ", 1) for line in stage.read_text().splitlines()]
    assert {int(driver) for driver, _ in lines} == {process.pid for process in runs}
    assert Counter(slide for _, slide in lines).most_common(1)[0][1] == 1
    assert len(lines) == SLIDES
    (events,) = (tmp_path / "workspace" / "runs").rglob("events.jsonl")
    heard = Counter(json.loads(line)["event"] for line in events.read_text().splitlines())
    assert heard["fold finished"] == 2
    assert hidden_files(tmp_path / "workspace") == []
    assert features_of(tmp_path / "workspace") == features_of(alone)
    assert results_of(tmp_path / "workspace") == results_of(alone)


def test_what_a_killed_run_had_in_hand_is_free_at_once(write_config: WriteConfig, tmp_path: Path) -> None:
    """One run hangs in its first slides, another does the rest and waits for them; the first is killed."""
    config = write_config(**STAGED)
    stage, output = tmp_path / "stage", tmp_path / "output"
    environment = {"STAGE": str(stage), "STAGE_BLOCK": "1"}
    two_workers = ["--set", "executor.workers=2"]
    hanging = start_milsurv("run", config, *two_workers, cwd=tmp_path, environment=environment)
    _wait_for(lambda: stage.exists() and len(stage.read_text().splitlines()) == 2, hanging)
    in_hand = {line.split(" ", 1)[1] for line in stage.read_text().splitlines()}
    with output.open("w") as file:
        waiting = start_milsurv("run", config, cwd=tmp_path, stdout=file)
        _wait_for(lambda: output.read_text().count("which another run is working on") == 2, waiting)
    done = {path.stem for path in (tmp_path / "workspace").rglob("*.h5")}
    assert len(done) == SLIDES - 2
    assert not done & in_hand
    assert all(f"waiting for {slide}, which" in output.read_text() for slide in in_hand)
    _kill(hanging)
    _, errors = waiting.communicate()
    assert waiting.returncode == 0, errors
    assert len(features_of(tmp_path / "workspace")) == SLIDES
    assert hidden_files(tmp_path / "workspace") == []


def test_a_run_killed_among_its_slides_goes_on(
    alone: Path, write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(**STAGED)
    process = start_milsurv("run", config, "--set", "executor.workers=2", cwd=tmp_path)
    workspace = tmp_path / "workspace"
    _wait_for(lambda: any(workspace.rglob("*.h5")), process)
    _kill(process)
    killed = {path: path.stat().st_mtime_ns for path in workspace.rglob("*.h5")}
    again = run_milsurv("run", config, "--set", "executor.workers=2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in killed} == killed
    assert hidden_files(workspace) == []
    assert features_of(workspace) == features_of(alone)
    assert results_of(workspace) == results_of(alone)
