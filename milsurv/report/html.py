"""``report.html``: a self-contained page on a run and its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from milsurv.cohort.summaries import MAX_LINES
from milsurv.config.run import RunConfig
from milsurv.explain.render import Shading, data_uri, map_picture, tissue_picture, visible_grid
from milsurv.explain.view import MissingView, SlideView
from milsurv.report import tables
from milsurv.report.baselines import baseline_table, shortfall
from milsurv.report.figures.training import training_curves
from milsurv.report.gallery import FIGURES, caption, description, draw, marked, svg_name, training_runs
from milsurv.report.methods import methods
from milsurv.report.rendering import line, lines, page
from milsurv.report.results import RunResults, with_earlier
from milsurv.report.svg import inlined, svg_file, svg_inline
from milsurv.storage import run_files
from milsurv.storage.atomic import write_text


def write_report(folder: Path, config: RunConfig, views: Sequence[SlideView | MissingView]) -> Path:
    """Write ``report.html``, and its figures under ``figures/``, into the folder of a finished run.

    The same folder and views give the same bytes. The folder of an external validation may lack ``splits.csv`` and
    training histories; their sections are omitted. Raises MilsurvError when the run is not finished.
    """
    results = RunResults.read(folder)
    shown = [view for view in views if isinstance(view, SlideView)]
    synthetic = results.metrics.get("true_risk") is not None
    text = page(
        "report.html",
        config=config,
        results=results,
        few=MAX_LINES,
        excluded_lines=[f"slide {row.slide_id}: {row.reason}" for row in results.excluded.itertuples()],
        headline=line("summary.txt", "headline", results=results),
        subtitle=line("summary.txt", "subtitle", results=results),
        bound=line("summary.txt", "bound", results=results) if synthetic else "",
        baselines=[line("summary.txt", "baseline", results=results, comparison=c) for c in results.baselines],
        shortfalls=[text for comparison in results.baselines if (text := shortfall(comparison))],
        with_earlier=with_earlier,
        split_tables=_marked([] if results.splits.empty else [tables.split_table(results)], results),
        key_tables=_marked(_key_tables(results), results),
        folded_tables=[
            (heading, _marked(found, results)) for heading, found in _folded_tables(results).items() if found
        ],
        figures=_figures(results, folder / run_files.FIGURES),
        slides=[_slide(view) for view in shown],
        missing=[view for view in views if isinstance(view, MissingView)],
        methods=methods(config, results),
        limits=lines("summary.txt", "limits", results=results, views=len(shown)),
    )
    path = folder / run_files.REPORT
    write_text(path, text)
    return path


def _figures(results: RunResults, folder: Path) -> list[dict[str, Any]]:
    """All figures with their titles and captions, which are also written into ``folder``.

    On the page, each fold has its own training curves.
    """
    figures = []
    for name in FIGURES:
        if name == "training" and results.history.empty:
            continue
        figure, id = draw(name, results), svg_name(name)
        document = svg_file(figure, id)
        write_text(folder / f"{name}.svg", document)
        drawings = (
            _training(results) if name == "training" else [inlined(document, id, description(name, results))]
        )
        shown_caption = caption(name, results) if figure.axes else ""
        figures.append(
            {"id": id, "title": FIGURES[name].title, "caption": shown_caption, "drawings": drawings}
        )
    return figures


def _training(results: RunResults) -> list[Any]:
    runs = training_runs(results.history)
    return [
        svg_inline(
            marked(training_curves(results.history, [fold]), results),
            f"training-{fold}",
            description("training", results, [run for run in runs if run["fold"] == fold]),
        )
        for fold in results.folds
    ]


def _marked(found: Sequence[tables.Table], results: RunResults) -> list[tables.Table]:
    """The tables, whose captions say when their numbers are optimistic."""
    mark = " (optimistic)" if results.optimistic else ""
    return [replace(table, caption=table.caption + mark) for table in found]


def _key_tables(results: RunResults) -> list[tables.Table]:
    """The tables that are shown first."""
    return [
        tables.key_table(results),
        *([tables.selection_table(results)] if results.metrics.get("optimistic") else []),
        *([baseline_table(results)] if results.baselines else []),
        tables.risk_group_table(results),
        *([tables.clinical_table(results)] if results.metrics["clinical"] else []),
    ]


def _folded_tables(results: RunResults) -> dict[str, list[tables.Table]]:
    """Heading -> tables that are folded."""
    seeds = results.metrics["seeds"]
    several, subgroups = len(results.folds) > 1, results.metrics["subgroups"]
    return {
        "All metrics": [tables.pooled_table(results)],
        "Each fold": [tables.fold_table(results, seed) for seed in seeds] if several else [],
        "Calibration": [tables.calibration_table(results)],
        "Subgroups": [tables.subgroup_table(results, seed) for seed in seeds] if subgroups else [],
    }


def _slide(view: SlideView) -> dict[str, Any]:
    """A slide's pictures, with the colours of its maps."""
    grid = visible_grid(view)
    length, share = view.scale_bar()
    maps = [
        (shown, Shading.of(shown.kind, shown.values), data_uri(map_picture(view, shown)))
        for shown in view.maps
    ]
    return {
        "view": view,
        "grid": grid,
        "tissue": data_uri(tissue_picture(view, grid)),
        "maps": maps,
        "scale_mm": f"{length:g}",
        "scale_percent": f"{100 * share:.2f}",
    }
