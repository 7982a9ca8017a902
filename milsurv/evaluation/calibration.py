"""Calibration at a time: predicted against observed survival."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from lifelines import KaplanMeierFitter

from milsurv.evaluation.brier import censoring_weighted
from milsurv.evaluation.intervals import (
    CONFIDENCE,
    BoolArray,
    FloatArray,
    Metric,
    NotComputableError,
    metric,
    with_interval,
)
from milsurv.evaluation.schema import CalibrationAt, CalibrationGroup
from milsurv.evaluation.strata import (
    Stratum,
    named,
    require_events,
    require_followed_beyond,
    require_probabilities,
    require_weight_at,
)

GROUPS = 5
MIN_PER_GROUP = 10
MIN_EVENTS = 10
"""Events by the time, and cases followed beyond it, that a slope requires."""
STEPS = 50
ETA_RANGE = (-30.0, 4.0)
"""Limit beyond which the probability of death is 0 or 1 in double precision."""


def calibration_at(strata: Sequence[Stratum], t: float) -> CalibrationAt:
    """Calibration slope, and the points of a calibration plot, at ``t``.

    Groups are quantiles of predicted survival, up to five of at least ten cases, the lowest survival first.
    ``predicted`` is the group's mean predicted survival, ``observed`` its Kaplan-Meier survival at ``t`` with a 95 %
    interval (log-log, Greenwood). Folds are pooled, since probabilities of different models are on one scale.
    """
    slope = with_interval(partial(calibration_slope, strata, t))
    try:
        return {"time": t, "slope": slope, "groups": _groups(strata, t), "groups_reason": None}
    except NotComputableError as reason:
        return {"time": t, "slope": slope, "groups": [], "groups_reason": str(reason)}


def calibration_slope(strata: Sequence[Stratum], t: float) -> FloatArray:
    """Slope of observed on predicted risk of death by ``t``, on the complementary log-log scale: ``(1 + resamples,)``.

    b in ``log(-log P(T > t)) = a + b log(-log S(t))``: 1 when calibrated, below 1 when predictions are too
    extreme, above 1 when too moderate (van Geloven et al., BMJ 377 (2022) e069249; Austin, Harrell and van
    Klaveren, Statistics in Medicine 39 (2020) 2714). Fitted to whether each case died by ``t`` by the
    binomial likelihood with the censoring weights of the Brier score (Scheike, Zhang and Gerds, Biometrika 95
    (2008) 205). NaN for a resample without a finite maximum.
    """
    require_events(strata)
    require_followed_beyond(strata, t)
    for s in strata:
        with named(s, strata):
            require_weight_at(s, t)
            require_probabilities(s.survival[t][:, None])
    survival = np.concatenate([s.survival[t] for s in strata])
    certain = int(np.sum((survival <= 0) | (survival >= 1)))
    if certain:
        raise NotComputableError(f"the survival of {certain} of {len(survival)} cases is exactly 0 or 1")
    dead, weight = (
        np.concatenate(parts) for parts in zip(*(censoring_weighted(s, t) for s in strata), strict=True)
    )
    for count, what in (
        (dead.sum(), f"events by {t:g}"),
        ((~dead & (weight > 0)).sum(), f"cases followed beyond {t:g}"),
    ):
        if count < MIN_EVENTS:
            raise NotComputableError(f"too few {what}: {count}, at least {MIN_EVENTS} required")
    if np.ptp(survival) == 0:
        raise NotComputableError("all cases have the same predicted survival")
    slopes = _weighted_regression(
        np.log(-np.log(survival)), dead, weight * np.hstack([s.counts for s in strata])
    )
    if not np.isfinite(slopes[0]):
        raise NotComputableError("the regression on predicted survival has no finite maximum")
    return slopes


def _weighted_regression(x: FloatArray, dead: BoolArray, weight: FloatArray) -> FloatArray:
    """Slopes of binomial regressions of ``dead (n,)`` on ``x (n,)``, one for each row of ``weight (r, n)``.

    Fisher scoring for the complementary log-log link: ``P(dead) = 1 - exp(-exp(a + b x))``.
    """
    centre = x.mean()
    z = x - centre
    a, b = np.full(len(weight), centre), np.ones(len(weight))
    step = np.full((2, len(weight)), np.inf)
    for _ in range(STEPS):
        eta = np.clip(a[:, None] + b[:, None] * z, *ETA_RANGE)
        hazard = np.exp(eta)
        odds = np.expm1(hazard)
        score = weight * np.where(dead, hazard / -np.expm1(-hazard) - hazard, -hazard)
        information = weight * hazard**2 / odds
        i0, i1, i2 = information.sum(axis=1), information @ z, information @ z**2
        s0, s1 = score.sum(axis=1), score @ z
        determinant = i0 * i2 - i1**2
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.stack([i2 * s0 - i1 * s1, i0 * s1 - i1 * s0]) / determinant
        step = np.clip(step, -1.0, 1.0)
        a, b = a + step[0], b + step[1]
        if not (np.abs(step) > 1e-9).any():
            break
    return np.where((np.abs(step) <= 1e-9).all(axis=0), b, np.nan)


def _groups(strata: Sequence[Stratum], t: float) -> list[CalibrationGroup]:
    survival = np.concatenate([s.survival[t] for s in strata])
    require_probabilities(survival[:, None])
    time, event = (np.concatenate([getattr(s, name) for s in strata]) for name in ("time", "event"))
    groups = min(GROUPS, len(survival) // MIN_PER_GROUP)
    if groups < 2:
        raise NotComputableError(
            f"too few cases: {len(survival)}, at least {2 * MIN_PER_GROUP} required for two groups"
        )
    edges = np.quantile(survival, np.arange(1, groups) / groups)
    group = np.searchsorted(edges, survival, side="left")
    members = [group == number for number in range(groups) if (group == number).any()]
    return [
        {
            "cases": int(chosen.sum()),
            "events": int((event & (time <= t))[chosen].sum()),
            "predicted": float(survival[chosen].mean()),
            "observed": _observed(time[chosen], event[chosen], t),
        }
        for chosen in members
    ]


def _observed(time: FloatArray, event: BoolArray, t: float) -> Metric:
    curve = KaplanMeierFitter(alpha=1 - CONFIDENCE).fit(time, event)
    value = float(curve.predict(t))
    if value > 0 and time.max() < t:
        return metric(None, reason=f"no case of the group is followed to {t:g}")
    if value in (0, 1):
        return metric(value, reason=f"no interval: {'no case' if value == 1 else 'every case'} died by {t:g}")
    low, high = curve.confidence_interval_survival_function_.loc[:t].to_numpy()[-1]
    return metric(value, (float(low), float(high)))
