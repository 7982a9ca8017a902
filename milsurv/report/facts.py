"""What was run, and on whom, as short lists of facts."""

from __future__ import annotations

from typing import Any

from milsurv.config.run import RunConfig
from milsurv.report import wording
from milsurv.report.results import RunResults, with_earlier


def run_facts(config: RunConfig, results: RunResults) -> list[tuple[str, str]]:
    """What was run, in a few lines."""
    cohort = results.cohort
    return [
        ("Cohort", f"{config.cohort.source}; endpoint {cohort['endpoint']}, time in {cohort['time_unit']}"),
        *_feature_facts(config, cohort),
        ("Model", f"aggregator {config.aggregator.name} with loss {config.loss.name}"),
        *([] if results.external else _training_facts(config, results)),
        (
            "Intervals",
            f"{wording.count(config.evaluation.bootstraps, 'bootstrap resample')} of the reported cases, "
            f"seed {config.evaluation.seed}",
        ),
        (
            "milsurv",
            with_earlier(f"version {e['milsurv']} on Python {e['python']}" for e in results.environments),
        ),
        ("Platform", with_earlier(e["platform"] for e in results.environments)),
    ]


def _training_facts(config: RunConfig, results: RunResults) -> list[tuple[str, str]]:
    training = config.training
    return [
        (
            "Training",
            f"{training.optimizer}, learning rate {training.learning_rate:g}, {training.schedule} schedule, at most "
            f"{wording.count(training.epochs, 'epoch')} of batches of {wording.count(training.batch_cases, 'case')}",
        ),
        ("Choice of the epoch", wording.SELECTION[results.cohort["selection"]]),
        ("Seeds", ", ".join(map(str, results.metrics["seeds"]))),
    ]


def _feature_facts(config: RunConfig, cohort: dict[str, Any]) -> list[tuple[str, str]]:
    """What the features are of, and who made them."""
    tiling, imported = config.tiling, config.features
    magnifications = wording.magnifications(tiling.magnifications)
    if imported is not None:
        encoder = f", encoder {cohort['imported']}" if imported.layout == "trident" else ""
        return [
            ("Patches", f"at {magnifications}, chosen where the features were made"),
            ("Features", f"imported from {imported.place}, layout {imported.layout}{encoder}"),
        ]
    return [
        (
            "Patches",
            f"{tiling.patch_px} px at {magnifications}, "
            f"kept where at least {100 * tiling.min_tissue:g} % of the finest is {config.tissue.name} tissue",
        ),
        (
            "Features",
            f"backbone {config.extracting_backbone.name}, computed in {cohort['precision']}, "
            f"stored as {config.extraction.dtype}",
        ),
    ]


def cohort_facts(results: RunResults) -> list[tuple[str, str]]:
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
