from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from milsurv.errors import MilsurvError
from milsurv.report.gallery import DPI, FIGURES, caption, description, draw, save_figures
from milsurv.report.results import RunResults
from milsurv.storage.checksums import write_checked
from tests.report.make_run import make_config, make_follow_up, make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an optimistic run, without its report."""
    workspace = tmp_path_factory.mktemp("workspace")
    config = make_config(workspace, training={"epochs": 12, "selection": "reported_fold"})
    make_run(workspace / "run", config, make_follow_up(40, 2))
    return workspace / "run"


@pytest.fixture(scope="module")
def results(folder: Path) -> RunResults:
    return RunResults.read(folder)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_described_and_marked(name: str, results: RunResults) -> None:
    figure = draw(name, results)
    assert figure.axes
    assert "optimistic" in [text.get_text() for text in figure.texts]
    for said in (description(name, results), caption(name, results)):
        assert said.endswith(".")
        assert "nan" not in said


def test_figures_are_described_by_their_numbers(results: RunResults) -> None:
    metrics = results.first_seed["metrics"]
    auc = metrics[f"area_under_roc_at_{results.metrics['times'][0]:g}"]["value"]
    assert f"Area under the ROC curve {auc:.3f} (" in description("performance_over_time", results)


def test_an_unknown_name_is_told_the_nearest(results: RunResults) -> None:
    with pytest.raises(
        MilsurvError, match=r"did you mean 'calibration'.*available: kaplan_meier, calibration"
    ):
        draw("calibrations", results)


def test_png_has_three_hundred_dots_per_inch(results: RunResults, tmp_path: Path) -> None:
    paths = save_figures(results, tmp_path / "new" / "folder", "png")
    assert [path.name for path in paths] == [f"{name}.png" for name in FIGURES]
    for path, name in zip(paths, FIGURES, strict=True):
        picture = cv2.imread(str(path))
        assert picture is not None
        width, height = draw(name, results).get_size_inches() * DPI
        assert np.abs(np.array(picture.shape[:2]) - (height, width)).max() <= 1


def test_pdf_is_the_same_each_time(results: RunResults, tmp_path: Path) -> None:
    first, second = (save_figures(results, tmp_path / name, "pdf") for name in "ab")
    for one, other in zip(first, second, strict=True):
        content = one.read_bytes()
        assert content.startswith(b"%PDF")
        assert content == other.read_bytes()


def test_a_run_that_is_not_finished_is_one_line(tmp_path: Path) -> None:
    make_run(tmp_path / "run", make_config(tmp_path), make_follow_up(20, 2))
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(
        MilsurvError, match=r"no finished run is here \(no metrics.json\); run its milsurv command"
    ):
        RunResults.read(tmp_path / "run")


def test_a_run_of_an_earlier_milsurv_shows_its_stated_times(tmp_path: Path) -> None:
    make_run(tmp_path / "run", make_config(tmp_path), make_follow_up(40, 2))
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    for account in metrics["pooled"]:
        del account["over_time"]
    write_checked(path, json.dumps(metrics))
    above, _ = draw("performance_over_time", RunResults.read(tmp_path / "run")).axes
    assert len(above.lines) == 2 + 2 * len(metrics["times"])
