from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator

from milsurv.evaluation.risk_groups import risk_groups


def rows(time: list[float], event: list[int], high: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"time": time, "event": event, "risk": high, "high_risk": high})


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
