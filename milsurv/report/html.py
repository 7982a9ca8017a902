"""``report.html``: one self-contained file that tells what a run did and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from milsurv.artifacts import write_text
from milsurv.config import RunConfig
from milsurv.report import pictures, tables, wording
from milsurv.report.figures import kaplan_meier, mark_optimistic, training_curves
from milsurv.report.pictures import ColourRange
from milsurv.report.results import RunResults
from milsurv.report.svg import svg_file, svg_inline
from milsurv.report.views import MissingView, SlideView


def write_report(folder: Path, config: RunConfig, views: Sequence[SlideView | MissingView]) -> Path:
    """Write ``report.html``, and its figures under ``figures/``, into a finished run's folder.

    The same folder and views give the same bytes. Raises ``FileNotFoundError`` when the run is not finished.
    """
    results = RunResults.read(folder)
    groups = results.metrics["pooled"][0]["risk_groups"]
    unit, endpoint = results.cohort["time_unit"], results.cohort["endpoint"]
    said = "Optimistic. " if results.optimistic else ""
    survival = _marked(kaplan_meier(groups, unit, endpoint), results)
    write_text(folder / "figures" / "kaplan_meier.svg", svg_file(survival, "kaplan-meier"))
    training = _marked(training_curves(results.history, results.folds), results)
    write_text(folder / "figures" / "training.svg", svg_file(training, "training"))
    shown = [view for view in views if isinstance(view, SlideView)]
    page = _template("template.html").render(
        name=config.name,
        results=results,
        loss=config.loss.name,
        validated=bool(results.history["validation_loss"].notna().any()),
        patch_columns=[column for column in results.slides.columns if column.startswith("patches_")],
        headline=wording.headline(results),
        bound=wording.bound(results),
        facts=_facts(config, results),
        slide_facts=_slide_facts(results),
        tables=_tables(results),
        kaplan_meier=svg_inline(survival, "kaplan-meier", said + wording.describe_kaplan_meier(groups, unit)),
        groups=groups,
        training=[
            svg_inline(
                _marked(training_curves(results.history, [fold]), results),
                f"training-{fold}",
                said + wording.describe_training(results.history, fold),
            )
            for fold in results.folds
        ],
        slides=[_slide(view) for view in shown],
        imported=config.features is not None,
        missing=[view for view in views if isinstance(view, MissingView)],
        gradient=pictures.gradient(),
        limits=wording.limits(results, len(shown)),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _marked(figure: Figure, results: RunResults) -> Figure:
    """The figure, which says so itself when its numbers are optimistic."""
    return mark_optimistic(figure) if results.optimistic else figure


def _tables(results: RunResults) -> dict[str, list[tables.Table]]:
    """The tables of each section; those of an optimistic run say so."""
    seeds, selection = results.metrics["seeds"], tables.selection_table(results)
    sections = {
        "splits": [tables.split_table(results)],
        "numbers": [
            *([] if selection is None else [selection]),
            tables.pooled_table(results),
            *(tables.fold_table(results, seed) for seed in seeds),
            tables.calibration_table(results),
            *([tables.clinical_table(results)] if results.metrics["clinical"] else []),
            *(tables.subgroup_table(results, seed) for seed in seeds if results.metrics["subgroups"]),
        ],
        "risk_groups": [tables.risk_group_table(results)],
    }
    if results.optimistic:
        for table in (table for section in sections.values() for table in section):
            table.caption += " (optimistic)"
    return sections


def _template(name: str) -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _facts(config: RunConfig, results: RunResults) -> list[tuple[str, str]]:
    """What was run, in a few lines."""
    training, cohort = config.training, results.cohort
    choice = wording.SELECTION.get(cohort["selection"], cohort["selection"])
    return [
        ("Cohort", f"{config.cohort.source}; endpoint {cohort['endpoint']}, time in {cohort['time_unit']}"),
        *_feature_facts(config, cohort),
        ("Model", f"aggregator {config.aggregator.name} with loss {config.loss.name}"),
        (
            "Training",
            f"{training.optimizer}, learning rate {training.learning_rate:g}, {training.schedule} schedule, at most "
            f"{wording.count(training.epochs, 'epoch')} of batches of {wording.count(training.batch_cases, 'case')}",
        ),
        ("Choice of the epoch", choice),
        ("Seeds", ", ".join(map(str, results.metrics["seeds"]))),
        (
            "Intervals",
            f"{wording.count(config.evaluation.bootstraps, 'bootstrap resample')} of the reported cases, "
            f"seed {config.evaluation.seed}",
        ),
        ("milsurv", f"version {results.environment['milsurv']} on Python {results.environment['python']}"),
        ("Platform", results.environment["platform"]),
    ]


def _feature_facts(config: RunConfig, cohort: dict[str, Any]) -> list[tuple[str, str]]:
    """What the features are of, and who made them."""
    tiling, imported = config.tiling, config.features
    scales = wording.magnifications(tiling.magnifications)
    if imported is not None:
        encoder = f", encoder {cohort['imported']}" if imported.layout == "trident" else ""
        return [
            ("Patches", f"at {scales}, chosen where the features were made"),
            ("Features", f"imported from {imported.place}, layout {imported.layout}{encoder}"),
        ]
    return [
        (
            "Patches",
            f"{tiling.patch_px} px at {scales}, "
            f"kept where at least {100 * tiling.min_tissue:g} % of the finest is {config.tissue.name} tissue",
        ),
        (
            "Features",
            f"backbone {config.extracting_backbone.name}, computed in {cohort['precision']}, "
            f"stored as {config.extraction.dtype}",
        ),
    ]


def _slide_facts(results: RunResults) -> list[tuple[str, str]]:
    """Cases and slides in and out, in a few lines."""
    cohort, used = results.cohort, results.used
    sources = used["mpp_source"].value_counts(sort=False).sort_index()
    patches = [
        f"{used[column].sum():.0f} at {column.removeprefix('patches_')}"
        for column in used.columns
        if column.startswith("patches_")
    ]
    return [
        ("Cases", f"{wording.count(cohort['cases'], 'case')}, {wording.count(cohort['events'], 'event')}"),
        ("Slides", f"{cohort['slides']} used, {cohort['slides_left_out']} left out"),
        ("Cases left out", str(len(cohort["cases_left_out"]))),
        ("Rows of the table left out", str(len(cohort["dropped"]))),
        (
            "µm/px known from",
            ", ".join(f"{source}: {n} slides" for source, n in sources.items()) or "nothing: it is not known",
        ),
        ("Patches", ", ".join(patches)),
    ]


def _slide(view: SlideView) -> dict[str, Any]:
    """A slide's pictures and what is said of them."""
    length, share = pictures.scale_bar(view)
    shown: list[dict[str, Any]] = [
        {
            "heading": "Tissue and patches",
            "uri": pictures.data_uri(pictures.tissue_picture(view)),
            "description": wording.describe_tissue(view),
            "colours": None,
        }
    ]
    for magnification in sorted(view.attention, reverse=True):
        colours = ColourRange.of(pictures.relative_attention(view.attention[magnification]))
        shown.append(
            {
                "heading": f"Attention at {magnification}x",
                "uri": pictures.data_uri(pictures.attention_picture(view, magnification, colours)),
                "description": wording.describe_attention(view, magnification, colours),
                "colours": colours,
            }
        )
    height, width = view.thumbnail.shape[:2]
    return {
        "view": view,
        "pictures": shown,
        "size": (width, height),
        "scale_mm": f"{length:g}",
        "scale_percent": f"{100 * share:.2f}",
    }
