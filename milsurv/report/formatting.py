"""Numbers as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from milsurv.evaluation.intervals import Metric

DASH = "–"


def number(value: float | None) -> str:
    """Three decimals, or a dash for None and NaN."""
    return DASH if value is None or value != value else f"{value:.3f}"


def interval(ends: Sequence[float] | None) -> str:
    """``0.640–0.771``, ``-0.020 to 0.110`` with a negative end, or a dash."""
    if ends is None:
        return DASH
    return f"{ends[0]:.3f}{' to ' if min(ends) < 0 else '–'}{ends[1]:.3f}"


def with_interval(metric: Metric) -> str:
    """``0.706 (0.640–0.771)``; the value without an interval, a dash without a value."""
    value = number(metric["value"])
    return f"{value} ({interval(metric['interval'])})" if metric["interval"] else value


def time(value: float) -> str:
    """A time to about three digits, never in powers of ten."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def p_value(p: float | None) -> str:
    """``p = 0.012``, ``p < 0.001``, or ``p = –``."""
    if p is not None and p < 0.001:
        return "p < 0.001"
    return f"p = {number(p)}"


def bare_p_value(p: float | None) -> str:
    """``0.012`` or ``< 0.001``."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def ratio(value: float) -> str:
    """``2.13``; three digits when two decimals would be too few or too many."""
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.3g}"


def count(n: int, singular: str, plural: str | None = None) -> str:
    """``1 case``, ``2 cases``."""
    return f"{n} {singular if n == 1 else plural or singular + 's'}"


def listed(items: Sequence[object]) -> str:
    """``a, b and c``."""
    *before, last = map(str, items)
    return f"{', '.join(before)} and {last}" if before else last


FORMATS: Mapping[str, Callable[[float], str]] = {"number": number, "ratio": ratio, "p_value": bare_p_value}
"""How the values of a metric are shown, by ``MetricInfo.format``."""
