"""Kaplan-Meier curves of the risk groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milsurv.explain.style import HIGH, INK, LOW, STYLE, WIDTH, plain, without_data
from milsurv.report.formatting import p_value, time

MIN_LABEL_DISTANCE = 0.08


@rc_context(STYLE)
def kaplan_meier(groups: Mapping[str, Any], time_unit: str, endpoint: str) -> Figure:
    """Survival at high and low risk with 95 % bands and numbers at risk, from ``evaluation.risk_groups``."""
    if all(groups[name]["kaplan_meier"] is None for name in ("high", "low")):
        return without_data("Survival at high and low risk", "no case has a finite risk")
    figure = Figure(figsize=(WIDTH, 4.6))
    axes = figure.add_axes((0.17, 0.31, 0.64, 0.62))
    ends = {}
    for name, colour in (("high", HIGH), ("low", LOW)):
        curve = groups[name]["kaplan_meier"]
        if curve is None:
            continue
        axes.step(curve["time"], curve["survival"], where="post", color=colour, linewidth=1.8)
        lower, upper = np.asarray(curve["lower"], dtype=float), np.asarray(curve["upper"], dtype=float)
        axes.fill_between(curve["time"], lower, upper, step="post", color=colour, alpha=0.18, linewidth=0)
        ends[name] = curve["survival"][-1]
    times = groups["at_risk_times"]
    for name, height in _apart(ends).items():
        colour = HIGH if name == "high" else LOW
        axes.text(
            1.02, height, f"{name} risk", color=colour, transform=axes.get_yaxis_transform(), va="center"
        )
    axes.set_xlim(0, times[-1])
    axes.set_ylim(0, 1.02)
    axes.set_xticks(times, [time(t) for t in times])
    axes.set_xlabel(f"Time ({time_unit})")
    axes.set_ylabel(f"Survival probability ({endpoint})")
    axes.set_title(f"log-rank {p_value(groups['log_rank_p_value']['value'])}", loc="right", fontsize=11)
    _numbers_at_risk(axes, groups)
    plain(axes)
    return figure


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Heights of the curves' labels: at the ends of the curves, without overlap."""
    heights = dict(ends)
    if len(heights) == 2 and abs(heights["high"] - heights["low"]) < MIN_LABEL_DISTANCE:
        middle = (heights["high"] + heights["low"]) / 2
        middle = min(max(middle, MIN_LABEL_DISTANCE / 2), 1 - MIN_LABEL_DISTANCE / 2)
        upper = "high" if heights["high"] > heights["low"] else "low"
        for name in heights:
            heights[name] = middle + (1 if name == upper else -1) * MIN_LABEL_DISTANCE / 2
    return heights


def _numbers_at_risk(axes: Axes, groups: Mapping[str, Any]) -> None:
    axes.text(-0.07, -0.29, "At risk", transform=axes.transAxes, ha="right", va="center", color=INK)
    for name, colour, height in (("high", HIGH, -0.37), ("low", LOW, -0.45)):
        axes.text(-0.07, height, name, transform=axes.transAxes, ha="right", va="center", color=colour)
        for t, count in zip(groups["at_risk_times"], groups[name]["at_risk"], strict=True):
            transform = axes.get_xaxis_transform()
            axes.text(t, height, str(count), transform=transform, ha="center", va="center", color=colour)
