"""Baselines: their survival, and the paired differences to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milsurv.evaluation.baselines import Baseline, predict_survival
from milsurv.evaluation.compare import compare
from milsurv.evaluation.evaluate import evaluate
from tests.evaluation.conftest import Study

HARRELL = "harrell_c_index"


def _rows(study: Study, noise: float) -> pd.DataFrame:
    """Predictions of a baseline: the risks of the study and noise."""
    risk = study.predictions["risk"] + noise * np.random.default_rng(9).normal(size=len(study.predictions))
    return study.predictions.drop(columns=["seed", "high_risk", "standardized_risk"]).assign(risk=risk)


def _compared(study: Study, *baselines: Baseline) -> Any:
    found = evaluate(study.predictions, study.training, study.times, study.settings, baselines=baselines)
    return found["baselines"]


def test_differences_are_those_of_a_paired_comparison(study: Callable[..., Study]) -> None:
    made = study(folds=3, bootstraps=200)
    rows = _rows(made, 2.0)
    (found,) = _compared(made, Baseline("mean_features", rows))
    (pair,) = compare({"model": made.predictions, "baseline": rows}, 200, made.settings.seed)["pairs"]
    assert found["differences"][HARRELL] == pair["difference"]
    results = made.evaluated()
    assert found["model"][HARRELL] == results["pooled"][0]["metrics"][HARRELL]
    assert found["baseline"].keys() == results["pooled"][0]["metrics"].keys() - {"truncated"}
    assert (found["seed"], found["cases"], found["excluded"]) == (7, 60, 0)
    difference = found["model"][HARRELL]["value"] - found["baseline"][HARRELL]["value"]
    assert found["differences"][HARRELL]["value"] == pytest.approx(difference)
    assert not any("kaplan_meier" in name for name in found["differences"])


def test_a_baseline_like_the_model_differs_by_nothing(study: Callable[..., Study]) -> None:
    made = study(folds=2, bootstraps=50)
    (found,) = _compared(made, Baseline("mean_features", _rows(made, 0.0)))
    for metric in found["differences"].values():
        assert metric["value"] in (0.0, None)
        assert metric["interval"] in ([0.0, 0.0], None)


def test_the_model_is_compared_on_the_cases_that_the_baseline_predicts(study: Callable[..., Study]) -> None:
    made = study(bootstraps=50)
    some = _rows(made, 1.0).iloc[:40]
    (found,) = _compared(made, Baseline("clinical", some))
    assert (found["cases"], found["excluded"]) == (40, 20)
    on_these = evaluate(made.predictions.iloc[:40], made.training, made.times, made.settings)
    assert found["model"][HARRELL] == on_these["pooled"][0]["metrics"][HARRELL]


def test_the_reason_stands_in_place_of_every_metric(study: Callable[..., Study]) -> None:
    (found,) = _compared(study(), Baseline("clinical", None, "fold 1: too few events"))
    assert (found["cases"], found["events"], found["excluded"]) == (0, 0, 60)
    for of in ("baseline", "model", "differences"):
        for metric in found[of].values():
            assert metric["value"] is None
            assert metric["reason"] == "fold 1: too few events"


def test_several_seeds_are_compared_as_their_ensemble(study: Callable[..., Study]) -> None:
    made = study(bootstraps=20)
    other = made.predictions.assign(seed=8, risk=made.predictions["risk"] * 3)
    together = pd.concat([made.predictions, other])
    found = evaluate(
        together,
        made.training,
        made.times,
        made.settings,
        baselines=[Baseline("mean_features", _rows(made, 1.0))],
    )
    assert found["ensemble"] is not None
    (comparison,) = found["baselines"]
    assert comparison["seed"] is None
    assert comparison["model"][HARRELL] == found["ensemble"]["metrics"][HARRELL]


def test_cases_of_several_folds_have_no_intervals(study: Callable[..., Study]) -> None:
    made = study(folds=2, bootstraps=50)
    twice = pd.concat([made.predictions, made.predictions.assign(fold=1 - made.predictions["fold"])])
    rows = twice.drop(columns=["seed", "high_risk", "standardized_risk"])
    found = evaluate(
        twice, made.training, made.times, made.settings, baselines=[Baseline("mean_features", rows)]
    )["baselines"][0]
    assert found["cases"] == 60
    assert found["differences"][HARRELL]["interval"] is None
    assert "several folds" in str(found["differences"][HARRELL]["reason"])


def test_survival_is_breslows() -> None:
    random = np.random.default_rng(0)
    n = 50
    risks = pd.DataFrame(
        {
            "case_id": [f"C{i}" for i in range(n)],
            "role": ["train"] * 40 + ["test"] * 10,
            "time": random.exponential(10, n).round(),
            "event": (random.random(n) < 0.6).astype(int),
            "risk": random.normal(size=n),
        }
    )
    train, test = risks[:40], risks[40:]
    for t in (2.0, 7.5, 30.0):
        hazard = sum(
            1 / np.exp(train["risk"][train["time"] >= time]).sum()
            for time, event in zip(train["time"], train["event"], strict=True)
            if event and time <= t
        )
        predicted = predict_survival(risks, [2.0, 7.5, 30.0])
        expected = np.exp(-hazard * np.exp(test["risk"]))
        np.testing.assert_allclose(predicted[f"survival_at_{t:g}"], expected)
        assert predicted["case_id"].tolist() == test["case_id"].tolist()
