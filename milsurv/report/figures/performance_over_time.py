"""Metrics over time, such as AUC and Brier score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milsurv.evaluation.intervals import Metric
from milsurv.evaluation.metrics import AT, MetricInfo
from milsurv.evaluation.times import time_text
from milsurv.explain.style import GREY, INK, LOW, STYLE, WIDTH, plain, without_data

PANEL = 2.6
"""Height of a panel, in inches."""


@rc_context(STYLE)
def performance_over_time(
    account: Mapping[str, Any], curves: Sequence[MetricInfo], times: Sequence[float], time_unit: str
) -> Figure:
    """A panel for each of ``curves`` that is better higher or lower, with its reference dashed.

    ``account`` has the curves in ``over_time``, and in ``metrics`` the values at the evaluation ``times``, which are
    drawn as dots with their 95 % intervals. Where a value cannot be computed, the curve has a gap.
    """
    over_time: Sequence[Mapping[str, Any]] = account.get("over_time", [])
    shown = [info for info in curves if info.direction]
    stated = {
        info.name: [(t, account["metrics"][f"{info.name}{AT}{time_text(t)}"]) for t in times]
        for info in shown
    }
    known = [found for values in stated.values() for _, found in values]
    known += [found[info.name] for found in over_time for info in shown]
    if all(found["value"] is None for found in known):
        reason = known[0]["reason"] if known else "there are no events, so there are no evaluation times"
        return without_data("Performance over time", reason)
    figure = Figure(figsize=(WIDTH, PANEL * len(shown) + 0.2), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, info in zip(panels, shown, strict=True):
        if info.chance is not None:
            _chance(axes, info.chance)
        if info.reference:
            _curve(axes, over_time, info.reference, GREY, "--", "Kaplan-Meier, no model")
        _curve(axes, over_time, info.name, LOW, "-", "model" if info.reference else None)
        _points(axes, stated[info.name])
        _set_limits(axes, info)
        axes.set_ylabel(info.title)
        axes.set_xlim(left=0)
        plain(axes)
    panels[-1].set_xlabel(f"Time ({time_unit})")
    figure.legend(frameon=False, loc="outside lower right", ncols=2, fontsize=10)
    return figure


def _curve(
    axes: Axes, over_time: Sequence[Mapping[str, Any]], name: str, colour: str, line: str, label: str | None
) -> None:
    values = [float("nan") if found[name]["value"] is None else found[name]["value"] for found in over_time]
    axes.plot([found["time"] for found in over_time], values, line, color=colour, linewidth=1.6, label=label)


def _points(axes: Axes, stated: Sequence[tuple[float, Metric]]) -> None:
    for t, found in stated:
        if found["value"] is not None:
            axes.plot(t, found["value"], "o", color=LOW, markersize=5)
        if found["interval"]:
            axes.plot((t, t), found["interval"], color=LOW, linewidth=1.4)


def _chance(axes: Axes, value: float) -> None:
    axes.axhline(value, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate(
        "chance", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
    )


def _set_limits(axes: Axes, info: MetricInfo) -> None:
    if info.chance is not None:
        axes.set_ylim(min(info.chance - 0.1, axes.get_ylim()[0]), 1.02)
    elif info.direction == "lower":
        axes.set_ylim(0, max(0.25, axes.get_ylim()[1]))
