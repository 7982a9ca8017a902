"""High and low risk: Kaplan-Meier curves of the two groups and the log-rank test between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import median_survival_times

from milsurv.evaluation.metric import CONFIDENCE, FloatArray, Metric, metric

AT_RISK_TIMES = 6
NOTE = (
    "A case is at high risk when its risk is above the median risk of its fold's training cases. Groups are "
    "pooled over folds, and so is the log-rank test of the curves. Models of different folds share "
    "training cases, so the p-value is a guide only."
)


def risk_groups(predictions: pd.DataFrame) -> dict[str, Any]:
    """The two groups of one seed, from columns ``time``, ``event``, ``risk`` and ``high_risk`` (1 or 0).

    ``{"high": …, "low": …, "ungrouped": n, "at_risk_times": […], "log_rank_p_value": metric, "note": …}``;
    ``ungrouped`` counts cases whose risk is not a finite number. Each group has
    ``cases``, ``events``, ``kaplan_meier`` (``time``, ``survival``, and its 95 % band ``lower``, ``upper``:
    a step at each event time, from time 0 to the last follow-up; null for an empty group), ``at_risk``
    (cases still followed at each of ``at_risk_times``) and ``median_survival``.
    """
    last = float(predictions["time"].max())
    times = np.linspace(0, last, AT_RISK_TIMES)
    grouped = predictions[np.isfinite(predictions["risk"])]
    high, low = grouped[grouped["high_risk"] == 1], grouped[grouped["high_risk"] != 1]
    return {
        "high": _group(high, times),
        "low": _group(low, times),
        "ungrouped": len(predictions) - len(grouped),
        "at_risk_times": [_six_digits(t) for t in times],
        "log_rank_p_value": _log_rank_p_value(high, low),
        "note": NOTE,
    }


def _group(rows: pd.DataFrame, times: FloatArray) -> dict[str, Any]:
    group: dict[str, Any] = {
        "cases": len(rows),
        "events": int((rows["event"] == 1).sum()),
        "at_risk": [int((rows["time"] >= t).sum()) for t in times],
    }
    if rows.empty:
        return group | {
            "kaplan_meier": None,
            "median_survival": metric(None, reason="no cases in this group"),
        }
    curve = KaplanMeierFitter(alpha=1 - CONFIDENCE).fit(rows["time"], rows["event"])
    return group | {"kaplan_meier": _steps(curve), "median_survival": _median_survival(curve)}


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


def _log_rank_p_value(high: pd.DataFrame, low: pd.DataFrame) -> Metric:
    for name, rows in (("high", high), ("low", low)):
        if rows.empty:
            return metric(None, reason=f"no cases at {name} risk")
    if not (high["event"].any() or low["event"].any()):
        return metric(None, reason="no events")
    if not _informative(high, low):
        return metric(None, reason="no event while cases of both groups are at risk and one of them lives on")
    return metric(float(logrank_test(high["time"], low["time"], high["event"], low["event"]).p_value))


def _informative(high: pd.DataFrame, low: pd.DataFrame) -> bool:
    """Whether the log-rank statistic has any variance; where it has none, lifelines gives p = 1."""
    both = pd.concat([high, low])
    both_followed = both["time"] <= min(high["time"].max(), low["time"].max())
    times, deaths = np.unique(both["time"][both_followed & (both["event"] == 1)], return_counts=True)
    return any((both["time"] >= t).sum() > d for t, d in zip(times, deaths, strict=True))


def _six_digits(value: float) -> float:
    return float(f"{value:g}")
