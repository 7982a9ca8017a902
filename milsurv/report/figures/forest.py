"""Runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from milsurv.explain.style import INK, LOW, STYLE, WIDTH, plain


@rc_context(STYLE)
def forest(comparison: Mapping[str, Any]) -> Figure:
    """The runs' C-indices and their differences with 95 % intervals, from ``comparison.compare_runs``."""
    runs, pairs = comparison["runs"], comparison["pairs"]
    named = {
        run["name"]: run["name"] + " (optimistic)" * (run["selection"] == "reported_fold") for run in runs
    }
    sides = (
        ([(named[run["name"]], run["harrell_c_index"]) for run in runs], "Harrell's C", 0.5),
        (
            [(f"{named[pair['first']]} - {named[pair['second']]}", pair["difference"]) for pair in pairs],
            "Difference in Harrell's C",
            0.0,
        ),
    )
    figure = Figure(figsize=(WIDTH, 1.6 + 0.34 * (len(runs) + len(pairs))), layout="constrained")
    heights = [len(runs) + 1, len(pairs) + 1]
    for axes, (rows, label, nothing) in zip(figure.subplots(2, 1, height_ratios=heights), sides, strict=True):
        axes.axvline(nothing, color=INK, linewidth=0.8, linestyle=":")
        for place, (_, found) in enumerate(reversed(rows)):
            if found["value"] is not None:
                axes.plot(found["value"], place, "s", color=LOW, markersize=5)
            if found["interval"]:
                axes.plot(found["interval"], (place, place), color=LOW, linewidth=1.6)
        axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"{label}, 95 % interval")
        plain(axes)
    return figure
