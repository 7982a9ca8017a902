from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2
from sksurv.compare import compare_survival
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.nonparametric import kaplan_meier_estimator

from milsurv.evaluation import risk_groups as tested_risk_groups

compare_risk_groups: Any = tested_risk_groups.compare_risk_groups
risk_groups: Any = tested_risk_groups.risk_groups
"""Typed loosely, to index what may be None."""


def rows(time: list[float], event: list[int], high: list[int], fold: int | list[int] = 0) -> pd.DataFrame:
    return pd.DataFrame({"fold": fold, "time": time, "event": event, "risk": high, "high_risk": high})


@pytest.mark.parametrize("seed", range(4))
def test_curves_agree_with_scikit_survival(study: Callable[..., Any], seed: int) -> None:
    predictions = study(seed, cases=80).predictions
    groups = risk_groups(predictions)
    for name, code in (("high", 1), ("low", 0)):
        members = predictions[predictions["high_risk"] == code]
        time, survival, (lower, upper) = kaplan_meier_estimator(
            members["event"] == 1, members["time"], conf_type="log-log"
        )
        curve = groups[name]["kaplan_meier"]
        dead = np.isin(time, members["time"][members["event"] == 1])
        at = np.isin(curve["time"], time[dead])
        assert np.array(curve["time"])[at] == pytest.approx(time[dead])
        for key, oracle in (("survival", survival), ("lower", lower), ("upper", upper)):
            assert np.array(curve[key])[at] == pytest.approx(oracle[dead], rel=1e-5, abs=1e-6), key
        assert (curve["time"][0], curve["survival"][0]) == (0, 1)
        assert curve["time"][-1] == members["time"].max()
        assert groups[name]["at_risk"][0] == groups[name]["cases"] == len(members)
        assert groups[name]["events"] == members["event"].sum()


@pytest.mark.parametrize("seed", range(4))
def test_log_rank_agrees_with_scikit_survival(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int
) -> None:
    predictions = study(seed, cases=80).predictions
    _, oracle = compare_survival(
        structured(predictions["event"], predictions["time"]), predictions["high_risk"]
    )
    assert risk_groups(predictions)["log_rank_p_value"]["value"] == pytest.approx(oracle, rel=1e-9)


def test_median_survival_and_numbers_at_risk() -> None:
    groups = risk_groups(rows([1, 2, 3, 4, 10, 10], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]))
    assert groups["high"]["median_survival"]["value"] == 2
    assert groups["low"]["median_survival"]["value"] is None
    assert "above one half" in groups["low"]["median_survival"]["reason"]
    assert groups["at_risk_times"] == [0, 2, 4, 6, 8, 10]
    assert groups["high"]["at_risk"] == [4, 3, 1, 0, 0, 0]
    assert groups["low"]["at_risk"] == [2] * 6


def test_cases_without_a_finite_risk_are_counted_not_grouped() -> None:
    predictions = rows([1, 2, 3], [1, 1, 1], [1, 0, 0]).assign(risk=[1.0, 0.0, np.nan])
    groups = risk_groups(predictions)
    assert (groups["high"]["cases"], groups["low"]["cases"], groups["ungrouped"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("predictions", "reason"),
    [
        (rows([1, 2], [1, 1], [1, 1]), "no cases at low risk"),
        (rows([1, 2], [1, 1], [0, 0]), "no cases at high risk"),
        (rows([1, 2, 3], [0, 0, 0], [0, 1, 1]), "no events"),
        (rows([1, 5, 6], [0, 1, 1], [0, 1, 1]), "no event while cases of both groups"),
        (rows([1, 1], [1, 1], [0, 1]), "no event while cases of both groups"),
    ],
)
def test_no_log_rank_without_a_comparison(predictions: pd.DataFrame, reason: str) -> None:
    groups = risk_groups(predictions)
    assert groups["log_rank_p_value"]["value"] is None
    assert reason in groups["log_rank_p_value"]["reason"]
    json.dumps(groups, allow_nan=False)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("folds", [1, 4])
def test_log_rank_sums_what_scikit_survival_finds_in_each_fold(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int, folds: int
) -> None:
    predictions = study(seed, cases=120, folds=folds).predictions
    excess = variance = 0.0
    for _, rows in predictions.groupby("fold"):
        _, _, stats, covariance = compare_survival(
            structured(rows["event"], rows["time"]), rows["high_risk"], return_stats=True
        )
        excess += stats["observed"].iloc[0] - stats["expected"].iloc[0]
        variance += covariance[0, 0]
    result = compare_risk_groups(predictions)["log_rank_p_value"]
    assert result["value"] == pytest.approx(chi2.sf(excess**2 / variance, 1), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_hazard_ratio_of_one_fold_agrees_with_scikit_survival(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int
) -> None:
    rows = study(seed, cases=100).predictions
    oracle = CoxPHSurvivalAnalysis(ties="efron").fit(
        rows[["high_risk"]].to_numpy(float), structured(rows["event"], rows["time"])
    )
    result = compare_risk_groups(rows)["hazard_ratio"]
    assert result["value"] == pytest.approx(np.exp(oracle.coef_[0]), rel=1e-4)
    low, high = result["interval"]
    assert low < result["value"] < high
    assert np.sqrt(low * high) == pytest.approx(result["value"])


def minus_log_likelihood(beta: float, predictions: pd.DataFrame) -> float:
    """Stratified partial likelihood of the groups, death by death; without ties."""
    total = 0.0
    for _, rows in predictions.groupby("fold"):
        for _, dead in rows[rows["event"] == 1].iterrows():
            at_risk = rows[rows["time"] >= dead["time"]]
            total += np.log(np.exp(beta * at_risk["high_risk"]).sum()) - beta * dead["high_risk"]
    return total


@pytest.mark.parametrize("seed", range(3))
def test_hazard_ratio_maximises_the_likelihood_stratified_by_fold(
    study: Callable[..., Any], seed: int
) -> None:
    predictions = study(seed, cases=90, folds=3, ties=False).predictions
    best = minimize_scalar(
        lambda beta: minus_log_likelihood(beta, predictions), bounds=(-4, 4), method="bounded"
    )
    step = 1e-3
    around = [minus_log_likelihood(best.x + d, predictions) for d in (-step, 0, step)]
    error = step / np.sqrt(around[0] - 2 * around[1] + around[2])
    result = compare_risk_groups(predictions)["hazard_ratio"]
    assert np.log(result["value"]) == pytest.approx(best.x, abs=1e-4)
    expected = best.x + 1.959964 * error * np.array([-1, 1])
    assert np.log(result["interval"]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("predictions", "reason"),
    [
        (rows([1, 2], [1, 1], [1, 1]), "no cases at low risk"),
        (rows([1, 2], [1, 1], [0, 0]), "no cases at high risk"),
        (rows([1, 2, 3], [0, 0, 0], [0, 1, 1]), "no events"),
        (rows([1, 2, 1, 2], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]), "no event "),
        (rows([1, 1], [1, 1], [0, 1]), "no event "),
        (rows([], [], []), "no cases at high risk"),
    ],
)
def test_neither_without_a_comparison(predictions: pd.DataFrame, reason: str) -> None:
    for metric in compare_risk_groups(predictions).values():
        assert metric["value"] is None
        assert reason in metric["reason"]


@pytest.mark.parametrize(
    ("high", "reason"),
    [
        ([*12 * [1], *3 * [0]], "no case at low risk dies while the other group is at risk"),
        ([*12 * [0], *3 * [1]], "no case at high risk dies while the other group is at risk"),
    ],
)
def test_no_ratio_of_groups_that_do_not_overlap(high: list[int], reason: str) -> None:
    result = compare_risk_groups(rows([*range(1, 13), 20, 20, 20], [*12 * [1], 0, 0, 0], high))
    assert result["hazard_ratio"]["value"] is None
    assert reason in result["hazard_ratio"]["reason"]
    assert result["log_rank_p_value"]["value"] is not None
    json.dumps(result, allow_nan=False)


def test_no_ratio_of_two_events() -> None:
    result = compare_risk_groups(rows([1, 2, 3, 4], [1, 1, 0, 0], [1, 0, 1, 0]))["hazard_ratio"]
    assert result["value"] is None
    assert "too few events while both groups are at risk: 2, at least 10 required" in result["reason"]


def test_folds_that_tell_nothing_change_nothing(study: Callable[..., Any]) -> None:
    predictions = study(0, cases=80, folds=2).predictions
    silent = rows([1, 2, 3, 4, 4, 5], [0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [5, 5, 6, 6, 6, 7])
    infinite = rows([1, 2], [1, 1], [0, 1], 8).assign(risk=np.nan)
    both = compare_risk_groups(pd.concat([predictions, silent, infinite]))
    for name, metric in compare_risk_groups(predictions).items():
        assert both[name]["value"] == pytest.approx(metric["value"])
