"""Distribution of the predicted risk."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from milsurv.explain.style import HIGH, INK, LOW, STYLE, WIDTH, plain, without_data
from milsurv.report.figures.survival_curves import by_risk

BINS = 30
GROUPS = {1: "Cases with the event", 0: "Censored cases"}
TITLE = "The distribution of risk"


@rc_context(STYLE)
def risk_distribution(predictions: pd.DataFrame) -> Figure:
    """Standardised risk under one seed: cases with the event above, censored cases below.

    0 is the median risk of each fold's training cases: the cut between low (blue) and high risk (orange).
    """
    cases = by_risk(predictions)
    risk = cases["standardized_risk"].to_numpy(dtype=float)
    if not risk.size:
        return without_data(TITLE, "no case has a finite risk")
    if np.ptp(risk) == 0:
        return without_data(TITLE, f"all {len(risk)} cases have the same risk")
    width = np.ptp(risk) / BINS
    places = np.ceil(risk / width).astype(int)  # 0 and values just below share a bin: both are low risk
    bins = np.arange(places.min(), places.max() + 1)
    centres = (bins - 0.5) * width
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, (code, heading) in zip(panels, GROUPS.items(), strict=True):
        of_group = places[cases["event"].to_numpy() == code]
        counts = np.bincount(of_group - bins[0], minlength=len(bins))
        axes.bar(centres, counts, width, color=np.where(centres > 0, HIGH, LOW), edgecolor="white")
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=":")
        axes.set_title(f"{heading} ({len(of_group)})", loc="left", fontsize=11)
        axes.set_ylabel("Cases")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        plain(axes)
    panels[-1].set_xlabel("Standardised risk (standard deviations of the training cases)")
    for right, name, colour in ((0.76, "low risk", LOW), (1, "high risk", HIGH)):
        panels[0].text(right, 1.04, name, transform=panels[0].transAxes, color=colour, ha="right")
    return figure
