"""Metrics with their bootstrap intervals, or the reasons for missing values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict, cast

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MIN_EVENTS = 5
"""Events below which no bootstrap interval is given: resamples would repeat or miss most of them."""
CONFIDENCE = 0.95


class Metric(TypedDict):
    """A metric in ``metrics.json``: ``reason`` says why the value, or only its interval, is missing."""

    value: float | None
    interval: list[float] | None
    reason: str | None
    statistic: NotRequired[float | None]
    truncated_at: NotRequired[float | None]
    truncated_at_by_fold: NotRequired[dict[str, float | None]]


class NotComputableError(Exception):
    """The metric is undefined for these cases; the message becomes its ``reason``."""


def metric(
    value: float | None, interval: tuple[float, float] | None = None, reason: str | None = None
) -> Metric:
    """A metric from its parts."""
    return {"value": value, "interval": list(interval) if interval else None, "reason": reason}


def with_interval(compute: Callable[[], FloatArray], details: Mapping[str, object] | None = None) -> Metric:
    """The metric whose value and bootstrap distribution ``compute`` returns, with further keys ``details``.

    ``compute`` returns ``(1 + resamples,)``: the observed value, then one value per resample. The interval is
    the 95 % percentile interval of the bootstrap (Efron and Tibshirani 1993, chapter 13). Resamples in which
    the metric is undefined (NaN) are ignored; without an interval when these are more than half.
    """
    return cast(Metric, {**_estimate(compute), **(details or {})})


def _estimate(compute: Callable[[], FloatArray]) -> Metric:
    try:
        values = compute()
    except NotComputableError as error:
        return metric(None, reason=str(error))
    value, resamples = float(values[0]), values[1:]
    usable = resamples[np.isfinite(resamples)]
    if not resamples.size:
        return metric(value, reason="no interval: evaluation.bootstraps is 0")
    if 2 * usable.size < resamples.size:
        undefined = resamples.size - usable.size
        return metric(
            value,
            reason=f"no interval: not computable in {undefined} of {resamples.size} bootstrap resamples",
        )
    low, high = np.quantile(usable, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return metric(value, (float(low), float(high)))


def too_few_for_intervals(events: int) -> str | None:
    """The reason for not giving intervals with so few events; None when there are enough."""
    if events >= MIN_EVENTS:
        return None
    return f"no interval: {events} events, and a bootstrap interval requires at least {MIN_EVENTS}"


def without_interval(found: Metric, reason: str) -> Metric:
    """The metric without its interval, with ``reason`` unless it already has a reason."""
    return {**found, "interval": None, "reason": found["reason"] or reason}


def once(compute: Callable[[], FloatArray]) -> Callable[[], FloatArray]:
    """Call ``compute`` once, now; the returned function repeats its values or its NotComputableError."""
    try:
        values = compute()
    except NotComputableError as error:
        return not_computable(str(error))
    return lambda: values


def not_computable(reason: str) -> Callable[[], FloatArray]:
    """A function that raises NotComputableError with ``reason``."""

    def fail() -> FloatArray:
        raise NotComputableError(reason)

    return fail


def difference(first: Callable[[], FloatArray], second: Callable[[], FloatArray]) -> Callable[[], FloatArray]:
    """The paired difference of two bootstrap distributions from the same resamples."""
    return lambda: first() - second()
