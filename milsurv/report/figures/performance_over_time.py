"""How well the model tells cases apart, and how far its probabilities are off, as time goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milsurv.evaluation.times import time_text
from milsurv.explain.style import GREY, INK, LOW, STYLE, WIDTH, plain, without_data

AUC, BRIER, REFERENCE = "area_under_roc", "brier_score", "brier_score_kaplan_meier"


@rc_context(STYLE)
def performance_over_time(
    over_time: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    times: Sequence[float],
    time_unit: str,
) -> Figure:
    """AUC above, Brier score below, with that of Kaplan-Meier: the curves of ``over_time``.

    At the stated ``times`` the values of ``metrics`` are dots with their 95 % intervals. A time at which a value
    cannot be computed is a gap.
    """
    names = (AUC, BRIER, REFERENCE)
    stated = {name: [(t, metrics[f"{name}_at_{time_text(t)}"]) for t in times] for name in names}
    known = [found for name in (AUC, BRIER) for _, found in stated[name]]
    known += [found[name] for found in over_time for name in (AUC, BRIER)]
    if all(found["value"] is None for found in known):
        reason = known[0]["reason"] if known else "there are no events, so no times to measure at"
        return without_data("AUC and Brier score over time", reason)
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    above.annotate(
        "chance", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
    )
    _curve(above, over_time, AUC, stated[AUC], LOW, "-")
    above.set_ylabel("Area under the ROC curve")
    above.set_ylim(min(0.4, above.get_ylim()[0]), 1.02)
    _curve(below, over_time, REFERENCE, [], GREY, "--", "Kaplan-Meier, no model")
    _curve(below, over_time, BRIER, stated[BRIER], LOW, "-", "model")
    below.set_ylabel("Brier score")
    below.set_ylim(0, max(0.25, below.get_ylim()[1]))
    figure.legend(frameon=False, loc="outside lower right", ncols=2, fontsize=10)
    below.set_xlabel(f"Time ({time_unit})")
    below.set_xlim(left=0)
    for axes in (above, below):
        plain(axes)
    return figure


def _curve(
    axes: Axes,
    over_time: Sequence[Mapping[str, Any]],
    name: str,
    stated: Sequence[tuple[float, Mapping[str, Any]]],
    colour: str,
    line: str,
    label: str | None = None,
) -> None:
    values = [float("nan") if found[name]["value"] is None else found[name]["value"] for found in over_time]
    axes.plot([found["time"] for found in over_time], values, line, color=colour, linewidth=1.6, label=label)
    for t, found in stated:
        if found["value"] is not None:
            axes.plot(t, found["value"], "o", color=colour, markersize=5)
        if found["interval"]:
            axes.plot((t, t), found["interval"], color=colour, linewidth=1.4)
