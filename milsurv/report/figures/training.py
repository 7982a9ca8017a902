"""Training curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from milsurv.explain.style import GREY, HIGH, INK, STYLE, WIDTH, plain, without_data

PART_NAMES = {"train": "training", "validation": "validation", "reported": "test"}
PART_COLOURS = {"train": GREY, "validation": "#00735c", "reported": HIGH}


@rc_context(STYLE)
def training_curves(history: pd.DataFrame, folds: Sequence[int]) -> Figure:
    """Loss and C-index by epoch, a row for each of ``folds`` and a line for each seed; dots mark the selected epochs.

    ``history`` holds all folds (columns ``seed``, ``fold`` and those of ``history.csv``), so that every fold
    has the same axes.
    """
    if history.empty:
        return without_data("Training", "this folder has no training history")
    head, row, foot = 0.42, 1.75, 0.1
    height = head + row * len(folds) + foot
    figure = Figure(figsize=(WIDTH, height))
    limits = {quantity: _limits(history, quantity) for quantity in ("loss", "c_index")}
    for number, fold in enumerate(folds):
        bottom = (foot + row * (len(folds) - 1 - number) + 0.5) / height
        for left, quantity, label in ((0.13, "loss", "Loss"), (0.64, "c_index", "C-index")):
            axes = figure.add_axes((left, bottom, 0.34, (row - 0.72) / height))
            _history(axes, history[history["fold"] == fold], quantity)
            axes.set_xlim(0.5, max(history["epoch"].max(), 2) + 0.5)
            axes.set_ylim(*limits[quantity])
            axes.set_xlabel("Epoch")
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            plain(axes)
            if quantity == "loss":
                axes.set_title(f"Fold {fold}", loc="left", fontsize=11, fontweight="bold")
    top = 1 - 0.14 / height
    for place, part in zip((0.27, 0.42, 0.57), _parts(history), strict=False):
        figure.text(place, top, PART_NAMES[part], color=PART_COLOURS[part], va="top")
    figure.text(0.98, top, "● selected epoch", color=INK, va="top", ha="right")
    return figure


def _parts(history: pd.DataFrame) -> list[str]:
    """The sets of cases in the history: training, inner validation and test cases."""
    known = [part for part in PART_NAMES if f"{part}_loss" in history]
    return [part for part in known if history[f"{part}_loss"].notna().any()]


def _history(axes: Axes, history: pd.DataFrame, quantity: str) -> None:
    if quantity == "c_index":
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    parts = _parts(history)
    chooser = {"chosen": parts[1 if len(parts) > 1 else 0], "optimistic_chosen": parts[-1]}
    for _, run in history.groupby("seed"):
        marker = "." if len(run) == 1 else ""
        for part in parts:
            style, width = ("--", 1.2) if part == "train" else ("-", 1.4)
            values = run[f"{part}_{quantity}"]
            axes.plot(
                run["epoch"],
                values,
                color=PART_COLOURS[part],
                linewidth=width,
                linestyle=style,
                marker=marker,
            )
        for column, fill in (("chosen", INK), ("optimistic_chosen", "none")):
            if column in run:
                kept = run[run[column] == 1]
                axes.plot(
                    kept["epoch"],
                    kept[f"{chooser[column]}_{quantity}"],
                    "o",
                    markeredgecolor=INK,
                    markerfacecolor=fill,
                    markersize=4.5,
                )


def _limits(history: pd.DataFrame, quantity: str) -> tuple[float, float]:
    values = history[[f"{part}_{quantity}" for part in _parts(history)]].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    if quantity == "c_index":
        return min(0.4, float(finite.min(initial=0.4))) - 0.03, 1.03
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin
