"""``report.html``: one self-contained file that tells what a run did and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milsurv.cohort.summaries import MAX_LINES, summarize
from milsurv.config.run import RunConfig
from milsurv.explain.render import Shading, data_uri, map_picture, tissue_picture, visible_grid
from milsurv.explain.view import MissingView, SlideView
from milsurv.report import captions, facts, tables, wording
from milsurv.report.figures.training import training_curves
from milsurv.report.gallery import FIGURES, draw, marked, svg_name
from milsurv.report.methods import methods
from milsurv.report.results import RunResults
from milsurv.report.svg import inlined, svg_file, svg_inline
from milsurv.storage.atomic import write_text


def write_report(folder: Path, config: RunConfig, views: Sequence[SlideView | MissingView]) -> Path:
    """Write ``report.html``, and its figures under ``figures/``, into a finished run's folder.

    The same folder and views give the same bytes. Raises MilsurvError when the run is not finished. The folder of an
    external validation (``"external": true`` in its ``cohort.json``) has no training to tell of: it may lack
    ``splits.csv`` and histories, and the sections on them are left out.
    """
    results = RunResults.read(folder)
    shown = [view for view in views if isinstance(view, SlideView)]
    page = _template("template.html").render(
        name=config.name,
        results=results,
        few=MAX_LINES,
        left_out_lines=[f"slide {row.slide_id}: {row.reason}" for row in results.left_out.itertuples()],
        patch_columns=[column for column in results.slides.columns if column.startswith("patches_")],
        headline=wording.headline(results),
        under_headline=wording.under_headline(results),
        bound=wording.bound(results),
        facts=facts.run_facts(config, results),
        cohort_facts=facts.cohort_facts(results),
        split_tables=_marked(_split_tables(results), results),
        key_tables=_marked(_key_tables(results), results),
        folded_tables=[
            (heading, _marked(found, results)) for heading, found in _folded_tables(results).items() if found
        ],
        figures=_figures(results, folder / "figures"),
        slides=[_slide(view) for view in shown],
        imported=config.features is not None,
        missing=[view for view in views if isinstance(view, MissingView)],
        methods=methods(config, results),
        limits=wording.limits(results, len(shown)),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _figures(results: RunResults, folder: Path) -> list[dict[str, Any]]:
    """All figures with their titles and captions, written into ``folder`` too.

    On the page each fold that was trained has a row of curves of its own.
    """
    shown = [name for name in FIGURES if name != "training" or not results.history.empty]
    figures = [_figure(name, results, folder) for name in shown]
    return [figure | _training(results) if figure["id"] == "training" else figure for figure in figures]


def _figure(name: str, results: RunResults, folder: Path) -> dict[str, Any]:
    kind, figure, id = FIGURES[name], draw(name, results), svg_name(name)
    document = svg_file(figure, id)
    write_text(folder / f"{name}.svg", document)
    drawing = inlined(document, id, _optimistic(results) + kind.describe(results))
    caption = kind.caption(results) if figure.axes else ""
    return {"id": id, "title": kind.title, "caption": caption, "drawings": [drawing]}


def _training(results: RunResults) -> dict[str, Any]:
    drawings = [
        svg_inline(
            marked(training_curves(results.history, [fold]), results),
            f"training-{fold}",
            _optimistic(results) + captions.describe_training(results.history, fold),
        )
        for fold in results.folds
    ]
    return {"drawings": drawings}


def _optimistic(results: RunResults) -> str:
    return "Optimistic. " if results.optimistic else ""


def _marked(found: Iterable[tables.Table], results: RunResults) -> list[tables.Table]:
    """The tables, which say so themselves when their numbers are optimistic."""
    said = " (optimistic)" if results.optimistic else ""
    return [replace(table, caption=table.caption + said) for table in found]


def _split_tables(results: RunResults) -> list[tables.Table]:
    return [] if results.splits.empty else [tables.split_table(results)]


def _key_tables(results: RunResults) -> list[tables.Table]:
    """What to read first."""
    selection = tables.selection_table(results)
    return [
        tables.key_table(results),
        *([] if selection is None else [selection]),
        tables.risk_group_table(results),
        *([tables.clinical_table(results)] if results.metrics["clinical"] else []),
    ]


def _folded_tables(results: RunResults) -> dict[str, list[tables.Table]]:
    """What to look up, by heading."""
    seeds = results.metrics["seeds"]
    several = len(results.folds) > 1
    return {
        "All metrics": [tables.pooled_table(results)],
        "Each fold": [tables.fold_table(results, seed) for seed in seeds] if several else [],
        "Calibration": [tables.calibration_table(results)],
        "Subgroups": [tables.subgroup_table(results, seed) for seed in seeds]
        if results.metrics["subgroups"]
        else [],
    }


def _template(name: str) -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["summarize"] = summarize
    return environment.get_template(name)


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
