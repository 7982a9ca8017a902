"""The figures of a run by name: for the report, ``milsurv figures`` and `FinishedRun.figure`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from milsurv.errors import MilsurvError, nearest
from milsurv.evaluation.times import SURVIVAL, survival_column
from milsurv.explain.style import STYLE, mark_optimistic
from milsurv.report.figures.calibration import calibration
from milsurv.report.figures.kaplan_meier import kaplan_meier
from milsurv.report.figures.performance_over_time import performance_over_time
from milsurv.report.figures.risk_distribution import risk_distribution
from milsurv.report.figures.survival_curves import MAX_GREY, by_risk, chosen, survival_curves
from milsurv.report.figures.training import training_curves
from milsurv.report.rendering import line
from milsurv.report.results import RunResults
from milsurv.report.svg import svg_file
from milsurv.storage.atomic import atomic_path, write_text

Format = Literal["png", "pdf", "svg"]
DPI = 300


@dataclass(frozen=True)
class FigureKind:
    """A figure of a run. Its caption, and its description as a text alternative, are in ``templates/captions.txt``."""

    title: str
    draw: Callable[[RunResults], Figure]
    facts: Callable[[RunResults], Any] | None = None
    """Computes additional facts for the caption and the description."""


def _curves(results: RunResults) -> dict[str, Any]:
    """The coloured survival curves: quantile of risk, case and survival at the last time."""
    predictions = results.first_predictions
    times = [float(c.removeprefix(SURVIVAL)) for c in predictions.columns if c.startswith(SURVIVAL)]
    ranked, last = by_risk(predictions), max(times, default=0.0)
    return {
        "cases": len(ranked),
        "max_grey": MAX_GREY,
        "t": last,
        "curves": [
            (quantile, ranked["case_id"].iloc[place], ranked[survival_column(last)].iloc[place])
            for quantile, place in chosen(len(ranked)).items()
            if times and len(ranked)
        ],
    }


def _risks(results: RunResults) -> list[tuple[Any, ...]]:
    """Median and quartiles of the standardised risk of cases with and without an event."""
    cases = by_risk(results.first_predictions)
    groups = [
        (name, cases.loc[cases["event"] == code, "standardized_risk"])
        for code, name in ((1, "with the event"), (0, "censored"))
    ]
    return [(name, len(risk), *risk.quantile([0.25, 0.5, 0.75])) for name, risk in groups if len(risk)]


def training_runs(history: pd.DataFrame) -> list[dict[str, Any]]:
    """The first, the last and the selected epoch of each training."""
    return [
        {
            "fold": fold,
            "seed": seed,
            "epochs": len(run),
            "first": run.iloc[0].to_dict(),
            "last": run.iloc[-1].to_dict(),
            "selected": run[run["chosen"] == 1].iloc[0].to_dict(),
        }
        for (fold, seed), run in history.groupby(["fold", "seed"])
    ]


FIGURES: dict[str, FigureKind] = {
    "kaplan_meier": FigureKind(
        "Survival at high and low risk",
        lambda results: kaplan_meier(results.first_seed["risk_groups"], *_units(results)),
    ),
    "calibration": FigureKind(
        "Calibration",
        lambda results: calibration(results.first_seed["calibration"]["at"], results.cohort["time_unit"]),
    ),
    "performance_over_time": FigureKind(
        "Performance over time",
        lambda results: performance_over_time(
            results.first_seed, results.curves, results.metrics["times"], results.cohort["time_unit"]
        ),
    ),
    "survival_curves": FigureKind(
        "Predicted survival of single cases",
        lambda results: survival_curves(results.first_predictions, *_units(results)),
        _curves,
    ),
    "risk_distribution": FigureKind(
        "Distribution of risk", lambda results: risk_distribution(results.first_predictions), _risks
    ),
    "training": FigureKind(
        "Training",
        lambda results: training_curves(results.history, results.folds),
        lambda results: training_runs(results.history),
    ),
}


def caption(name: str, results: RunResults) -> str:
    """The caption of a figure."""
    return line("captions.txt", name, results=results, facts=_facts(name, results))


def description(name: str, results: RunResults, facts: Any = None) -> str:
    """The description of a figure; ``facts`` replaces those of `FigureKind`."""
    optimistic = "Optimistic. " if results.optimistic else ""
    facts = _facts(name, results) if facts is None else facts
    return optimistic + line("captions.txt", f"describe_{name}", results=results, facts=facts)


def _facts(name: str, results: RunResults) -> Any:
    compute = FIGURES[name].facts
    return None if compute is None else compute(results)


def draw(name: str, results: RunResults) -> Figure:
    """The figure of that name, marked when its numbers are optimistic.

    A figure that cannot be drawn shows the reason. Raises MilsurvError for an unknown name.
    """
    if name not in FIGURES:
        raise MilsurvError(
            f"unknown figure {name!r}{nearest(name, FIGURES)}; available: {', '.join(FIGURES)}"
        )
    return marked(FIGURES[name].draw(results), results)


def marked(figure: Figure, results: RunResults) -> Figure:
    """The figure, marked when its numbers are optimistic."""
    return mark_optimistic(figure) if results.optimistic else figure


def save_figures(results: RunResults, folder: Path, kind: Format) -> list[Path]:
    """Write every figure as ``<name>.<kind>`` into ``folder``, created if missing; paths in the order of `FIGURES`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in FIGURES:
        path = folder / f"{name}.{kind}"
        save(draw(name, results), path, kind)
        paths.append(path)
    return paths


def save(figure: Figure, path: Path, kind: Format) -> None:
    """Write a figure atomically and reproducibly: PNG at 300 dpi, PDF with embedded text."""
    if kind == "svg":
        write_text(path, svg_file(figure, svg_name(path.stem)))
        return
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    with atomic_path(path) as temporary, matplotlib.rc_context(STYLE):
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)


def svg_name(name: str) -> str:
    """The prefix of the ids in a figure's SVG."""
    return name.replace("_", "-")


def _units(results: RunResults) -> tuple[str, str]:
    return results.cohort["time_unit"], results.cohort["endpoint"]
