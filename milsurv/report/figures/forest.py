"""Forest plot of a comparison of runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milsurv.evaluation.intervals import Metric
from milsurv.evaluation.metrics import read_definitions
from milsurv.evaluation.schema import Comparison
from milsurv.explain.style import INK, LOW, STYLE, WIDTH, plain


@rc_context(STYLE)
def forest(comparison: Comparison) -> Figure:
    """For each compared metric, the runs' values and their differences with 95 % intervals."""
    runs, panels = comparison["runs"], []
    names = {
        run["name"]: run["name"] + " (optimistic)" * (run["selection"] == "reported_fold") for run in runs
    }
    for name, info in read_definitions(comparison).items():
        title = info.label or info.title
        pairs = [pair for pair in comparison["pairs"] if pair["metric"] == name]
        differences = [(f"{names[p['first']]} - {names[p['second']]}", p["difference"]) for p in pairs]
        panels.append(([(names[run["name"]], run[name]) for run in runs], title, info.chance))
        panels.append((differences, f"Difference in {title}", 0.0))
    heights = [len(rows) + 1 for rows, _, _ in panels]
    figure = Figure(figsize=(WIDTH, 0.34 * sum(heights) + 0.46 * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), 1, height_ratios=heights), panels, strict=True):
        _panel(axes, *panel)
    return figure


def _panel(axes: Axes, rows: Sequence[tuple[str, Metric]], label: str, reference: float | None) -> None:
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=0.8, linestyle=":")
    for place, (_, found) in enumerate(reversed(rows)):
        if found["value"] is not None:
            axes.plot(found["value"], place, "s", color=LOW, markersize=5)
        if found["interval"]:
            axes.plot(found["interval"], (place, place), color=LOW, linewidth=1.6)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"{label}, 95 % interval")
    plain(axes)
