"""A cohort of 100 slides whose extraction is killed again and again gives the bytes of an undisturbed one."""

from __future__ import annotations

import math
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
MOST_ARTIFACTS, LONGEST_WAIT = 3, 0.3
"""A start is killed up to 0.3 s after the first to third artifact that it adds: no machine is too fast for 20 kills."""


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


def _run(config: Path, workspace: Path, chance: random.Random | None = None) -> bool:
    """Whether the run came to its end: chance, if given, says after how many artifacts and seconds it is killed."""
    artifacts = chance.randint(1, MOST_ARTIFACTS) if chance else math.inf
    before = _artifacts(workspace)
    process = start_milsurv("run", config, "--workspace", workspace, "--quiet", cwd=config.parent)
    while chance and process.poll() is None:
        if len(_artifacts(workspace) - before) >= artifacts:
            time.sleep(chance.uniform(0, LONGEST_WAIT))
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode == 0


def test_a_cohort_killed_at_random_moments_ends_with_the_same_bytes(config: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    workspace, undisturbed = tmp_path / "workspace", tmp_path / "undisturbed"
    kills = 0
    while not _run(config, workspace, chance):
        kills += 1
    assert kills >= KILLS
    assert _run(config, undisturbed)
    features = features_of(workspace)
    assert len(features) == SLIDES
    assert len({content["20x/features"] for content in features.values()}) == SLIDES
    assert features == features_of(undisturbed)
    assert results_of(workspace) == results_of(undisturbed)
    assert hidden_files(workspace) == []
    print(f"killed {kills} times")
