"""A trained model on slides: the run's own numbers for its cases, the mean of all models for others, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milsurv.errors import MilsurvError
from milsurv.features.store import read_bag
from milsurv.models.prediction import ModelPredictions, SlidePrediction, combine, median_survival
from milsurv.models.trained import TrainedModel, load_trained
from milsurv.storage.checksums import write_checked
from milsurv.storage.run_files import FEATURES
from milsurv.training.model import load_model
from tests.command import run_milsurv
from tests.conftest import COLOUR_BACKBONE
from tests.sessions import predict_slides


@pytest.fixture
def trained(small_run: Path, tmp_path: Path) -> TrainedModel:
    return load_trained(small_run, [f"workspace={tmp_path / 'workspace'}"], [COLOUR_BACKBONE])


@pytest.fixture
def new_slide(small_cohort: Path, tmp_path: Path) -> Path:
    """A slide of nobody in training: the pixels of one of theirs in another file."""
    path = tmp_path / "N1.svs"
    path.write_bytes((small_cohort / "slides" / "P00-1.svs").read_bytes() + b"end")
    return path


def predict(trained: TrainedModel, *paths: Path) -> list[SlidePrediction]:
    return predict_slides(trained, paths)


def test_slides_of_training_get_the_numbers_that_the_run_reported(
    trained: TrainedModel, small_run: Path, small_cohort: Path
) -> None:
    reported = pd.read_csv(small_run / "predictions.csv", dtype={"case_id": str})
    names = ["P00-1", "P04-1", "P08-1"]
    predictions = predict(trained, *(small_cohort / "slides" / f"{name}.svs" for name in names))
    for name, prediction in zip(names, predictions, strict=True):
        of_case = reported[reported["case_id"] == name[:3]]
        row = prediction.row
        assert row["models"] == 2
        assert row["risk"] == pytest.approx(of_case["standardized_risk"].mean(), rel=1e-6)
        assert row["risk_lowest"] == pytest.approx(of_case["standardized_risk"].min(), rel=1e-6)
        assert row["risk_sd"] == pytest.approx(of_case["standardized_risk"].std(), rel=1e-6)
        columns = [f"survival_at_{t:g}" for t in trained.times]
        assert [row[c] for c in columns] == pytest.approx(of_case[columns].mean().tolist(), rel=1e-6)
        assert f"fold {of_case['fold'].iloc[0]}, which" in row["note"]


def test_a_new_slide_is_judged_by_all_models(trained: TrainedModel, new_slide: Path) -> None:
    (prediction,) = predict(trained, new_slide)
    risks = []
    for model in trained.models:
        network, loss, about, _ = load_model(model.file, trained.registry, "cpu")
        risk = loss.risk(network(read_bag(prediction.features))[None]).item()
        risks.append((risk - about["high_risk_above"]) / about["risk_deviation"])
    row = prediction.row
    assert row["models"] == len(risks) == 6
    assert row["risk"] == pytest.approx(np.mean(risks), rel=1e-5)
    assert row["risk_sd"] == pytest.approx(np.std(risks, ddof=1), rel=1e-5)
    assert (row["risk_lowest"], row["risk_highest"]) == pytest.approx((min(risks), max(risks)), rel=1e-5)
    assert row["high_risk"] == (np.mean(risks) > 0)
    assert row["note"] is None


def test_slides_come_in_their_order_and_what_cannot_be_read_says_why(
    trained: TrainedModel, new_slide: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "broken.svs").write_text("this is no slide")
    shutil.copy(new_slide, folder / "N2.svs")
    predictions = predict(trained, folder, new_slide)
    assert [prediction.slide.slide_id for prediction in predictions] == ["N2", "broken", "N1"]
    broken = predictions[1]
    assert broken.overlap is None
    assert broken.row["models"] == 0
    assert broken.row["risk"] is None
    assert "cannot be opened" in broken.row["note"]
    assert predictions[0].row["risk"] == predictions[2].row["risk"]


def test_two_slides_of_one_name_are_refused(trained: TrainedModel, new_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = shutil.copy(new_slide, tmp_path / "other" / "N1.svs")
    with pytest.raises(
        MilsurvError, match=r"other/N1\.svs: has the same slide id, N1, as .*N1\.svs; .* rename one"
    ):
        predict(trained, new_slide, Path(twin))


def test_another_slides_features_are_not_replaced(trained: TrainedModel, new_slide: Path) -> None:
    (prediction,) = predict(trained, new_slide)
    before = prediction.features.read_bytes()
    new_slide.write_bytes(new_slide.read_bytes() + b"changed")
    with pytest.raises(
        MilsurvError, match=r"holds the features of another slide named N1.* another --workspace"
    ):
        predict(trained, new_slide)
    assert prediction.features.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("backbone.weights", "sha256:other", "backbone weights was sha256:other and is none"),
        ("tiling.patch_px", 256, "tiling patch_px was 256 and is 64"),
        (
            "tiling.magnifications",
            [40, 10, 5],
            r"tiling magnifications was \[40, 10, 5\] and is \[20, 10, 5\]",
        ),
    ],
)
def test_other_weights_or_resolution_are_refused_by_name(
    small_run: Path, new_slide: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    folder = shutil.copytree(small_run, tmp_path / "run")
    content = json.loads((folder / FEATURES).read_text())
    section, _, name = key.partition(".")
    content[section][name] = value
    write_checked(folder / FEATURES, json.dumps(content))
    trained = load_trained(folder, [f"workspace={tmp_path / 'workspace'}"], [COLOUR_BACKBONE])
    with pytest.raises(MilsurvError, match=said):
        predict(trained, new_slide)
    assert not list(tmp_path.glob("workspace/features/*/*.h5"))


def test_precision_alone_is_no_other_feature(small_run: Path, new_slide: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_run, tmp_path / "run")
    content = json.loads((folder / FEATURES).read_text())
    write_checked(folder / FEATURES, json.dumps({**content, "precision": "bfloat16"}))
    trained = load_trained(folder, [f"workspace={tmp_path / 'workspace'}"], [COLOUR_BACKBONE])
    assert predict(trained, new_slide)[0].row["models"] == 6


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.1, 100))
def test_the_median_is_where_the_curve_crosses_one_half(steps: list[float], last: float) -> None:
    survival = np.minimum.accumulate(np.array([1.0, *steps]))
    times = np.linspace(0, last, len(survival))
    median = median_survival(times, survival)
    if survival[-1] > 0.5:
        assert np.isnan(median)
    else:
        assert np.interp(median, times, survival) == pytest.approx(0.5, abs=1e-6)
        assert (survival[times < median - 1e-9 * last] > 0.5).all()


def test_the_command_writes_the_table_and_says_what_could_not_be_judged(
    small_run: Path, new_slide: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.svs").write_text("this is no slide")
    command = (
        "predict",
        small_run,
        new_slide,
        "broken.svs",
        "--workspace",
        "ws",
        "--plugin",
        COLOUR_BACKBONE,
    )
    done = run_milsurv(*command, "--heatmaps", "-o", "out/predictions.csv", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    drawn = tmp_path / "out" / "heatmaps"
    assert [folder.name for folder in drawn.iterdir()] == ["N1"]
    assert {"heatmap.png", "gallery.png", "patches.geojson"} <= {
        file.name for file in (drawn / "N1").iterdir()
    }
    assert table["slide_id"].tolist() == ["N1", "broken"]
    assert table["models"].tolist() == [6, 0]
    assert table["risk"].isna().tolist() == [False, True]
    assert f"{table['risk'][0]:.2f}" in done.stdout
    assert "broken is excluded: cannot be opened" in done.stderr


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_judgements_are_combine_case_by_case(cases: int, models: int, seed: int) -> None:
    """Against a search through every judgement for each case; every case is judged by the first model at least."""
    rng = np.random.default_rng(seed)
    times, curve = (3.0, 7.5), np.linspace(0, 10, 5)
    ids = [f"case {number}" for number in rng.permutation(cases)]
    judgements = []
    for model in range(models):
        mine = tuple(case_id for case_id in rng.permutation(ids).tolist() if model == 0 or rng.random() < 0.5)
        survival = np.sort(rng.random((len(mine), len(times) + len(curve))))[:, ::-1]
        judgements.append(ModelPredictions(mine, rng.normal(size=len(mine)), survival))
    table = combine(ids, judgements, times, curve)
    assert table["case_id"].tolist() == ids
    for row, at_times in zip(
        table.itertuples(), table[["survival_at_3", "survival_at_7.5"]].to_numpy(), strict=True
    ):
        found = [(j, j.case_ids.index(str(row.case_id))) for j in judgements if row.case_id in j.case_ids]
        risks = [j.risk[at] for j, at in found]
        mean = np.mean([j.survival[at] for j, at in found], axis=0)
        assert row.models == len(found)
        assert (row.risk, row.risk_lowest, row.risk_highest) == (np.mean(risks), min(risks), max(risks))
        assert row.high_risk == (np.mean(risks) > 0)
        np.testing.assert_equal(row.risk_sd, np.std(risks, ddof=1) if len(risks) > 1 else np.nan)
        np.testing.assert_equal(at_times, mean[:2])
        np.testing.assert_equal(row.median_survival, median_survival(curve, mean[2:]))
