"""A cohort of 100 slides whose extraction is killed again and again gives the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.command import features_of, hidden_files, results_of, start_milsurv
from tests.conftest import small_config
from tests.slides.make_slides import with_tissue, write_slide

pytestmark = pytest.mark.acceptance
SLIDES = 100
PX = 1500
KILLS = 20
LONGEST_WAIT = 1.5
"""Seconds from a start's first new artifact to its end, at most."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "slides").mkdir()
    picture = with_tissue(PX, PX, [(100, 100, 1300, 1300)])
    rows = []
    for number in range(SLIDES):
        darker = np.maximum(picture, 100) - np.uint8(number)
        write_slide(tmp_path / "slides" / f"S{number:03d}.svs", darker, mpp=0.5, downsamples=(1, 4))
        rows.append((f"P{number // 2:02d}", f"S{number:03d}", 5 + number // 2, int(number // 2 % 3 > 0)))
    columns = ["case_id", "slide_id", "time", "event"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "follow_up.csv", index=False)
    settings = small_config(tmp_path / "workspace", tmp_path) | {
        "splits": {"folds": 2},
        "training": {"epochs": 1, "batch_cases": 4},
        "evaluation": {"bootstraps": 0},
        "executor": {"workers": 2},
    }
    path = tmp_path / "cohort.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _artifacts(workspace: Path) -> set[Path]:
    names = ("*.h5", "model.safetensors", "predictions.csv", "report.html")
    return {path for name in names for path in workspace.rglob(name)}


def _run(config: Path, workspace: Path, kill_after: float | None) -> bool:
    """Whether the run came to its end: it is killed some seconds after the first artifact that it adds."""
    before = _artifacts(workspace)
    process = start_milsurv("run", config, "--workspace", workspace, "--quiet", cwd=config.parent)
    while kill_after is not None and process.poll() is None:
        if _artifacts(workspace) - before:
            time.sleep(kill_after)
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode == 0


def test_a_cohort_killed_at_random_moments_ends_with_the_same_bytes(config: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    workspace, undisturbed = tmp_path / "workspace", tmp_path / "undisturbed"
    kills = 0
    while not _run(config, workspace, rng.uniform(0, LONGEST_WAIT)):
        kills += 1
    assert kills >= KILLS
    assert _run(config, undisturbed, None)
    features = features_of(workspace)
    assert len(features) == SLIDES
    assert len({content["20x/features"] for content in features.values()}) == SLIDES
    assert features == features_of(undisturbed)
    assert results_of(workspace) == results_of(undisturbed)
    assert hidden_files(workspace) == []
    print(f"killed {kills} times")
