"""Scenarios go the whole way of a run: their bank, arrangements, features, training, evaluation and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from milsurv.config.loading import load_config
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.features.arranged import Arranged
from milsurv.features.inventory import problems_of
from milsurv.features.store import MagnificationFeatures, read_bag, write_features
from milsurv.models.heatmap import DrawnSlide
from milsurv.models.trained import load_trained
from milsurv.plugin.registry import Registry
from milsurv.runs.checks import check_run
from milsurv.runs.inputs import feature_source
from milsurv.runs.session import open_session
from tests.conftest import COLOUR_BACKBONE, small_config
from tests.sessions import QUIET, draw_heatmap, find_slide, predict_slides, run


def _source(config: RunConfig, registry: Registry) -> Arranged:
    with open_session(config, registry, QUIET) as session:
        source = feature_source(session)
    assert isinstance(source, Arranged)
    return source


def _config(workspace: Path, *overrides: str, **cohort: Any) -> tuple[RunConfig, Registry]:
    content = small_config(workspace, workspace) | {
        "cohort": {
            "source": "synthetic",
            "scenario": "joint",
            "cases": 24,
            "patches": 256,
            "seed": 9001,
            **cohort,
        }
    }
    path = workspace.parent / "scenario.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(str(path), overrides)


def _write_bank(source: Arranged) -> None:
    """A bank with one block for each picture, whose first two features are its effects, exactly at each scale."""
    rng = np.random.default_rng(9001)
    shown = np.array([[picture.cells, picture.architecture] for picture in source.pictures])
    stored = {}
    for m in source.config.tiling.magnifications:
        features = np.repeat(shown, (m // 5) ** 2, axis=0) + rng.normal(
            0, 0.01, (len(shown) * (m // 5) ** 2, 2)
        )
        stored[m] = MagnificationFeatures(features.astype(np.float16), mpp=10 / m, patch_level0=64 * 20 / m)
    write_features(source.bank, stored, {"pictures": [picture.slide_id for picture in source.pictures]})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Registry, Path]:
    """A finished run of a scenario, and its folder. Do not change it."""
    config, registry = _config(tmp_path_factory.mktemp("scenario") / "workspace")
    _write_bank(_source(config, registry))
    return config, registry, run(config, registry).folder


def test_features_are_valid_and_show_what_the_arrangement_says(
    finished: tuple[RunConfig, Registry, Path],
) -> None:
    config, _, folder = finished
    slides = pd.read_csv(folder / "slides.csv")
    assert (slides["status"] == "used").all()
    assert (slides["patches_20x"] == 256).all()
    for path, file in zip(slides["path"], slides["features"], strict=True):
        assert problems_of(config.workspace / file) == []
        bag = read_bag(config.workspace / file)
        assert bag.sizes == {20: 256, 10: 64, 5: 16}
        assert bag.grid is not None
        at = pd.read_csv(path).set_index(["column", "row"])
        for m, effect in ((20, "cells"), (5, "architecture")):
            blocks = map(tuple, (bag.grid[m] // (m // 5)).tolist())
            shown = np.array([at.loc[place, effect] for place in blocks])
            found = bag.features[m][:, 0 if effect == "cells" else 1].double().numpy()
            np.testing.assert_allclose(found, shown, atol=0.1)


def test_the_run_knows_its_bound_and_has_no_pictures(finished: tuple[RunConfig, Registry, Path]) -> None:
    _, _, folder = finished
    report = (folder / "report.html").read_text()
    assert "Synthetic cohort." in report
    trained = load_trained(folder, plugin_files=[COLOUR_BACKBONE])
    assert trained.warnings == ()
    row = next(iter(trained.slides.values()))
    with pytest.raises(MilsurvError, match="without a picture to draw a heatmap on"):
        find_slide(trained, row["slide_id"])
    (prediction,) = predict_slides(trained, [Path(row["path"])])
    assert prediction.row["models"] == 1
    note = "the same file was used in training: predicted only by the models of fold"
    assert note in prediction.row["note"]
    assert prediction.overlap is not None
    drawn = DrawnSlide(prediction.slide, prediction.features, prediction.overlap)
    with pytest.raises(MilsurvError, match="without a picture"):
        draw_heatmap(trained, drawn, folder)


def test_a_slide_that_is_no_arrangement_is_excluded_from_predictions(
    finished: tuple[RunConfig, Registry, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.blocks"
    other.write_text("nothing")
    (prediction,) = predict_slides(load_trained(finished[2], plugin_files=[COLOUR_BACKBONE]), [other])
    assert prediction.row["note"].startswith("excluded: not an arrangement of blocks")


def test_more_cases_use_the_same_bank_and_features(finished: tuple[RunConfig, Registry, Path]) -> None:
    config, registry, folder = finished
    files = {path: path.stat().st_mtime_ns for path in config.workspace.rglob("*.h5")}
    larger, _ = _config(config.workspace, cases=28)
    again = run(larger, registry).folder
    assert again != folder
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len([*config.workspace.rglob("SYN-*.h5")]) == 28
    few, many = (pd.read_csv(path / "slides.csv")["features"] for path in (folder, again))
    assert set(few) < set(many)


def test_another_seed_has_files_of_its_own(finished: tuple[RunConfig, Registry, Path]) -> None:
    config, registry, _ = finished
    mine = _source(config, registry)
    for other in ({"seed": 9002}, {"scenario": "rare"}, {"patches": 512}):
        source = _source(*_config(config.workspace, **other))
        assert source.folder != mine.folder
        assert source.bank == mine.bank
    assert _source(*_config(config.workspace, scenario="site")).bank != mine.bank
    assert _source(*_config(config.workspace, "tiling.min_tissue=0.9")).bank == mine.bank


def test_a_check_finds_what_a_run_needs_without_making_it(tmp_path: Path) -> None:
    config, registry = _config(tmp_path / "workspace")
    findings = check_run(config, registry)
    assert findings.problems == []
    assert any("24 simulated cases of scenario joint, 256 patches each" in fact for fact in findings.facts)
    assert any(fact.startswith("the drawn slides take at most") for fact in findings.facts)
    assert not (tmp_path / "workspace").exists()
    (problem,) = check_run(*_config(tmp_path / "workspace", "loss.bins=20")).problems
    assert "cannot be divided into 20 bins" in problem
