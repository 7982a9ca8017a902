"""Predicted survival curves of single cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from milsurv.evaluation.times import SURVIVAL
from milsurv.explain.style import STYLE, WIDTH, plain, without_data

QUANTILES = {
    0.9: ("#d55e00", "solid"),
    0.7: ("#e69f00", (0, (8, 2))),
    0.5: ("#000000", (0, (5, 3))),
    0.3: ("#56b4e9", (0, (3, 3))),
    0.1: ("#0072b2", (0, (1, 2))),
}
"""Quantiles of the standardised risk, with the colour (Okabe and Ito) and line style of the case at each.

Later lines have wider gaps, through which the lines below stay visible where predictions are nearly equal.
"""
GREY = "#c8c8c8"
MAX_GREY = 300
MAX_ID = 24


@rc_context(STYLE)
def survival_curves(predictions: pd.DataFrame, time_unit: str, endpoint: str) -> Figure:
    """Predicted survival of one seed's cases over time: five across the range of risk in colour, others grey.

    ``predictions`` has ``case_id``, ``standardized_risk`` and the ``survival_at_<t>`` of each case. Of more than 300
    cases the grey ones are a sample, even in risk.
    """
    columns = {float(c.removeprefix(SURVIVAL)): c for c in predictions.columns if c.startswith(SURVIVAL)}
    if not columns:
        return without_data("Predicted survival", "there are no events, so there are no evaluation times")
    times = sorted(columns)
    ranked = by_risk(predictions)
    survival = ranked[[columns[t] for t in times]].to_numpy(dtype=float)
    if ranked.empty or not np.isfinite(survival).all(axis=1).any():
        return without_data("Predicted survival", "no case has a finite risk and finite probabilities")
    points = np.hstack([np.ones((len(survival), 1)), survival])
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.add_subplot()
    sample = np.unique(np.linspace(0, len(points) - 1, min(MAX_GREY, len(points))).round().astype(int))
    lines = [np.column_stack([[0, *times], points[place]]) for place in sample]
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.5))
    for quantile, place in chosen(len(ranked)).items():
        label = f"{100 * quantile:.0f} %: {_short(ranked['case_id'].iloc[place])}"
        color, style = QUANTILES[quantile]
        axes.plot([0, *times], points[place], color=color, linestyle=style, linewidth=2, label=label)
    axes.set_xlim(0, times[-1])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"Time ({time_unit})")
    axes.set_ylabel(f"Predicted survival ({endpoint})")
    figure.legend(
        title="Rank of risk: case",
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        ncols=2,
        loc="outside lower left",
    )
    plain(axes)
    return figure


def _short(case_id: str) -> str:
    """An id shortened for the legend, without unprintable characters."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in case_id)
    return shown if len(shown) <= MAX_ID else f"{shown[: MAX_ID - 1]}…"


def by_risk(predictions: pd.DataFrame) -> pd.DataFrame:
    """The cases with a finite standardised risk in ascending order, each from the first fold that tested it."""
    once = predictions.sort_values("fold", kind="stable").drop_duplicates("case_id")
    finite = once[np.isfinite(once["standardized_risk"].astype(float))]
    return finite.sort_values(["standardized_risk", "case_id"])


def chosen(cases: int) -> dict[float, int]:
    """Quantile -> position of its case among ``cases`` sorted by risk, each position once."""
    places: dict[float, int] = {}
    for quantile in QUANTILES:
        place = min(int(quantile * cases), cases - 1)
        if place not in places.values():
            places[quantile] = place
    return places
