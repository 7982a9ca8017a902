from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sksurv.nonparametric import CensoringDistributionEstimator

from milsurv.evaluation.strata import TrainingFollowUp, censoring_weights, resample_counts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [True, False])
def test_weights_agree_with_scikit_survival(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int, ties: bool
) -> None:
    (s,) = study(seed, ties=ties).strata
    oracle = CensoringDistributionEstimator().fit(structured(s.training.event, s.training.time))
    times = np.concatenate([s.time, s.training.time, [0.001, 0.5, 999.0, 1000.0]])
    assert censoring_weights(s.training, times) == pytest.approx(1 / oracle.predict_proba(times), rel=1e-6)


def test_times_that_single_precision_would_merge_stay_apart() -> None:
    training = TrainingFollowUp(np.array([1000.00001, 1000.00002, 1000.00003]), np.array([0, 0, 1]))
    assert censoring_weights(training, training.time) == pytest.approx([3 / 2, 3, 3], rel=1e-6)


def test_weights_are_undefined_where_nobody_is_left_uncensored_or_followed() -> None:
    censored_last = TrainingFollowUp(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 0]))
    weights = censoring_weights(censored_last, np.array([0.5, 2.0, 3.0, 4.0]))
    assert weights == pytest.approx([1, 2, np.nan, np.nan], nan_ok=True)
    died_last = TrainingFollowUp(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 1]))
    weights = censoring_weights(died_last, np.array([3.0, 3.5]))
    assert weights == pytest.approx([2, np.nan], nan_ok=True)
    nobody_died = TrainingFollowUp(np.array([1.0, 2.0]), np.array([0, 0]))
    assert np.isnan(censoring_weights(nobody_died, np.array([0.5]))).all()


def test_counts_are_those_of_the_drawn_cases() -> None:
    counts = resample_counts(9, 50, np.random.default_rng(4))
    drawn = np.random.default_rng(4).integers(9, size=(50, 9))
    assert (counts[0] == 1).all()
    for row, cases in zip(counts[1:], drawn, strict=True):
        np.testing.assert_array_equal(row, np.bincount(cases, minlength=9))


def test_a_case_predicted_twice_is_refused(study: Callable[..., Any]) -> None:
    made = study(0, folds=2)
    with pytest.raises(ValueError, match="'same' is predicted more than once"):
        _ = made.with_predictions(case_id="same").strata
