"""Calibration plots: observed against predicted survival."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milsurv.evaluation.times import time_text
from milsurv.explain.style import GREY, INK, LOW, STYLE, WIDTH, plain, without_data

COLUMNS = 2
REASON_LENGTH = 24


@rc_context(STYLE)
def calibration(at: Sequence[Mapping[str, Any]], time_unit: str) -> Figure:
    """Observed against predicted survival in groups of cases: a panel for each time of ``calibration.at``.

    Observed is the group's Kaplan-Meier survival, with its 95 % interval; on the diagonal the two agree.
    """
    if not at:
        return without_data(
            "Calibration", "no evaluation times are set, and there are no events to derive them from"
        )
    columns = min(COLUMNS, len(at))
    rows = ceil(len(at) / columns)
    figure = Figure(figsize=(WIDTH, WIDTH / columns * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, found in zip(panels, at, strict=False):
        axes.set_title(f"{time_text(found['time'])} {time_unit}", loc="left", fontsize=11)
        axes.set_box_aspect(1)
        _panel(axes, found)
    for axes in panels[len(at) :]:
        axes.axis("off")
    return figure


def _panel(axes: Axes, found: Mapping[str, Any]) -> None:
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.9, linestyle=":")
    axes.set_xticks((0, 0.5, 1))
    axes.set_yticks((0, 0.5, 1))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Predicted survival")
    axes.set_ylabel("Observed survival")
    plain(axes)
    if found["groups_reason"] is not None:
        said = textwrap.fill(found["groups_reason"], REASON_LENGTH)
        axes.text(0.5, 0.5, said, color=INK, ha="center", va="center", fontsize=9)
        return
    for group in found["groups"]:
        observed = group["observed"]
        if observed["value"] is None:
            continue
        if observed["interval"]:
            axes.plot((group["predicted"],) * 2, observed["interval"], color=LOW, linewidth=1.4)
        axes.plot(group["predicted"], observed["value"], "o", color=LOW, markersize=5)
    unknown = sum(group["observed"]["value"] is None for group in found["groups"])
    if unknown:
        said = f"{unknown} of {len(found['groups'])} groups not followed so far"
        axes.text(0.98, 0.04, textwrap.fill(said, REASON_LENGTH), ha="right", fontsize=9, color=INK)
