from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from torchsurv.metrics.auc import Auc

from milsurv.config.run import Evaluation
from milsurv.evaluation.concordance import (
    area_under_roc,
    harrell_c_index,
    integrated_area_under_roc,
    truncation,
    uno_c_index,
)
from milsurv.evaluation.intervals import NotComputableError
from milsurv.evaluation.pairs import c_index
from milsurv.evaluation.strata import Stratum, TrainingFollowUp, resample_counts

SINGLE_PRECISION = 1e-6
"""torchsurv's censoring weights have seven digits."""

SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [True, False])
def test_harrell_agrees_with_lifelines_and_scikit_survival(
    study: Callable[..., Any], seed: int, ties: bool
) -> None:
    (s,) = study(seed, ties=ties).strata
    (value,) = harrell_c_index([s])
    assert value == pytest.approx(concordance_index(s.time, -s.risk, s.event), rel=1e-12)
    assert value == pytest.approx(concordance_index_censored(s.event, s.time, s.risk)[0], rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [True, False])
def test_uno_agrees_with_scikit_survival(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int, ties: bool
) -> None:
    (s,) = study(seed, ties=ties).strata
    train = structured(s.training.event, s.training.time)
    oracle = concordance_index_ipcw(train, structured(s.event, s.time), s.risk, tau=truncation(s))[0]
    assert uno_c_index([s])[0] == pytest.approx(oracle, rel=SINGLE_PRECISION)
    assert uno_c_index([s])[0] != harrell_c_index([s])[0]


@pytest.mark.parametrize("tau", [3.0, 6.5, 900.0])
def test_uno_is_truncated_where_it_is_asked_for(
    study: Callable[..., Any], structured: Callable[..., Any], tau: float
) -> None:
    made = study(1, folds=2)
    strata = replace(made, settings=Evaluation(bootstraps=0, truncation=tau)).strata
    for s in strata:
        train = structured(s.training.event, s.training.time)
        oracle = concordance_index_ipcw(train, structured(s.event, s.time), s.risk, tau=tau)[0]
        assert uno_c_index([s])[0] == pytest.approx(oracle, rel=SINGLE_PRECISION)
    assert uno_c_index(strata)[0] == pytest.approx(pairs_by_hand(strata, "uno"), rel=1e-12)


def test_uno_needs_weights_up_to_the_truncation(study: Callable[..., Any]) -> None:
    made = study(1, cases=80)
    training = {0: TrainingFollowUp(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 1, 0, 1]))}
    asked = replace(made, training=training, settings=Evaluation(bootstraps=0, truncation=50.0))
    with pytest.raises(
        NotComputableError, match="undefined at 5: the follow-up of the training cases ends at 4"
    ):
        uno_c_index(asked.strata)
    early = replace(asked, settings=Evaluation(bootstraps=0, truncation=0.5))
    with pytest.raises(NotComputableError, match="no comparable pairs before the truncation time"):
        uno_c_index(early.strata)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [True, False])
def test_auc_agrees_with_scikit_survival_and_torchsurv(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int, ties: bool
) -> None:
    made = study(seed, ties=ties)
    (s,) = made.strata
    times = made.times.times
    values = [area_under_roc([s], t)[0] for t in times]
    train = structured(s.training.event, s.training.time)
    oracle = cumulative_dynamic_auc(train, structured(s.event, s.time), s.risk, times)[0]
    assert values == pytest.approx(oracle, rel=SINGLE_PRECISION)
    by_torchsurv = Auc()(
        torch.from_numpy(s.risk),
        torch.from_numpy(s.event),
        torch.from_numpy(s.time).float(),
        weight=torch.from_numpy(s.weight),
        new_time=torch.tensor(times),
        weight_new_time=torch.tensor(list(s.weight_at.values()))[: len(times)],
    )
    assert values == pytest.approx(by_torchsurv.numpy(), rel=SINGLE_PRECISION)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [True, False])
def test_integrated_auc_agrees_with_scikit_survival(
    study: Callable[..., Any], structured: Callable[..., Any], seed: int, ties: bool
) -> None:
    made = study(seed, ties=ties)
    (s,) = made.strata
    grid = made.times.integration
    times = [t for t in grid if t >= s.time[s.event].min()]
    train = structured(s.training.event, s.training.time)
    oracle = cumulative_dynamic_auc(train, structured(s.event, s.time), s.risk, times)[1]
    assert integrated_area_under_roc([s], grid)[0] == pytest.approx(oracle, rel=SINGLE_PRECISION)


@pytest.mark.parametrize("seed", SEEDS)
def test_c_index_of_arrays_agrees_with_lifelines(study: Callable[..., Any], seed: int) -> None:
    rows = study(seed).predictions
    oracle = concordance_index(rows["time"], -rows["risk"], rows["event"])
    assert c_index(rows["time"], rows["event"], rows["risk"]) == pytest.approx(oracle, rel=1e-12)


def test_c_index_of_arrays_is_nan_where_there_is_none() -> None:
    assert math.isnan(c_index([1.0, 2.0], [0, 1], [0.0, 1.0]))
    assert math.isnan(c_index([], [], []))
    assert math.isnan(c_index([1.0, 2.0], [1, 1], [math.nan, 1.0]))


def pairs_by_hand(strata: list[Stratum], kind: str, t: float = 0) -> float:
    """A metric pair by pair, as its definition reads."""
    concordant = compared = 0.0
    for s in strata:
        for i in range(len(s.time)):
            for j in range(len(s.time)):
                if kind == "auc":
                    counts = s.event[i] and s.time[i] <= t < s.time[j]
                    weight = s.weight[i] * s.weight_at.get(t, 1)
                else:
                    later = s.time[i] < s.time[j] or (s.time[i] == s.time[j] and not s.event[j])
                    counts = s.event[i] and later and (kind == "harrell" or s.time[i] < truncation(s))
                    weight = s.weight[i] ** 2 if kind == "uno" else 1
                if counts:
                    compared += weight
                    concordant += weight * ((s.risk[i] > s.risk[j]) + 0.5 * (s.risk[i] == s.risk[j]))
    return concordant / compared


@pytest.mark.parametrize("seed", range(4))
def test_pooled_compares_within_folds_only(study: Callable[..., Any], seed: int) -> None:
    made = study(seed, folds=4)
    strata = made.strata
    t = made.times.times[1]
    assert harrell_c_index(strata)[0] == pytest.approx(pairs_by_hand(strata, "harrell"), rel=1e-12)
    assert uno_c_index(strata)[0] == pytest.approx(pairs_by_hand(strata, "uno"), rel=1e-12)
    assert area_under_roc(strata, t)[0] == pytest.approx(pairs_by_hand(strata, "auc", t), rel=1e-12)
    shifted = [replace(s, risk=s.risk + 100 * s.fold) for s in strata]
    assert harrell_c_index(shifted)[0] == harrell_c_index(strata)[0]


def test_rows_are_summed_over_blocks(study: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    strata = study(3, cases=90, bootstraps=5).strata
    whole = harrell_c_index(strata)
    monkeypatch.setattr("milsurv.evaluation.pairs.ROWS_AT_ONCE", 7)
    assert harrell_c_index(strata) == pytest.approx(whole, rel=1e-12)


def resampled(s: Stratum, row: int) -> Stratum:
    """The stratum in which each case stands as often as a bootstrap resample says."""
    rows = np.repeat(np.arange(len(s.time)), s.counts[row].astype(int))
    return replace(
        s,
        time=s.time[rows],
        event=s.event[rows],
        risk=s.risk[rows],
        weight=s.weight[rows],
        counts=np.ones((1, len(rows))),
    )


def test_bootstrap_is_the_metric_of_the_resampled_rows(study: Callable[..., Any]) -> None:
    made = study(5, cases=48, folds=3, bootstraps=25)
    strata = made.strata
    t = made.times.times[1]
    harrell, uno, auc = harrell_c_index(strata), uno_c_index(strata), area_under_roc(strata, t)
    grid = made.times.integration
    integrated = integrated_area_under_roc(strata, grid)
    for row in range(1, 26):
        redrawn = [resampled(s, row) for s in strata]
        assert harrell[row] == pytest.approx(harrell_c_index(redrawn)[0], rel=1e-12)
        assert uno[row] == pytest.approx(uno_c_index(redrawn)[0], rel=1e-12)
        assert auc[row] == pytest.approx(area_under_roc(redrawn, t)[0], rel=1e-12)
        assert integrated[row] == pytest.approx(integrated_area_under_roc(redrawn, grid)[0], rel=1e-12)


def test_resamples_without_a_pair_are_nan(study: Callable[..., Any]) -> None:
    (s,) = study(0).strata
    two = replace(
        s,
        time=np.array([1.0, 2.0]),
        event=np.array([True, False]),
        risk=np.array([1.0, 0.0]),
        counts=np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]),
    )
    assert harrell_c_index([two]) == pytest.approx([1, np.nan, np.nan], nan_ok=True)


cases = st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.integers(-5, 5)), min_size=2, max_size=30)


def stratum_of(rows: list[tuple[int, bool, int]], template: Stratum) -> Stratum:
    time, event, risk = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return replace(
        template,
        time=time.astype(float),
        event=event,
        risk=risk.astype(float),
        weight=np.ones(n),
        counts=resample_counts(n, 3, np.random.default_rng(0)),
    )


@settings(max_examples=150, deadline=None)
@given(rows=cases, shuffle=st.randoms())
def test_properties_of_the_c_index(study: Callable[..., Any], rows: list[Any], shuffle: Any) -> None:
    s = stratum_of(rows, study(0).strata[0])
    try:
        value = harrell_c_index([s])
    except NotComputableError:
        if np.ptp(s.risk) > 0:
            with pytest.raises(ZeroDivisionError):
                concordance_index(s.time, -s.risk, s.event)
        return
    mirrored = harrell_c_index([replace(s, risk=-s.risk)])
    np.testing.assert_allclose(value + mirrored, np.where(np.isnan(value), np.nan, 1), atol=1e-12)
    np.testing.assert_array_equal(harrell_c_index([replace(s, risk=np.exp(3 * s.risk) - 1)]), value)
    order = shuffle.sample(range(len(rows)), len(rows))
    shuffled = stratum_of([rows[i] for i in order], s)
    assert harrell_c_index([shuffled])[0] == pytest.approx(value[0], rel=1e-12)
    assert value[0] == pytest.approx(concordance_index(s.time, -s.risk, s.event), rel=1e-12)
