"""Baselines of a run: fitted once on training cases, whatever the model, and said everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from milsurv.aggregators.cox_regression import fit_components_cox
from milsurv.config.loading import load_config
from milsurv.evaluation.baselines import predict_survival
from milsurv.runs.pipeline import RunResult
from milsurv.storage.checksums import write_checked
from milsurv.training.data import TrainingCase
from milsurv.training.mean_features import (
    MeanFeaturesFold,
    fit_mean_features,
    pool_features,
    read_risks,
    save_pooled,
)
from milsurv.training.seeds import seed_of
from tests.command import run_milsurv
from tests.conftest import WriteConfig
from tests.contexts import on_cpu
from tests.report.page import Page
from tests.sessions import run


def _run(config_file: Path, *overrides: str, only_fold: int | None = None) -> RunResult:
    config, registry = load_config(str(config_file), overrides)
    return run(config, registry, only_fold)


def _means(features: Path, case: str) -> np.ndarray[Any, Any]:
    """Read without milsurv: the mean over slides of the slides' mean features, the finest magnification first."""
    slides = []
    for path in sorted(features.glob(f"{case}-*.h5")):
        with h5py.File(path) as file:
            groups = sorted((name for name in file if name.endswith("x")), key=lambda name: -int(name[:-1]))
            slides.append(
                np.concatenate([file[name]["features"][:].astype(float).mean(0) for name in groups])
            )
    return np.asarray(np.mean(slides, axis=0))


def test_a_run_from_the_command_line_tells_of_its_baselines(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    done = run_milsurv("run", write_config(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "baseline, Cox model of mean features, on the same folds:" in done.stdout
    assert "fitting baselines" in done.stdout
    folder = next((tmp_path / "workspace" / "runs" / "small").iterdir())
    (found,) = json.loads((folder / "metrics.json").read_text())["baselines"]
    assert (found["name"], found["cases"]) == ("mean_features", 15)
    c_index = found["baseline"]["harrell_c_index"]["value"]
    difference = found["differences"]["harrell_c_index"]["value"]
    page = Page(folder / "report.html")
    assert f"Baseline, Cox model of mean features: Harrell's C {c_index:.3f}" in page.text
    warning = "the model does not beat the baseline 'Cox model of mean features'"
    assert (warning in " ".join(done.stderr.split())) == (difference <= 0)
    assert ("Not better than a baseline." in page.text) == (difference <= 0)
    assert "baselines-caption" in page.source
    assert "cross-validated partial likelihood" in page.text

    rows = pd.read_csv(folder / "baselines.csv", dtype={"case_id": str})
    splits = pd.read_csv(folder / "splits.csv", dtype={"case_id": str})
    follow_up = pd.read_csv(folder / "predictions.csv").set_index("case_id")
    features = next((tmp_path / "workspace" / "features").iterdir())
    assert rows["baseline"].unique().tolist() == ["mean_features"]
    for fold, of_fold in rows.groupby("fold"):
        split = splits[splits["fold"] == fold].set_index("case_id")["role"]
        train = sorted(split.index[split != "test"])
        known = follow_up.loc[train]
        model = fit_components_cox(
            np.stack([_means(features, case) for case in train]).astype(np.float32).astype(float),
            known["time"].to_numpy(float),
            known["event"].to_numpy() == 1,
            seed_of("mean_features", fold),
        )
        assert sorted(of_fold["case_id"]) == sorted(split.index[split == "test"])
        tested = np.stack([_means(features, case) for case in of_fold["case_id"]])
        np.testing.assert_allclose(of_fold["risk"], model.risk(tested), rtol=1e-3, atol=1e-3)


def test_they_are_fitted_once_for_all_models(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(training={"epochs": 1}, evaluation={"bootstraps": 0})
    first = _run(config, only_fold=1)
    (baseline,) = (tmp_path / "workspace" / "baselines").iterdir()
    assert sorted(path.name for path in baseline.glob("*.csv")) == ["fold_1.csv"]
    assert [c["cases"] for c in first.metrics["baselines"]] == [first.metrics["pooled"][0]["cases"]]
    risks = read_risks(baseline / "fold_1.csv")
    write_checked(baseline / "fold_1.csv", risks.assign(risk=-risks["risk"]).to_csv(index=False))

    whole = _run(config)
    rows = pd.read_csv(whole.folder / "baselines.csv", dtype={"case_id": str})
    again = rows[rows["fold"] == 1].set_index("case_id")["risk"]
    kept = risks[risks["role"] == "test"].set_index("case_id")["risk"]
    pd.testing.assert_series_equal(again, -kept, check_names=False)
    before = {path: path.stat().st_mtime_ns for path in baseline.iterdir()}
    other = _run(config, "loss={name: cox}", "evaluation.times=[3]")
    assert other.folder != whole.folder
    assert {path: path.stat().st_mtime_ns for path in baseline.iterdir()} == before
    assert "survival_at_3" in pd.read_csv(other.folder / "baselines.csv").columns

    without = _run(config, "baselines=[]")
    assert without.metrics["baselines"] == []
    assert without.folder.name.split("-")[0] == whole.folder.name.split("-")[0]
    assert not (without.folder / "baselines.csv").exists()
    assert without.report is not None
    assert "Baseline" not in Page(without.report).text


def test_missing_clinical_values_are_left_out(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(small_cohort / "follow_up.csv")
    ages = {case: 40 + 3 * number for number, case in enumerate(table["case_id"].unique())}
    table["age"] = table["case_id"].map(ages).astype(object)
    table.loc[table["case_id"] == "P03", "age"] = ""
    table.to_csv(tmp_path / "ages.csv", index=False)
    config = write_config(
        cohort={"table": str(tmp_path / "ages.csv"), "slides": str(small_cohort / "slides")},
        training={"epochs": 1},
        evaluation={"bootstraps": 5, "clinical": ["age"]},
    )
    result = _run(config)
    mean_features, clinical = result.metrics["baselines"]
    assert (mean_features["cases"], clinical["cases"], clinical["excluded"]) == (15, 14, 1)
    rows = pd.read_csv(result.folder / "baselines.csv", dtype={"case_id": str})
    assert "P03" not in set(rows["case_id"][rows["baseline"] == "clinical"])
    (compared,) = result.metrics["clinical"]
    value = compared["harrell_c_index"]["clinical"]["value"]
    assert clinical["baseline"]["harrell_c_index"]["value"] == pytest.approx(value)


def test_test_cases_do_not_change_the_fit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cases = tuple(TrainingCase(f"C{i}", float(i + 1), int(i % 3 > 0), ()) for i in range(30))
    features = random.normal(size=(30, 20))
    tables = []
    for number, factor in enumerate((1, 100)):
        pooled = tmp_path / f"{number}.safetensors"
        tested = np.vstack([features[:20], factor * features[20:]])
        save_pooled(pooled, [case.case_id for case in cases], tested)
        job = MeanFeaturesFold(0, tmp_path / f"{number}.csv", pooled, cases[:20], cases[20:])
        assert fit_mean_features(on_cpu(), job) is None
        tables.append(read_risks(job.path))
    first, second = (table[table["role"] == "train"] for table in tables)
    pd.testing.assert_frame_equal(first, second)
    one, other = (predict_survival(table, [5.0])["risk"].to_numpy() for table in tables)
    assert not np.allclose(one, other)


def test_a_fold_without_events_has_a_reason(tmp_path: Path) -> None:
    cases = tuple(TrainingCase(f"C{i}", float(i + 1), 0, ()) for i in range(10))
    save_pooled(tmp_path / "pooled.safetensors", [case.case_id for case in cases], np.eye(10))
    job = MeanFeaturesFold(2, tmp_path / "fold.csv", tmp_path / "pooled.safetensors", cases[:8], cases[8:])
    assert "fold 2: a Cox model of mean features needs" in str(fit_mean_features(on_cpu(), job))
    assert not job.path.exists()


def test_cases_are_reported_while_they_are_pooled(small_run: Path) -> None:
    features = next((small_run.parents[2] / "features").iterdir())
    slides = tuple((name, features / f"{name}.h5") for name in ("P02-1", "P02-2"))
    events: list[Any] = []
    pooled = pool_features(on_cpu(events.append), [TrainingCase("P02", 1.0, 1, slides)])
    np.testing.assert_allclose(pooled[0], _means(features, "P02"))
    assert [event["event"] for event in events] == ["pooled"]
