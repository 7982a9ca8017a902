from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.config.loading import load_config
from milsurv.errors import MilsurvError
from tests.command import run_milsurv
from tests.conftest import COLOUR_BACKBONE, small_config
from tests.sessions import run

PLUGIN = ("--plugin", str(COLOUR_BACKBONE))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(small_config(folder / "workspace", small_cohort)))
    config, registry = load_config(str(file), ["training.epochs=1"])
    return run(config, registry).folder


def heatmap(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["heatmap", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_files_stand_in_the_runs_folder_and_are_named(finished: Path) -> None:
    printed = heatmap(finished.parent, "P00-1", *PLUGIN)
    folder = finished / "heatmaps" / "P00-1"
    assert printed.splitlines() == [str(path) for path in map(Path, printed.splitlines())]
    assert {Path(line) for line in printed.splitlines()} == set(folder.iterdir())
    assert json.loads((folder / "patches.geojson").read_text())["type"] == "FeatureCollection"


def test_files_stand_where_they_are_asked_for(finished: Path, tmp_path: Path) -> None:
    heatmap(finished, "P01-1", "-o", tmp_path / "here", "--occlusion", "--device", "cpu", *PLUGIN)
    assert (tmp_path / "here" / "occlusion_heatmap.png").is_file()
    assert not (finished / "heatmaps" / "P01-1").exists()


def test_a_run_that_is_not_finished_or_of_another_version(finished: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    (old / "training_slides.csv").unlink()
    with pytest.raises(
        MilsurvError, match=r"training_slides.csv is missing: the run was made by an older milsurv"
    ):
        heatmap(old, "P00-1", *PLUGIN)
    (old / "metrics.json").unlink()
    with pytest.raises(MilsurvError, match=r"no finished run"):
        heatmap(old, "P00-1", *PLUGIN)


def test_what_can_be_mended_is_one_line(finished: Path, tmp_path: Path) -> None:
    done = run_milsurv("heatmap", finished, "P99-1", *PLUGIN, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: slide P99-1: not a file")
