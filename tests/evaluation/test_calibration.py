from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sksurv.nonparametric import kaplan_meier_estimator

from milsurv.evaluation import calibration as tested_calibration
from milsurv.evaluation.brier import censoring_weighted
from milsurv.evaluation.calibration import calibration_slope
from milsurv.evaluation.intervals import NotComputableError
from milsurv.evaluation.strata import Stratum

calibration_at: Any = tested_calibration.calibration_at
"""Typed loosely, to index what may be None."""

T = 5.0


def slope_by_maximisation(strata: list[Stratum], row: int = 0) -> float:
    """The weighted binomial likelihood, maximised without derivatives."""
    x = np.concatenate([np.log(-np.log(s.survival[T])) for s in strata])
    dead = np.concatenate([censoring_weighted(s, T)[0] for s in strata])
    weight = np.concatenate([censoring_weighted(s, T)[1] * s.counts[row] for s in strata])

    def loss(parameters: np.ndarray) -> float:
        alive = np.exp(-np.exp(parameters[0] + parameters[1] * x))
        return -float(np.sum(weight * np.where(dead, np.log1p(-alive), np.log(alive))))

    tolerances = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000}
    return float(minimize(loss, [0.1, 0.5], method="Nelder-Mead", options=tolerances).x[1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("folds", [1, 3])
def test_slope_maximises_the_weighted_likelihood(study: Callable[..., Any], seed: int, folds: int) -> None:
    strata = study(seed, cases=120, folds=folds, bootstraps=3, times=(T,)).strata
    slopes = calibration_slope(strata, T)
    oracle = [slope_by_maximisation(strata, row) for row in range(4)]
    assert slopes == pytest.approx(oracle, rel=1e-5)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_slope_answers_the_scale_of_the_predictions(study: Callable[..., Any], factor: float) -> None:
    strata = study(0, cases=120, times=(T,)).strata
    log_hazard = np.log(-np.log(strata[0].survival[T]))
    scaled = [replace(strata[0], survival={T: np.exp(-np.exp(0.3 + factor * log_hazard))})]
    assert calibration_slope(scaled, T)[0] * factor == pytest.approx(
        calibration_slope(strata, T)[0], rel=1e-6
    )


def test_slope_of_the_true_model_is_one(study: Callable[..., Any]) -> None:
    made = study(0, cases=6000, ties=False, times=(T,))
    rng = np.random.default_rng(1)
    hazard = np.exp(rng.normal(-2, 1, 6000))
    death = rng.exponential(1 / hazard)
    out = rng.exponential(9, 6000)
    known = made.with_predictions(
        time=np.minimum(death, out), event=(death <= out).astype(int), survival_at_5=np.exp(-T * hazard)
    )
    assert calibration_slope(known.strata, T)[0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("cases", "groups"), [(90, 5), (34, 3)])
def test_observed_survival_agrees_with_scikit_survival(
    study: Callable[..., Any], seed: int, cases: int, groups: int
) -> None:
    made = study(seed, cases=cases, folds=2, times=(T,))
    result = calibration_at(made.strata, T)["groups"]
    rows = made.predictions.sort_values("survival_at_5")
    assert len(result) == groups
    start = 0
    for group in result:
        members = rows.iloc[start : start + group["cases"]]
        start += group["cases"]
        assert group["predicted"] == pytest.approx(members["survival_at_5"].mean())
        assert group["events"] == ((members["event"] == 1) & (members["time"] <= T)).sum()
        time, survival, (low, high) = kaplan_meier_estimator(
            members["event"] == 1, members["time"], conf_type="log-log"
        )
        last = np.searchsorted(time, T, side="right") - 1
        observed = group["observed"]
        if observed["value"] is not None:
            assert observed["value"] == pytest.approx(survival[last])
        if observed["interval"] is not None:
            assert observed["interval"] == pytest.approx([low[last], high[last]], rel=1e-6)
        assert observed["interval"] or observed["reason"]
    assert start == cases
    assert [g["predicted"] for g in result] == sorted(g["predicted"] for g in result)


def constant(made: Any) -> Any:
    return made.with_predictions(survival_at_5=0.5)


def certain(made: Any) -> Any:
    return made.with_predictions(
        survival_at_5=made.predictions["survival_at_5"].where(lambda s: s.index > 1, 1)
    )


def two_events(made: Any) -> Any:
    return made.with_predictions(event=[1, 1, *58 * [0]], time=[1, 2, *58 * [9]])


def separated(made: Any) -> Any:
    died = np.arange(60) < 30
    return made.with_predictions(
        event=died.astype(int), time=np.where(died, 3, 9), survival_at_5=0.9 - 0.5 * died
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda made: made.with_predictions(event=0), "no events"),
        (lambda made: made.with_predictions(time=2.0), "no case is followed beyond 5"),
        (lambda made: made.with_predictions(survival_at_5=np.nan), "60 of 60 cases is not within"),
        (constant, "all cases have the same predicted survival"),
        (certain, "the survival of 2 of 60 cases is exactly 0 or 1"),
        (two_events, "too few events by 5: 2, at least 10 required"),
        (separated, "no finite maximum"),
    ],
)
def test_no_slope_without_a_reason(
    study: Callable[..., Any], spoil: Callable[[Any], Any], reason: str
) -> None:
    strata = spoil(study(0, bootstraps=5, times=(T,))).strata
    with pytest.raises(NotComputableError, match=reason):
        calibration_slope(strata, T)
    result = calibration_at(strata, T)
    assert reason in result["slope"]["reason"]
    json.dumps(result, allow_nan=False)


def test_groups_that_tell_nothing_say_why(study: Callable[..., Any]) -> None:
    made = study(0, times=(T,))
    few = calibration_at(replace(made, predictions=made.predictions[:19]).strata, T)
    assert few["groups"] == []
    assert "too few cases: 19, at least 20 required for two groups" in few["groups_reason"]
    (one,) = calibration_at(constant(made).strata, T)["groups"]
    assert one["cases"] == 60
    unfollowed = calibration_at(made.with_predictions(time=2.0, event=0).strata, T)["groups"]
    assert {g["observed"]["reason"] for g in unfollowed} == {"no case of the group is followed to 5"}
    alive = calibration_at(made.with_predictions(time=9.0, event=0).strata, T)["groups"]
    assert {g["observed"]["reason"] for g in alive} == {"no interval: no case died by 5"}
    dead = calibration_at(made.with_predictions(time=3.0, event=1).strata, T)["groups"]
    assert {(g["observed"]["value"], g["observed"]["reason"]) for g in dead} == {
        (0.0, "no interval: every case died by 5")
    }
