"""High against low risk within folds: how many times the hazard, and whether it could be chance.

A case is in a group by the cut-off of its own fold, so it is compared with cases of that fold alone: both
numbers are stratified by fold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from scipy.stats import chi2

from milsurv.evaluation.metric import CONFIDENCE, FloatArray, Metric, NotComputableError, metric

FEWEST_EVENTS = 10
"""Events that a Cox model takes for each variable (Peduzzi et al., Journal of Clinical Epidemiology 48 (1995) 1503)."""


def high_against_low(predictions: pd.DataFrame) -> dict[str, Metric]:
    """``{"hazard_ratio", "log_rank_p_value"}`` of one seed, from ``fold, time, event, risk, high_risk``.

    The hazard ratio is that of a Cox model (Efron's ties) with its 95 % Wald interval; the p-value is two-sided
    and has no interval. Cases whose risk is not finite are in no group. What cannot be computed is None with
    the reason: a group without cases, no events, or none that tells the groups apart.
    """
    rows = predictions[np.isfinite(predictions["risk"])]
    rows = rows.assign(high=(rows["high_risk"] == 1).astype(int), event=(rows["event"] == 1).astype(int))
    try:
        _require_groups(rows)
        terms = np.array([_terms(of_fold) for _, of_fold in rows.groupby("fold")])
        _require_comparison(terms)
    except NotComputableError as reason:
        return dict.fromkeys(("hazard_ratio", "log_rank_p_value"), metric(None, reason=str(reason)))
    return {"hazard_ratio": _hazard_ratio(rows, terms), "log_rank_p_value": _log_rank(terms)}


def _require_groups(rows: pd.DataFrame) -> None:
    for code, name in ((1, "high"), (0, "low")):
        if not (rows["high"] == code).any():
            raise NotComputableError(f"no cases at {name} risk")
    if not rows["event"].any():
        raise NotComputableError("no events")


def _require_comparison(terms: FloatArray) -> None:
    if not terms[:, 1].sum() > 0:
        raise NotComputableError(
            "in no fold is there an event while cases of both groups are at risk and one of them lives on"
        )


def _terms(rows: pd.DataFrame) -> FloatArray:
    """One fold's part in the log-rank test: ``(4,)``.

    Deaths at high risk less those expected, their variance, and the deaths at high and at low risk; all of
    times at which both groups are at risk and not all die (Mantel, Cancer Chemotherapy Reports 50 (1966) 163).
    """
    time, event, high = (rows[name].to_numpy() for name in ("time", "event", "high"))
    total = np.zeros(4)
    for t in np.unique(time[event == 1]):
        at_risk, dies = time >= t, (time == t) & (event == 1)
        n, d, deaths_high = at_risk.sum(), dies.sum(), (dies & (high == 1)).sum()
        share = high[at_risk].mean()
        if 0 < share < 1 and d < n:
            variance = d * share * (1 - share) * (n - d) / (n - 1)
            total += [deaths_high - d * share, variance, deaths_high, d - deaths_high]
    return total


def _log_rank(terms: FloatArray) -> Metric:
    excess, variance = terms[:, 0].sum(), terms[:, 1].sum()
    return metric(float(chi2.sf(excess**2 / variance, 1)))


def _hazard_ratio(rows: pd.DataFrame, terms: FloatArray) -> Metric:
    high, low = terms[:, 2].sum(), terms[:, 3].sum()
    if high + low < FEWEST_EVENTS:
        known = f"{high + low:.0f}, where a ratio takes {FEWEST_EVENTS}"
        return metric(None, reason=f"too few events while both groups are at risk: {known}")
    for deaths, group, end in ((high, "high", "zero"), (low, "low", "infinite")):
        if not deaths:
            reason = f"no case at {group} risk dies while the other group is at risk: the ratio is {end}"
            return metric(None, reason=reason)
    table = rows[["time", "event", "high", "fold"]].astype({"time": float})
    try:
        fitted: Any = CoxPHFitter(alpha=1 - CONFIDENCE).fit(table, "time", "event", strata=["fold"])
    except ConvergenceError:
        return metric(None, reason="the Cox model of the two groups does not converge")
    return hazard_ratio_of("high", fitted)


def hazard_ratio_of(covariate: str, fitted: CoxPHFitter) -> Metric:
    """The hazard ratio of one more unit of ``covariate`` in a fitted Cox model, with its Wald interval."""
    low, high = np.exp(fitted.confidence_intervals_.loc[covariate].to_numpy())
    return metric(float(np.exp(fitted.params_[covariate])), (float(low), float(high)))
