"""Strata: the test cases of one fold, with the censoring weights of its training cases.

Risks of different folds come from different models and are not on one scale, so cases are compared only within a
stratum, and pooled metrics combine strata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lifelines import KaplanMeierFitter

from milsurv.config.run import Evaluation
from milsurv.evaluation.intervals import (
    BoolArray,
    FloatArray,
    NotComputableError,
    too_few_for_intervals,
)
from milsurv.evaluation.times import survival_column

IN_SEVERAL_FOLDS = "no interval: some cases are tested in several folds, which are then not independent"


@dataclass(frozen=True)
class TrainingFollowUp:
    """Follow-up of a fold's training and inner validation cases: ``time (n,)``, ``event (n,)``."""

    time: npt.NDArray[Any]
    event: npt.NDArray[Any]

    @property
    def event_times(self) -> FloatArray:
        return np.asarray(self.time[self.event == 1], dtype=float)

    @cached_property
    def kaplan_meier(self) -> KaplanMeierFitter:
        """Survival of the training cases."""
        return KaplanMeierFitter().fit(self.time, self.event)


@dataclass(frozen=True)
class Stratum:
    """Test cases of one fold under one seed, in the order of their ids."""

    fold: int
    time: FloatArray
    event: BoolArray
    risk: FloatArray
    survival: dict[float, FloatArray]
    """Time -> predicted probability of each case to survive beyond it, (n,)."""
    training: TrainingFollowUp
    weight: FloatArray
    """1 / G at each case's own time, G being the probability of not being censored before; NaN where undefined."""
    weight_at: dict[float, float]
    """The same at each evaluation time."""
    truncation: float | None
    """Time before which Uno's C counts events; None for the default."""
    counts: FloatArray
    """(1 + resamples, n): how often each case occurs in the fold (once), then in each bootstrap resample."""


def strata_of_seed(
    predictions: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    times: Sequence[float],
    settings: Evaluation,
) -> list[Stratum]:
    """The predictions of one seed by fold. Raises ``ValueError`` when a case occurs twice in a fold."""
    repeated = predictions["case_id"][predictions.duplicated(["fold", "case_id"])]
    if len(repeated):
        raise ValueError(f"case {repeated.iloc[0]!r} is predicted more than once under one seed in a fold")
    by_id = predictions.sort_values("case_id")
    folds = sorted(int(fold) for fold in predictions["fold"].unique())
    return [_stratum(fold, by_id[by_id["fold"] == fold], training[fold], times, settings) for fold in folds]


def _stratum(
    fold: int, rows: pd.DataFrame, training: TrainingFollowUp, times: Sequence[float], settings: Evaluation
) -> Stratum:
    time = rows["time"].to_numpy(dtype=float)
    weights = censoring_weights(training, np.concatenate([time, np.asarray(times, dtype=float)]))
    return Stratum(
        fold=fold,
        time=time,
        event=rows["event"].to_numpy() == 1,
        risk=rows["risk"].to_numpy(dtype=float),
        survival={t: rows[survival_column(t)].to_numpy(dtype=float) for t in times},
        training=training,
        weight=weights[: len(time)],
        weight_at=dict(zip(times, weights[len(time) :].tolist(), strict=True)),
        truncation=settings.truncation,
        counts=resample_counts(len(time), settings.bootstraps, np.random.default_rng([settings.seed, fold])),
    )


def censoring_weights(training: TrainingFollowUp, times: FloatArray) -> FloatArray:
    """``(k,)`` times -> inverse probability of censoring weights ``1 / G(t)``, by torchsurv.

    G is the Kaplan-Meier estimate of the censoring distribution of the training cases; a case censored at
    the time of an event is censored after it. NaN beyond the last training time, where G is 0, and without training
    events. torchsurv reads times in single precision, so it is given their ranks, which determine G.
    """
    if not training.event_times.size:
        return np.full(len(times), np.nan)
    n = len(training.time)
    ranks = np.unique(np.concatenate([training.time, times]), return_inverse=True)[1]
    rank = torch.from_numpy(ranks).float()
    event = torch.from_numpy(training.event == 1)
    from torchsurv.stats.ipcw import get_ipcw  # takes seconds to import

    weights = get_ipcw(event, rank[:n], rank[n:]).double().numpy()
    known = (weights > 0) & (times <= np.max(training.time))
    return np.where(known, weights, np.nan)


def resample_counts(n: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """``(1 + resamples, n)``: ones, then how often each case is drawn when ``n`` are drawn with replacement."""
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)
    return np.vstack([np.ones(n), counts])


def why_no_interval(predictions: pd.DataFrame) -> str | None:
    """The reason for not giving bootstrap intervals for these predictions of one seed; None when there is none."""
    cases = predictions.drop_duplicates("case_id")
    if len(cases) < len(predictions):
        return IN_SEVERAL_FOLDS
    return too_few_for_intervals(int((cases["event"] == 1).sum()))


def require_events(strata: Sequence[Stratum]) -> None:
    """Raise :class:`NotComputableError` when no case of the strata has an event."""
    if not any(s.event.any() for s in strata):
        raise NotComputableError("no events")


def require_finite_risk(strata: Sequence[Stratum]) -> None:
    """Raise :class:`NotComputableError` when a risk is NaN or infinite."""
    bad = sum(int(np.sum(~np.isfinite(s.risk))) for s in strata)
    if bad:
        cases = sum(len(s.risk) for s in strata)
        raise NotComputableError(f"the risk of {bad} of {cases} cases is not a finite number")


def require_probabilities(survival: FloatArray) -> None:
    """Raise :class:`NotComputableError` when a case's ``survival (n, k)`` is not within [0, 1]."""
    bad = int(np.sum(~((survival >= 0) & (survival <= 1)).all(axis=1)))
    if bad:
        raise NotComputableError(f"the survival of {bad} of {len(survival)} cases is not within [0, 1]")


def require_followed_beyond(strata: Sequence[Stratum], t: float) -> None:
    """Raise :class:`NotComputableError` when no case of the strata is followed for longer than ``t``."""
    last = max(float(s.time.max()) for s in strata)
    if t >= last:
        raise NotComputableError(f"no case is followed beyond {t:g}: the last follow-up ends at {last:g}")


def require_weight_at(stratum: Stratum, t: float) -> None:
    """Raise :class:`NotComputableError` when the censoring weight at ``t`` is undefined."""
    if not stratum.training.event_times.size:
        raise NotComputableError("censoring weights undefined: no events among the training cases")
    if not np.isfinite(stratum.weight_at[t]):
        last = float(np.max(stratum.training.time))
        raise NotComputableError(
            f"censoring weights undefined at {t:g}: the follow-up of the training cases ends at {last:g}"
        )


@contextmanager
def named(stratum: Stratum, strata: Sequence[Stratum]) -> Iterator[None]:
    """Prefix the reason of a :class:`NotComputableError` with the fold when there are several strata."""
    try:
        yield
    except NotComputableError as reason:
        if len(strata) == 1:
            raise
        raise NotComputableError(f"fold {stratum.fold}: {reason}") from None
