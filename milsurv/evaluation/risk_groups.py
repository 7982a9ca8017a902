"""Cases at high and at low risk: Kaplan-Meier curves, log-rank tests and the hazard ratio between the groups.

A case is at high risk when its risk is above the median risk of its fold's training cases. Curves are pooled over
folds; :func:`compare_risk_groups` is stratified by fold, so that cases are compared within a fold only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.exceptions import ConvergenceError
from lifelines.utils import median_survival_times
from scipy.stats import chi2

from milsurv.evaluation.intervals import CONFIDENCE, FloatArray, Metric, NotComputableError, metric
from milsurv.evaluation.schema import GroupComparison, RiskGroup, RiskGroups

AT_RISK_TIMES = 6
MIN_EVENTS = 10
"""Events that a Cox model requires per variable (Peduzzi et al., Journal of Clinical Epidemiology 48 (1995) 1503)."""
NOTE = (
    "A case is at high risk when its risk is above the median risk of its fold's training cases. Groups and the "
    "log-rank test are pooled over folds. Models of different folds share training cases, so the p-value is "
    "approximate."
)


def risk_groups(predictions: pd.DataFrame) -> RiskGroups:
    """The two groups of one seed, from columns ``time``, ``event``, ``risk`` and ``high_risk`` (1 or 0).

    Each group has ``cases``, ``events``, ``kaplan_meier`` (``time``, ``survival``, and its 95 % band ``lower``,
    ``upper``: a step at each event time, from time 0 to the last follow-up; None for an empty group), ``at_risk``
    (cases still followed at each of ``at_risk_times``) and ``median_survival``. ``ungrouped`` counts the cases
    whose risk is not a finite number.
    """
    times = np.linspace(0, float(predictions["time"].max()), AT_RISK_TIMES)
    grouped = _grouped(predictions)
    return {
        "high": _group(grouped[grouped["high"] == 1], times),
        "low": _group(grouped[grouped["high"] == 0], times),
        "ungrouped": len(predictions) - len(grouped),
        "at_risk_times": [_six_digits(t) for t in times],
        "log_rank_p_value": compare_risk_groups(predictions.assign(fold=0))["log_rank_p_value"],
        "note": NOTE,
    }


def compare_risk_groups(predictions: pd.DataFrame) -> GroupComparison:
    """High against low risk under one seed, stratified by fold: ``fold``, ``time``, ``event``, ``risk``, ``high_risk``.

    The hazard ratio is that of a Cox model (Efron's ties) with its 95 % Wald interval; the log-rank p-value is
    two-sided and has no interval. Cases whose risk is not finite are in neither group.
    """
    rows = _grouped(predictions)
    try:
        _require_groups(rows)
        terms = np.array([_log_rank_terms(of_fold) for _, of_fold in rows.groupby("fold")])
        if not terms[:, 1].sum() > 0:
            where = "in any fold " if rows["fold"].nunique() > 1 else ""
            raise NotComputableError(
                f"no event {where}while cases of both groups are at risk and one survives it"
            )
    except NotComputableError as reason:
        none = metric(None, reason=str(reason))
        return {"hazard_ratio": none, "log_rank_p_value": none}
    excess, variance = terms[:, 0].sum(), terms[:, 1].sum()
    return {
        "hazard_ratio": _hazard_ratio(rows, terms),
        "log_rank_p_value": metric(float(chi2.sf(excess**2 / variance, 1))),
    }


def _grouped(predictions: pd.DataFrame) -> pd.DataFrame:
    rows: pd.DataFrame = predictions[np.isfinite(predictions["risk"])]
    return rows.assign(high=(rows["high_risk"] == 1).astype(int), event=(rows["event"] == 1).astype(int))


def _group(rows: pd.DataFrame, times: FloatArray) -> RiskGroup:
    curve = None if rows.empty else KaplanMeierFitter(alpha=1 - CONFIDENCE).fit(rows["time"], rows["event"])
    return {
        "cases": len(rows),
        "events": int(rows["event"].sum()),
        "at_risk": [int((rows["time"] >= t).sum()) for t in times],
        "kaplan_meier": curve and _steps(curve),
        "median_survival": _median_survival(curve)
        if curve
        else metric(None, reason="no cases in this group"),
    }


def _steps(curve: KaplanMeierFitter) -> dict[str, list[float]]:
    table = curve.event_table
    steps = (table["observed"] > 0).to_numpy()
    steps[[0, -1]] = True
    band = curve.confidence_interval_survival_function_.to_numpy()
    columns = (table.index.to_numpy(), curve.survival_function_.to_numpy()[:, 0], band[:, 0], band[:, 1])
    return {
        name: [_six_digits(value) for value in column[steps]]
        for name, column in zip(("time", "survival", "lower", "upper"), columns, strict=True)
    }


def _median_survival(curve: KaplanMeierFitter) -> Metric:
    median = float(curve.median_survival_time_)
    if not math.isfinite(median):
        return metric(None, reason="survival stays above one half throughout the follow-up")
    low, high = median_survival_times(curve.confidence_interval_survival_function_).to_numpy()[0]
    if not math.isfinite(high):
        reason = "no interval: the upper confidence limit of survival stays above one half"
        return metric(median, reason=reason)
    return metric(median, (float(low), float(high)))


def _require_groups(rows: pd.DataFrame) -> None:
    for code, name in ((1, "high"), (0, "low")):
        if not (rows["high"] == code).any():
            raise NotComputableError(f"no cases at {name} risk")
    if not rows["event"].any():
        raise NotComputableError("no events")


def _log_rank_terms(rows: pd.DataFrame) -> FloatArray:
    """Contribution of one fold to the log-rank test: ``(4,)``.

    Observed minus expected deaths at high risk, their variance, and the deaths at high and at low risk, at the
    times at which both groups are at risk and not all cases die (Mantel, Cancer Chemotherapy Reports 50 (1966) 163).
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


def _hazard_ratio(rows: pd.DataFrame, terms: FloatArray) -> Metric:
    high, low = terms[:, 2].sum(), terms[:, 3].sum()
    if high + low < MIN_EVENTS:
        return metric(
            None,
            reason=f"too few events while both groups are at risk: {high + low:.0f}, at least {MIN_EVENTS} required",
        )
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
    """The hazard ratio per unit of ``covariate`` in a fitted Cox model, with its Wald interval."""
    low, high = np.exp(fitted.confidence_intervals_.loc[covariate].to_numpy())
    return metric(float(np.exp(fitted.params_[covariate])), (float(low), float(high)))


def _six_digits(value: float) -> float:
    return float(f"{value:g}")
