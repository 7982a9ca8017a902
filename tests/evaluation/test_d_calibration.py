from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.interpolate import interp1d
from scipy.stats import chisquare

from milsurv.evaluation import d_calibration as tested_d_calibration
from milsurv.evaluation.d_calibration import bin_counts, survival_at_exit

d_calibration: Any = tested_d_calibration.d_calibration
"""Typed loosely, to index what may be None."""


def spread_by_many_points(survival: np.ndarray, died: np.ndarray) -> np.ndarray:
    """A censored case as a hundred thousand parts that die at even steps of survival down to 0."""
    parts = (np.arange(100_000) + 0.5) / 100_000
    counts = np.histogram(survival[died], bins=10, range=(0, 1))[0].astype(float)
    for s in survival[~died]:
        counts += np.histogram(s * parts, bins=10, range=(0, 1))[0] / parts.size
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_censored_cases_are_spread_evenly_over_what_is_left(study: Callable[..., Any], seed: int) -> None:
    (s,) = study(seed, cases=80).strata
    survival, died = survival_at_exit(s)
    counts = spread_by_many_points(survival, died)
    assert bin_counts(survival, died) == pytest.approx(counts, abs=2e-3)
    result = d_calibration([s])
    oracle = chisquare(counts)
    assert result["statistic"] == pytest.approx(oracle.statistic, rel=1e-2)
    assert result["value"] == pytest.approx(oracle.pvalue, rel=1e-2)
    assert result["degrees_of_freedom"] == 9
    assert result["bins"] == pytest.approx(counts / 80, abs=1e-4)


def test_folds_add_their_counts(study: Callable[..., Any]) -> None:
    strata = study(1, cases=90, folds=3).strata
    counts = sum(spread_by_many_points(*survival_at_exit(s)) for s in strata)
    assert d_calibration(strata)["bins"] == pytest.approx(counts / 90, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_survival_is_interpolated_from_one_and_followed_no_further_than_the_last_time(
    study: Callable[..., Any], seed: int
) -> None:
    (s,) = study(seed, ties=False).strata
    survival, died = survival_at_exit(s)
    times = sorted(s.survival)
    for i, time in enumerate(s.time):
        curve = interp1d([0, *times], [1, *(s.survival[t][i] for t in times)])
        assert survival[i] == pytest.approx(curve(min(time, times[-1])), rel=1e-12)
        assert died[i] == (s.event[i] and time <= times[-1])
    assert died.sum() < s.event.sum()


def test_a_true_model_passes_and_a_wrong_one_fails(study: Callable[..., Any]) -> None:
    made = study(0, cases=1000, times=(5.0,))
    (s,) = made.strata
    rng = np.random.default_rng(3)
    hazard, censoring = np.exp(rng.normal(-2.5, 0.5, 1000)), rng.exponential(30, 1000)
    death = rng.exponential(1 / hazard)
    time, event = np.minimum(death, censoring), death <= censoring
    grid = np.linspace(0.1, 60, 600)

    def with_hazard(factor: float) -> Any:
        survival = {float(t): np.exp(-factor * hazard * t) for t in grid}
        return replace(s, time=time, event=event, survival=survival)

    assert d_calibration([with_hazard(1.0)])["value"] > 0.05
    assert d_calibration([with_hazard(2.0)])["value"] < 1e-6


def test_edges_of_the_bins() -> None:
    survival = np.array([0.0, 0.1, 0.95, 1.0, 0.0, 1.0])
    died = np.array([True, True, True, True, False, False])
    assert bin_counts(survival, died) == pytest.approx([2.1, 1.1, *7 * [0.1], 2.1])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_every_case_counts_once(rows: list[tuple[float, bool]]) -> None:
    survival, died = (np.array(column) for column in zip(*rows, strict=True))
    counts = bin_counts(survival, died)
    assert counts.sum() == pytest.approx(len(rows))
    assert (counts >= 0).all()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda made: made.with_predictions(event=0), "no events"),
        (
            lambda made: made.with_predictions(event=[1, 1, *58 * [0]]),
            "too few events: 2, at least 10 required",
        ),
        (
            lambda made: replace(made, predictions=made.predictions[:49]),
            "too few cases: 49, at least 50 required (10 bins of 5)",
        ),
        (lambda made: made.with_predictions(survival_at_5=np.nan), "60 of 60 cases is not within"),
        (lambda made: replace(made, times=replace(made.times, times=(), integration=())), "no evaluation"),
    ],
)
def test_null_with_a_reason(study: Callable[..., Any], spoil: Callable[[Any], Any], reason: str) -> None:
    result = d_calibration(spoil(study(0, times=(5.0,))).strata)
    assert reason in result["reason"]
    assert {result[name] for name in ("value", "interval", "statistic", "bins")} == {None}
    json.dumps(result, allow_nan=False)
