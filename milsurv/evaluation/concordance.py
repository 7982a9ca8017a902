"""Concordance of risk with the order of events, over weighted pairs of cases.

Harrell's C, Uno's C and the time-dependent AUC are the same sum over pairs, with different pairs and weights. The
bootstrap resamples cases, not pairs, so a resample is the same sum with each case weighted by how often it was drawn:
for counts ``c``, ``sum_ij c_i w_i c_j K_ij``.

Each metric is ``(1 + resamples,)``, the observed value first, NaN for a resample without a comparable pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from milsurv.evaluation.intervals import FloatArray, NotComputableError
from milsurv.evaluation.pairs import concordance_sums, exit_order
from milsurv.evaluation.strata import (
    Stratum,
    named,
    require_events,
    require_finite_risk,
    require_followed_beyond,
    require_weight_at,
)

TRUNCATION_SHARE_OF_EVENTS = 0.8


def harrell_c_index(strata: Sequence[Stratum]) -> FloatArray:
    """Harrell's C: the share of comparable pairs in which the case that dies first has the higher risk.

    A pair is comparable when the shorter time ends in an event. A case censored at the time of an event survives
    longer; two events at the same time are not compared; tied risks count half, as in lifelines and scikit-survival
    (which also ties risks that differ by less than 1e-8). Undefined when all cases have the same risk. Harrell et al.,
    JAMA 247 (1982) 2543; Harrell, Lee and Mark, Statistics in Medicine 15 (1996) 361.
    """

    def sums(s: Stratum) -> FloatArray:
        exits = exit_order(s.time, s.event)
        return concordance_sums(s.risk, exits, exits, s.event.astype(float), s.counts)

    return _share(strata, sums, "no comparable pairs")


def uno_c_index(strata: Sequence[Stratum]) -> FloatArray:
    """Uno's C: Harrell's pairs whose event is before tau, each weighted by ``1 / G(time)²``.

    tau (:func:`truncation`) and G, the probability of not being censored before, are those of each fold's training
    cases. Uno et al., Statistics in Medicine 30 (2011) 1105, equation 6. Like scikit-survival, G is taken at the event
    time itself, not just before it.
    """

    def sums(s: Stratum) -> FloatArray:
        exits = exit_order(s.time, s.event)
        counted = s.event & (s.time < truncation(s))
        unknown = counted & np.isnan(s.weight)
        if unknown.any():
            last = float(np.max(s.training.time))
            raise NotComputableError(
                f"censoring weights undefined at {s.time[unknown].min():g}: "
                f"the follow-up of the training cases ends at {last:g}"
            )
        return concordance_sums(s.risk, exits, exits, np.where(counted, s.weight**2, 0.0), s.counts)

    return _share(strata, sums, "no comparable pairs before the truncation time")


def truncation(stratum: Stratum) -> float:
    """tau of Uno's C: ``evaluation.truncation``, or the 80th percentile of the training cases' event times.

    Raises :class:`NotComputableError` when no training case has an event.
    """
    event_times = stratum.training.event_times
    if not event_times.size:
        raise NotComputableError("censoring weights undefined: no events among the training cases")
    if stratum.truncation is not None:
        return stratum.truncation
    return float(np.quantile(event_times, TRUNCATION_SHARE_OF_EVENTS))


def truncations(strata: Sequence[Stratum]) -> dict[str, Any]:
    """``truncated_at``, the truncation time of Uno's C; or ``truncated_at_by_fold`` when there are several folds."""

    def time_or_none(s: Stratum) -> float | None:
        try:
            return truncation(s)
        except NotComputableError:
            return None

    by_fold = {str(s.fold): time_or_none(s) for s in strata}
    return {"truncated_at_by_fold": by_fold} if len(strata) > 1 else {"truncated_at": time_or_none(strata[0])}


def area_under_roc(strata: Sequence[Stratum], t: float) -> FloatArray:
    """Cumulative/dynamic AUC at ``t``: risks of cases with an event by ``t`` against those alive beyond it.

    Weights are ``1 / G(time)`` for the former, ``1 / G(t)`` for the latter; tied risks count half. Uno et
    al., JASA 102 (2007) 527; Hung and Chiang, Canadian Journal of Statistics 38 (2010) 8; Blanche et al.,
    Statistics in Medicine 32 (2013) 5381.
    """
    require_events(strata)
    require_followed_beyond(strata, t)
    if not any((s.event & (s.time <= t)).any() for s in strata):
        raise NotComputableError(f"no events by {t:g}")

    def sums(s: Stratum) -> FloatArray:
        require_weight_at(s, t)
        weight = np.where(s.event & (s.time <= t), s.weight * s.weight_at[t], 0.0)
        alive = (s.time > t).astype(np.intp)
        return concordance_sums(s.risk, np.zeros_like(alive), alive, weight, s.counts)

    return _share(strata, sums, f"no fold has both events by {t:g} and cases followed beyond it")


def integrated_area_under_roc(strata: Sequence[Stratum], times: Sequence[float]) -> FloatArray:
    """Mean of :func:`area_under_roc` over ``times`` (ascending), each weighted by the deaths since the last one.

    ``Σ AUC(t_k) (S(t_k-1) - S(t_k)) / (1 - S(t_last))`` with S(t_0) = 1, S the Kaplan-Meier estimate of the
    test cases in each resample: Lambert and Chevret, Statistical Methods in Medical Research
    25 (2016) 2088, as in scikit-survival. A time without deaths since the last one does not count.
    """
    require_finite_risk(strata)
    require_events(strata)
    require_followed_beyond(strata, times[-1])
    survival = resampled_kaplan_meier(strata, times)
    deaths: FloatArray = -np.diff(survival, axis=1, prepend=1.0)
    if not deaths[0].any():
        raise NotComputableError(f"no events by {times[-1]:g}")
    total = np.zeros(len(survival))
    for t, share in zip(times, deaths.T, strict=True):
        if share.any():
            total += np.where(share > 0, share * area_under_roc(strata, t), 0.0)
    died = 1 - survival[:, -1]
    return np.divide(total, died, out=np.full_like(total, np.nan), where=died > 0)


def resampled_kaplan_meier(strata: Sequence[Stratum], times: Sequence[float]) -> FloatArray:
    """Kaplan-Meier survival of all cases of the strata at ``times (k,)`` in each resample: ``(1 + resamples, k)``.

    Vectorised over resamples, for which lifelines takes seconds.
    """
    time = np.concatenate([s.time for s in strata])
    event = np.concatenate([s.event for s in strata])
    order = np.argsort(time)
    counts = np.hstack([s.counts for s in strata])[:, order]
    exits, first = np.unique(time[order], return_index=True)
    at_risk = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, first]
    deaths = np.add.reduceat(counts * event[order], first, axis=1)
    lives_on = 1 - np.divide(deaths, at_risk, out=np.zeros_like(deaths), where=at_risk > 0)
    steps = np.hstack([np.ones((len(counts), 1)), np.cumprod(lives_on, axis=1)])
    return np.asarray(steps[:, np.searchsorted(exits, times, side="right")])


def _share(strata: Sequence[Stratum], sums: Callable[[Stratum], FloatArray], nothing: str) -> FloatArray:
    """Concordant divided by compared weight, each summed over strata; ``nothing``: the reason if there is none."""
    require_finite_risk(strata)
    require_events(strata)
    total = np.zeros((2, len(strata[0].counts)))
    for s in strata:
        with named(s, strata):
            total += sums(s)
    concordant, compared = total
    if compared[0] == 0:
        raise NotComputableError(nothing)
    if all(np.ptp(s.risk) == 0 for s in strata):
        raise NotComputableError("the risk is the same for all cases")
    return np.divide(concordant, compared, out=np.full_like(compared, np.nan), where=compared > 0)
