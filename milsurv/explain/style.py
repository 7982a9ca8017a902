"""Common style of all figures: colours that colour-blind readers can distinguish, fonts, sizes."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

HIGH, LOW = "#d55e00", "#0072b2"
INK, GREY = "#222222", "#767676"
WIDTH = 5.6
"""Inches; narrow enough for the text to be readable on a phone."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.usetex": False,
    "text.parse_math": False,
    "pdf.fonttype": 42,
}
"""Names from files are shown literally: a dollar sign does not start a formula."""
LINE_LENGTH = 52
MARK_INCHES = 0.25
"""Height of the word "optimistic" above a figure."""


def plain(axes: Axes) -> None:
    """Remove the upper and right spines."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=10)


@rc_context(STYLE)
def without_data(title: str, reason: str) -> Figure:
    """A placeholder with the title of the figure and the reason why it cannot be drawn."""
    said = textwrap.fill(f"{title} cannot be drawn: {reason}.", LINE_LENGTH)
    figure = Figure(figsize=(WIDTH, 0.5 + 0.22 * (said.count("\n") + 1)))
    figure.text(0.5, 0.5, said, color=INK, ha="center", va="center")
    return figure


@rc_context(STYLE)
def mark_optimistic(figure: Figure) -> Figure:
    """Mark a figure whose models were selected on the test cases."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 1 - MARK_INCHES / figure.get_figheight()))
    figure.text(0.01, 0.99, "optimistic", color=HIGH, va="top", fontsize=10, fontweight="bold")
    return figure
