"""A scenario by the real command, from its bank to the report; killed again and again, it ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from milsurv.config.loading import load_config
from milsurv.features.arranged import Arranged
from milsurv.progress import RunProgress
from milsurv.runs.inputs import feature_source
from milsurv.runs.session import open_session
from milsurv.synthetic.bank import picture_path
from milsurv.synthetic.pyramid import write_pyramid
from tests.command import features_of, hidden_files, results_of, run_milsurv, start_milsurv
from tests.conftest import small_config
from tests.slides.make_slides import with_tissue

pytestmark = pytest.mark.acceptance
KILLS = 6
PICTURE_PX = 512
"""Side of pictures in place of those of the bank, which take minutes to draw: 2 × 2 blocks of patches of 64 px."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    content = small_config(tmp_path / "workspace", tmp_path) | {
        "cohort": {"source": "synthetic", "scenario": "joint", "cases": 24, "patches": 256, "seed": 9001},
        "executor": {"workers": 2},
    }
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _draw_pictures(config: Path, workspace: Path) -> None:
    loaded, registry = load_config(str(config), [f"workspace={workspace}"])
    with open_session(loaded, registry, RunProgress(quiet=True)) as session:
        source = feature_source(session)
    assert isinstance(source, Arranged)
    for seed, picture in enumerate(source.pictures):
        drawn = with_tissue(PICTURE_PX, PICTURE_PX, [(20, 20, 470, 470)], seed=seed)
        write_pyramid(drawn, picture_path(picture, source.pictures_folder))


def _content(workspace: Path) -> dict[str, object]:
    arranged = {str(p.relative_to(workspace)): p.read_bytes() for p in workspace.rglob("*.blocks")}
    tables = {str(p.relative_to(workspace)): p.read_bytes() for p in workspace.rglob("cohort.csv")}
    return {**features_of(workspace), **results_of(workspace), **arranged, **tables}


def test_a_scenario_killed_at_random_moments_ends_with_the_same_bytes(config: Path, tmp_path: Path) -> None:
    workspace, undisturbed = tmp_path / "workspace", tmp_path / "undisturbed"
    rng, killed = random.Random(3), 0
    for folder in (workspace, undisturbed):
        _draw_pictures(config, folder)
    for _ in range(KILLS):
        process = start_milsurv("run", config, "--quiet", cwd=tmp_path, stdout=subprocess.DEVNULL)
        before = len([*workspace.rglob("*.h5"), *workspace.rglob("*.blocks")])
        added = before + rng.randint(1, 30)
        while (
            process.poll() is None and len([*workspace.rglob("*.h5"), *workspace.rglob("*.blocks")]) < added
        ):
            time.sleep(0.01)
        if process.poll() is None:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert killed >= KILLS // 2
    for folder in (workspace, undisturbed):
        done = run_milsurv("run", config, "--quiet", "--workspace", folder, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert _content(workspace) == _content(undisturbed)
    assert hidden_files(workspace) == []


def test_the_commands_work_on_a_scenario(config: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    _draw_pictures(config, workspace)

    def milsurv(*arguments: object, status: int = 0) -> str:
        done = run_milsurv(*arguments, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    assert "'scenario' is ready to run" in milsurv("check", config)
    output = milsurv("run", config)
    assert "Harrell's C of the true risk" in output
    assert "valid" in milsurv("features", "verify", workspace)
    plugin = ("--plugin", yaml.safe_load(config.read_text())["plugins"][0])
    (run,) = (workspace / "runs" / "scenario").iterdir()
    slide = min(workspace.rglob("*.blocks"))
    assert "used in training" in milsurv("predict", run, slide, *plugin)
    assert "without a picture" in milsurv("heatmap", run, slide.stem, *plugin, status=2)
    assert milsurv("predict", run, slide.parent, "--output", tmp_path / "all.csv", *plugin)
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 25
