"""What a metric is on the page: a value, its interval, and a reason for whatever of the two is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Metric = dict[str, Any]
"""``{"value": float | None, "interval": [low, high] | None, "reason": str | None}``."""

FEWEST_EVENTS = 5
"""Of an interval by bootstrap."""
CONFIDENCE = 0.95


class NotComputableError(Exception):
    """This metric cannot be computed on these cases; the message is the reason to give for it."""


def metric(
    value: float | None,
    interval: tuple[float, float] | None = None,
    reason: str | None = None,
    **details: Any,
) -> Metric:
    """The three keys of every metric, and what else there is to say about this one."""
    return {"value": value, "interval": list(interval) if interval else None, "reason": reason, **details}


def measured(compute: Callable[[], FloatArray], **details: Any) -> Metric:
    """A metric from ``compute``, which gives ``(1 + resamples,)``: the observed value, then one per resample.

    The interval is the 95 % percentile interval of the bootstrap (Efron and Tibshirani 1993, chapter 13).
    Resamples in which the metric does not exist (NaN) are left out; when these are more than half, so is
    the interval.
    """
    try:
        values = compute()
    except NotComputableError as error:
        return metric(None, reason=str(error), **details)
    value, resamples = float(values[0]), values[1:]
    usable = resamples[np.isfinite(resamples)]
    if not resamples.size:
        return metric(value, reason="no interval: evaluation.bootstraps is 0", **details)
    if 2 * usable.size < resamples.size:
        lost = resamples.size - usable.size
        reason = f"no interval: not computable in {lost} of {resamples.size} bootstrap resamples"
        return metric(value, reason=reason, **details)
    low, high = np.quantile(usable, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return metric(value, (float(low), float(high)), **details)


def too_few_for_intervals(events: int) -> str | None:
    """Why so few events have no interval: resamples repeat or miss them. None where there are enough."""
    if events >= FEWEST_EVENTS:
        return None
    return f"no interval: with {events} events, where a bootstrap takes {FEWEST_EVENTS}, it would say nothing"


def without_interval(found: Metric, reason: str) -> Metric:
    """The metric without its interval, for that reason unless there is one already."""
    return {**found, "interval": None, "reason": found["reason"] or reason}
