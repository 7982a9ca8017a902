"""All figures of a run by name: for the report, for ``milsurv figures``, and for Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

from milsurv.errors import MilsurvError, nearest
from milsurv.explain.style import STYLE, mark_optimistic
from milsurv.report import captions
from milsurv.report.figures.calibration import calibration
from milsurv.report.figures.kaplan_meier import kaplan_meier
from milsurv.report.figures.performance_over_time import performance_over_time
from milsurv.report.figures.risk_distribution import risk_distribution
from milsurv.report.figures.survival_curves import survival_curves
from milsurv.report.figures.training import training_curves
from milsurv.report.results import RunResults
from milsurv.report.svg import svg_file
from milsurv.storage.atomic import atomic_path, write_text

Format = Literal["png", "pdf", "svg"]
DPI = 300


@dataclass(frozen=True)
class FigureKind:
    """A figure that every run has, and what is said of it."""

    title: str
    draw: Callable[[RunResults], Figure]
    describe: Callable[[RunResults], str]
    """What it shows, in words, for those who do not see it."""
    caption: Callable[[RunResults], str]


FIGURES: dict[str, FigureKind] = {
    "kaplan_meier": FigureKind(
        "Survival of high and low risk",
        lambda results: kaplan_meier(results.first_seed["risk_groups"], *_units(results)),
        captions.describe_kaplan_meier,
        captions.kaplan_meier,
    ),
    "calibration": FigureKind(
        "Calibration",
        lambda results: calibration(results.first_seed["calibration"]["at"], results.cohort["time_unit"]),
        captions.describe_calibration,
        captions.calibration,
    ),
    "performance_over_time": FigureKind(
        "AUC and Brier score over time",
        lambda results: performance_over_time(
            results.first_seed.get("over_time", []),
            results.first_seed["metrics"],
            results.metrics["times"],
            results.cohort["time_unit"],
        ),
        captions.describe_performance,
        captions.performance,
    ),
    "survival_curves": FigureKind(
        "Survival predicted of single cases",
        lambda results: survival_curves(results.first_predictions, *_units(results)),
        captions.describe_survival,
        captions.survival,
    ),
    "risk_distribution": FigureKind(
        "Distribution of risk",
        lambda results: risk_distribution(results.first_predictions),
        captions.describe_risk,
        captions.risk,
    ),
    "training": FigureKind(
        "Training",
        lambda results: training_curves(results.history, results.folds),
        captions.describe_all_training,
        captions.training,
    ),
}


def draw(name: str, results: RunResults) -> Figure:
    """The figure of that name, marked when its numbers are optimistic.

    Raises MilsurvError when there is no figure of that name. What cannot be drawn is a figure that says why.
    """
    if name not in FIGURES:
        raise MilsurvError(
            f"figure {name!r}: there is none of this name{nearest(name, FIGURES)}; there are: {', '.join(FIGURES)}"
        )
    return marked(FIGURES[name].draw(results), results)


def marked(figure: Figure, results: RunResults) -> Figure:
    """The figure, which says so itself when its numbers are optimistic."""
    return mark_optimistic(figure) if results.optimistic else figure


def save_figures(results: RunResults, folder: Path, kind: Format) -> list[Path]:
    """Write every figure as ``<name>.<kind>`` into ``folder``, which is made; the paths, in the order of `FIGURES`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in FIGURES:
        path = folder / f"{name}.{kind}"
        save(draw(name, results), path, kind)
        paths.append(path)
    return paths


def save(figure: Figure, path: Path, kind: Format) -> None:
    """Write a figure whole or not at all, the same bytes each time: PNG at 300 dpi, PDF with letters as letters."""
    if kind == "svg":
        write_text(path, svg_file(figure, svg_name(path.stem)))
        return
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    with atomic_path(path) as temporary, matplotlib.rc_context(STYLE):
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)


def svg_name(name: str) -> str:
    """What the ids of the figure of that name begin with."""
    return name.replace("_", "-")


def _units(results: RunResults) -> tuple[str, str]:
    return results.cohort["time_unit"], results.cohort["endpoint"]
