"""The report's curves, as matplotlib figures made without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from milsurv.report.wording import p_value, time

HIGH, LOW = "#d55e00", "#0072b2"
PART_NAMES = {"train": "training", "validation": "validation", "reported": "reported"}
PART_COLOURS = {"train": "#767676", "validation": "#00735c", "reported": HIGH}
INK = "#222222"
WIDTH = 5.6
"""Inches, so narrow that the text stays readable on a phone."""
MIN_LABEL_DISTANCE = 0.08
STYLE: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 11, "text.usetex": False}


@rc_context(STYLE)
def kaplan_meier(groups: Mapping[str, Any], time_unit: str, endpoint: str) -> Figure:
    """Survival of high and low risk with 95 % bands and numbers at risk, from ``evaluation.risk_groups``."""
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
    _plain(axes)
    return figure


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
        _plain(axes)
    return figure


def mark_optimistic(figure: Figure) -> Figure:
    """Say in the figure itself that the reported cases chose the epoch."""
    figure.text(0.01, 0.99, "optimistic", color=HIGH, va="top", fontsize=10, fontweight="bold")
    return figure


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Heights of the curves' labels: at the curves' ends, but not over one another."""
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


@rc_context(STYLE)
def training_curves(history: pd.DataFrame, folds: Sequence[int]) -> Figure:
    """Loss and C-index by epoch, a row for each of ``folds`` and a line for each seed; dots mark the epochs kept.

    ``history`` holds all folds (columns ``seed``, ``fold`` and those of ``history.csv``), so that every fold
    has the same axes.
    """
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
            _plain(axes)
            if quantity == "loss":
                axes.set_title(f"Fold {fold}", loc="left", fontsize=11, fontweight="bold")
    top = 1 - 0.14 / height
    for place, part in zip((0.27, 0.42, 0.57), _parts(history), strict=False):
        figure.text(place, top, PART_NAMES[part], color=PART_COLOURS[part], va="top")
    figure.text(0.98, top, "● epoch kept", color=INK, va="top", ha="right")
    return figure


def _parts(history: pd.DataFrame) -> list[str]:
    """Whose loss and C-index the history has: the cases that train, that choose, that are reported."""
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


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=10)
