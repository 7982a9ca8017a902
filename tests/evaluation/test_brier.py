from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lifelines import KaplanMeierFitter
from sksurv.metrics import brier_score as brier_of_scikit_survival
from sksurv.metrics import integrated_brier_score as integrated_of_scikit_survival
from sksurv.nonparametric import kaplan_meier_estimator
from torchsurv.metrics.brier_score import BrierScore

from milsurv.evaluation.brier import (
    brier_score,
    brier_score_kaplan_meier,
    index_of_prediction_accuracy,
)
from milsurv.evaluation.intervals import NotComputableError
from milsurv.evaluation.strata import TrainingFollowUp

SINGLE_PRECISION = 1e-6
"""torchsurv's censoring weights have seven digits."""


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ties", [True, False])
def test_agrees_with_scikit_survival_and_torchsurv(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int, ties: bool
) -> None:
    made = study(seed, ties=ties)
    (s,) = made.strata
    times = [t for t in made.times.all if t >= s.time.min()]
    survival = np.column_stack([s.survival[t] for t in times])
    follow_up = structured(s.training.event, s.training.time), structured(s.event, s.time)
    values = [brier_score([s], t)[0] for t in times]
    assert values == pytest.approx(
        brier_of_scikit_survival(*follow_up, survival, times)[1], rel=SINGLE_PRECISION
    )
    whole = brier_score([s], times)[0]
    oracle = integrated_of_scikit_survival(*follow_up, survival, times)
    assert whole == pytest.approx(oracle, rel=SINGLE_PRECISION)
    by_torchsurv = BrierScore()(
        torch.from_numpy(survival),
        torch.from_numpy(s.event),
        torch.from_numpy(s.time).float(),
        torch.tensor(times),
        torch.from_numpy(np.nan_to_num(s.weight)),
        torch.tensor([s.weight_at[t] for t in times]),
    )
    assert values == pytest.approx(by_torchsurv.numpy(), rel=SINGLE_PRECISION)


def test_reference_is_the_survival_of_the_training_cases(study: Callable[..., Any]) -> None:
    made = study(1, folds=2)
    grid = made.times.integration
    filled = []
    for s in made.strata:
        curve = KaplanMeierFitter().fit(s.training.time, s.training.event)
        filled.append(replace(s, survival={t: np.full(len(s.time), curve.predict(t)) for t in grid}))
    value = brier_score_kaplan_meier(made.strata, grid)
    assert value == pytest.approx(brier_score(filled, grid), rel=1e-12)
    value = brier_score_kaplan_meier(made.strata, grid[3])
    assert value == pytest.approx(brier_score(filled, grid[3]), rel=1e-12)
    assert index_of_prediction_accuracy(filled, grid)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_index_of_prediction_accuracy_by_the_scores_of_scikit_survival(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int
) -> None:
    (s,) = study(seed, ties=False).strata
    times = [t for t in s.survival if t >= s.time.min()]
    follow_up = structured(s.training.event, s.training.time), structured(s.event, s.time)
    at, survival_of_all = kaplan_meier_estimator(s.training.event == 1, s.training.time)
    reference = np.tile(
        [np.append(1.0, survival_of_all)[np.searchsorted(at, t, side="right")] for t in times],
        (len(s.time), 1),
    )
    survival = np.column_stack([s.survival[t] for t in times])
    ours, of_all = (brier_of_scikit_survival(*follow_up, p, times)[1] for p in (survival, reference))
    values = [index_of_prediction_accuracy([s], [t])[0] for t in times]
    assert values == pytest.approx(1 - ours / of_all, rel=1e-4, abs=SINGLE_PRECISION)
    whole = [integrated_of_scikit_survival(*follow_up, p, times) for p in (survival, reference)]
    assert index_of_prediction_accuracy([s], times)[0] == pytest.approx(
        1 - whole[0] / whole[1], rel=1e-4, abs=SINGLE_PRECISION
    )


def test_nothing_is_gained_on_a_reference_without_error(study: Callable[..., Any]) -> None:
    (s,) = study(0, times=(5.0,)).strata
    outlived = TrainingFollowUp(np.array([50.0, 60.0]), np.array([1, 1]))
    late = replace(s, time=s.time + 10, training=outlived)
    with pytest.raises(NotComputableError, match="Kaplan-Meier is 0"):
        index_of_prediction_accuracy([late], [5.0])


def test_pooled_is_the_mean_over_all_cases_each_with_the_weights_of_its_fold(
    study: Callable[..., Any],
) -> None:
    made = study(2, cases=61, folds=3)
    strata, grid = made.strata, made.times.integration
    sizes = [len(s.time) for s in strata]
    by_fold = [brier_score([s], grid)[0] for s in strata]
    assert brier_score(strata, grid)[0] == pytest.approx(np.average(by_fold, weights=sizes), rel=1e-12)


def test_one_case_and_a_fold_without_events_count_in_the_pool(study: Callable[..., Any]) -> None:
    made = study(2, cases=40, folds=2)
    first, second = made.strata
    alone = replace(
        second,
        time=np.array([50.0]),
        event=np.array([False]),
        survival={t: np.array([0.25]) for t in second.survival},
        weight=np.array([1.0]),
        counts=np.ones((1, 1)),
    )
    t = made.times.times[0]
    expected = (brier_score([first], t)[0] * 20 + 0.75**2 * second.weight_at[t]) / 21
    assert brier_score([first, alone], t)[0] == pytest.approx(expected, rel=1e-12)


def test_bootstrap_is_the_score_of_the_resampled_rows(study: Callable[..., Any]) -> None:
    made = study(3, cases=45, folds=3, bootstraps=20)
    strata, grid = made.strata, made.times.integration
    values = brier_score(strata, grid)
    for row in range(1, 21):
        redrawn = []
        for s in strata:
            rows = np.repeat(np.arange(len(s.time)), s.counts[row].astype(int))
            survival = {t: s.survival[t][rows] for t in grid}
            fields = {name: getattr(s, name)[rows] for name in ("time", "event", "risk", "weight")}
            redrawn.append(replace(s, survival=survival, counts=np.ones((1, len(rows))), **fields))
        assert values[row] == pytest.approx(brier_score(redrawn, grid)[0], rel=1e-12)
