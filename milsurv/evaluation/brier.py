"""Brier score of predicted survival, weighted for censoring: the squared error of predicted probabilities.

Implemented here, because a pooled score weights each case by the censoring of its own fold's training cases, and
includes folds with a single case or without events.

Each metric is ``(1 + resamples,)``, the observed value first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from milsurv.config.run import Evaluation
from milsurv.evaluation.intervals import BoolArray, FloatArray, NotComputableError
from milsurv.evaluation.strata import (
    Stratum,
    TrainingFollowUp,
    named,
    require_events,
    require_followed_beyond,
    require_probabilities,
    require_weight_at,
    strata_of_seed,
)
from milsurv.evaluation.times import survival_column


def brier_score(strata: Sequence[Stratum], times: float | Sequence[float]) -> FloatArray:
    """Brier score at a time: Graf et al., Statistics in Medicine 18 (1999) 2529; or integrated over ``times``.

    The mean over cases of ``S(t)² / G(time)`` for an event by ``t``, ``(1 - S(t))² / G(t)`` for a case
    followed beyond ``t``, and 0 for one censored before; G is the censoring distribution of the fold's
    training cases. Integrated: its mean over the span of ``times`` (ascending), by the trapezoidal rule.
    """
    return _averaged(strata, times, _predicted)


def brier_score_kaplan_meier(strata: Sequence[Stratum], times: float | Sequence[float]) -> FloatArray:
    """:func:`brier_score` of a reference: the Kaplan-Meier survival of the fold's training cases for every case."""
    return _averaged(strata, times, _kaplan_meier)


def index_of_prediction_accuracy(strata: Sequence[Stratum], times: float | Sequence[float]) -> FloatArray:
    """``1 - Brier / Brier of Kaplan-Meier``: 1 is perfect, 0 no better than one curve for all cases, below 0 worse.

    Kattan and Gerds, Diagnostic and Prognostic Research 2 (2018) 7. At one time or, for several (ascending),
    of the integrated scores. Both scores are those of the same resample. Raises :class:`NotComputableError` when
    the Brier score of the reference is 0.
    """
    model, reference = _averaged(strata, times, _predicted), _averaged(strata, times, _kaplan_meier)
    if reference[0] == 0:
        raise NotComputableError("the Brier score of Kaplan-Meier is 0 and cannot be improved")
    return 1 - np.divide(model, reference, out=np.full_like(model, np.nan), where=reference > 0)


def integrated_scores(
    survival: FloatArray,
    times: Sequence[float],
    time: FloatArray,
    event: BoolArray,
    training: TrainingFollowUp,
) -> tuple[float, float]:
    """:func:`brier_score` of predicted ``survival (n, k)`` at ``times`` and of Kaplan-Meier, both integrated.

    Left out are ``times`` beyond the follow-up of the cases, ``time (n,)`` and ``event (n,)``, or of ``training``.
    Raises :class:`NotComputableError` if fewer than two remain, or without events.
    """
    last = min(float(time.max()), float(training.time.max()))
    kept = [t for t in times if t < last]
    if len(kept) < 2:
        raise NotComputableError("fewer than two evaluation times are within the follow-up")
    table = pd.DataFrame({survival_column(t): survival[:, times.index(t)] for t in kept})
    table = table.assign(case_id=range(len(time)), fold=0, time=time, event=event, risk=0.0)
    strata = strata_of_seed(table, {0: training}, kept, Evaluation(bootstraps=0))
    return float(brier_score(strata, kept)[0]), float(brier_score_kaplan_meier(strata, kept)[0])


def _averaged(
    strata: Sequence[Stratum],
    times: float | Sequence[float],
    survival: Callable[[Stratum, Sequence[float]], FloatArray],
) -> FloatArray:
    times = times if isinstance(times, Sequence) else (times,)
    require_events(strata)
    require_followed_beyond(strata, times[-1])
    total = np.zeros(len(strata[0].counts))
    for s in strata:
        with named(s, strata):
            require_weight_at(s, times[-1])
            probabilities = survival(s, times)
            require_probabilities(probabilities)
        errors = squared_errors(s, probabilities, times)
        total += s.counts @ _mean_over_times(errors, np.asarray(times))
    return total / sum(len(s.time) for s in strata)


def squared_errors(stratum: Stratum, survival: FloatArray, times: Sequence[float]) -> FloatArray:
    """Each case's weighted squared error at each time, for ``survival (n, k)``: ``(n, k)``."""
    known = [censoring_weighted(stratum, t) for t in times]
    dead, weight = (np.column_stack(parts) for parts in zip(*known, strict=True))
    return np.asarray(weight * (~dead - survival) ** 2)


def censoring_weighted(stratum: Stratum, t: float) -> tuple[BoolArray, FloatArray]:
    """Whether each case died by ``t``, ``(n,)``, and its weight, ``(n,)``: 0 for one censored before."""
    dead = stratum.event & (stratum.time <= t)
    weight = np.where(dead, stratum.weight, 0.0)
    return dead, np.where(stratum.time > t, stratum.weight_at[t], weight)


def _mean_over_times(errors: FloatArray, times: FloatArray) -> FloatArray:
    if len(times) == 1:
        return errors[:, 0]
    between = (errors[:, 1:] + errors[:, :-1]) / 2
    return np.asarray(between @ np.diff(times) / (times[-1] - times[0]))


def _predicted(stratum: Stratum, times: Sequence[float]) -> FloatArray:
    return np.column_stack([stratum.survival[t] for t in times])


def _kaplan_meier(stratum: Stratum, times: Sequence[float]) -> FloatArray:
    curve = stratum.training.kaplan_meier
    return np.tile(curve.survival_function_at_times(times).to_numpy(dtype=float), (len(stratum.time), 1))
