"""The methods of a run in prose, ready to be pasted into a paper, with the works that it cites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milsurv.config.run import RunConfig, Splits
from milsurv.evaluation.times import time_text
from milsurv.plugin.base import PluginSection
from milsurv.report.citations import Citations
from milsurv.report.results import RunResults, with_earlier
from milsurv.report.wording import count

SOFTWARE = {
    "torch": ("PyTorch", "torch"),
    "timm": ("timm", "timm"),
    "openslide-python": ("OpenSlide Python", "openslide"),
    "lifelines": ("lifelines", "lifelines"),
    "torchsurv": ("torchsurv", "torchsurv"),
}
"""Package -> what it is called, and the work to cite for it."""
OF_SLIDES = ("timm", "openslide-python")
"""Not used by a run whose features are imported."""


@dataclass(frozen=True)
class Methods:
    """Paragraphs of plain text, in which [1] refers to the first of ``citations``."""

    paragraphs: list[str]
    citations: list[str]


def methods(config: RunConfig, results: RunResults) -> Methods:
    """What was done, from the run's own settings and versions."""
    cite = Citations()
    paragraphs = [
        f"{_cohort(config, results)} {_features(config, results, cite)}",
        _external_model(config, cite) if results.external else _model(config, results, cite),
        f"{_evaluation(config, results, cite)} {_software(config, results, cite)}",
    ]
    return Methods(paragraphs, cite.works)


def _cohort(config: RunConfig, results: RunResults) -> str:
    cohort = results.cohort
    made = "synthetic " if config.cohort.synthetic or cohort["synthetic"] else ""
    left_out = len(cohort["cases_left_out"])
    said = (
        f"We analysed {count(cohort['cases'], f'{made}case')} with {count(cohort['slides'], 'whole-slide image')}; "
        f"the endpoint was {cohort['endpoint']} in {cohort['time_unit']}, with {count(cohort['events'], 'event')}."
    )
    if left_out:
        said += f" {count(left_out, 'further case')} had no usable slide."
    return said


def _features(config: RunConfig, results: RunResults, cite: Citations) -> str:
    tiling, imported = config.tiling, config.features
    magnifications = _and([f"{m}x ({10 / m:g} µm per pixel)" for m in tiling.magnifications])
    if imported is not None:
        encoder = f" of the encoder {results.cohort['imported']}" if imported.layout == "trident" else ""
        return f"Patch features{encoder} at {magnifications} had been computed beforehand (layout {imported.layout})."
    backbone = config.extracting_backbone
    grids = "on one aligned grid " if len(tiling.magnifications) > 1 else ""
    return (
        f"Slides were read with {config.reader.name}{cite.of_plugin('reader', config.reader.name)}. Tissue was found "
        f"by {_named(config.tissue)}{cite.of_plugin('tissue', config.tissue.name)}, and non-overlapping patches of "
        f"{tiling.patch_px} × {tiling.patch_px} pixels were cut {grids}at {magnifications}; a patch of the finest "
        f"magnification was kept where at least {100 * tiling.min_tissue:g} % of it was tissue. Each patch was encoded "
        f"by {_named(backbone)}{cite.of_plugin('backbone', backbone.name)}, computed in {results.cohort['precision']}; "
        f"features were stored as {config.extraction.dtype}."
    )


def _external_model(config: RunConfig, cite: Citations) -> str:
    return (
        f"The model had been trained beforehand on other cases: the aggregator {_named(config.aggregator)}"
        f"{cite.of_plugin('aggregator', config.aggregator.name)} with the loss {_named(config.loss)}"
        f"{cite.of_plugin('loss', config.loss.name)}. It was applied to this cohort as it was; nothing was fitted to "
        "these cases."
    )


def _model(config: RunConfig, results: RunResults, cite: Citations) -> str:
    training = config.training
    details = [
        f"learning rate {training.learning_rate:g}",
        f"weight decay {training.weight_decay:g}",
        f"{training.schedule.replace('_', '-')} learning rate schedule",
        *([f"gradients clipped at norm {training.clip_norm:g}"] if training.clip_norm else []),
        *([f"at most {training.max_patches} patches of each bag"] if training.max_patches else []),
        *(["standardised features"] if training.standardize else []),
        *(["cases drawn by inverse frequency of time and event"] if training.sampling == "balanced" else []),
        *([f"early stopping after {training.patience} epochs"] if training.patience else []),
    ]
    optimiser = {"adam": "Adam", "adamw": "AdamW"}[training.optimizer]
    return (
        f"Patch features were aggregated by {_named(config.aggregator)}"
        f"{cite.of_plugin('aggregator', config.aggregator.name)} and trained with the loss {_named(config.loss)}"
        f"{cite.of_plugin('loss', config.loss.name)}, by {optimiser}{cite(training.optimizer)} ({', '.join(details)}) "
        f"for at most {count(training.epochs, 'epoch')} with batches of {count(training.batch_cases, training.rows)}; "
        "the outputs of several slides of a case were averaged. "
        f"{_splits(config.splits, results)} {_selection(config)}"
    )


def _splits(splits: Splits, results: RunResults) -> str:
    folds, seeds = len(results.folds), len(results.metrics["seeds"])
    if splits.files is not None:
        how = f"Training and reported cases of {count(folds, 'fold')} were taken from a given list"
    elif splits.scheme == "monte_carlo":
        share = 0.2 if splits.test is None else splits.test
        how = f"In each of {count(folds, 'random split')}, {100 * share:g} % of the cases were held out and reported"
    else:
        times = f", {splits.repeats} times over" if splits.repeats > 1 else ""
        how = f"Cases were divided into {splits.folds} folds{times}, each reported by models trained on the others"
    balanced = {"event": "the event", "event_and_time": "event and time"}[splits.stratify]
    drawn = "" if splits.files is not None else f", stratified by {balanced}"
    grouped = "; cases of one group never stood on both sides" if splits.group_by else ""
    return f"{how}{drawn}{grouped}. Training was done under {count(seeds, 'random seed')}."


def _selection(config: RunConfig) -> str:
    training = config.training
    by = "highest C-index" if training.select_by == "c_index" else "lowest loss"
    share = f" ({100 * config.splits.validation:g} % of the training cases of each fold)"
    held_out = (
        f"the epoch with the {by} on inner validation cases{'' if config.splits.files else share} was kept"
        + (", and the model was trained anew on all training cases up to it" if training.refit else "")
    )
    return {
        "inner_validation": f"Of each training {held_out}; the reported cases chose nothing.",
        "last_epoch": "The last epoch was kept.",
        "reported_fold": f"The epoch with the {by} on the reported cases themselves was kept, so the numbers are "
        "optimistic.",
        "both": f"Of each training {held_out}; for comparison a second epoch was chosen by the reported cases "
        "themselves, whose numbers are optimistic.",
    }[training.selection]


def _evaluation(config: RunConfig, results: RunResults, cite: Citations) -> str:
    unit, times = results.cohort["time_unit"], results.metrics["times"]
    at = f" at {_and([time_text(t) for t in times])} {unit}" if times else ""
    within = "" if len(results.folds) == 1 else ", comparing cases within folds alone"
    bootstraps = config.evaluation.bootstraps
    discrimination = (
        f"Discrimination was measured by Harrell's C-index{cite('harrell_1982', 'harrell_1996')}, Uno's C-index"
        f"{cite('uno_2011')} and the cumulative/dynamic area under the ROC curve{at}{cite('uno_2007')}{within}; "
        f"predicted probabilities by the Brier score with inverse probability of censoring weights{cite('graf')}, the "
        f"index of prediction accuracy{cite('kattan')}, D-calibration{cite('haider')} and calibration plots"
        f"{cite('austin')}. Censoring weights were fitted to {results.reference_cases}."
    )
    intervals = (
        f" Intervals are 95 % percentile intervals of {count(bootstraps, 'bootstrap resample')} of the reported "
        f"cases{cite('efron')}."
        if bootstraps
        else ""
    )
    groups = (
        " Cases were at high risk above the median risk of the training cases; groups were compared by Kaplan-Meier "
        f"curves{cite('kaplan_meier')}, the log-rank test{cite('mantel')} and the hazard ratio of a Cox model"
        f"{cite('cox')}."
    )
    return f"{discrimination}{intervals}{groups}{_more_analyses(config)}"


def _more_analyses(config: RunConfig) -> str:
    said = ""
    if config.evaluation.subgroups:
        said += f" Subgroups were those of {_and(config.evaluation.subgroups)}."
    if config.evaluation.clinical:
        said += f" Cox models of {_and(config.evaluation.clinical)} were set beside the image risk."
    return said


def _software(config: RunConfig, results: RunResults, cite: Citations) -> str:
    unused = OF_SLIDES if config.features is not None else ()
    versions = [
        f"{name} {results.versions(package)}{cite(work)}"
        for package, (name, work) in SOFTWARE.items()
        if results.versions(package) and package not in unused
    ]
    own = [
        f"{name} {with_earlier(environment[key] for environment in results.environments)}"
        for name, key in (("milsurv", "milsurv"), ("Python", "python"))
    ]
    return f"All was computed with {_and([*own, *versions])}."


def _named(section: PluginSection) -> str:
    """A plugin's name with the settings that were given to it."""
    given = {key: value for key, value in section.settings.items() if value is not None}
    if not given:
        return section.name
    return f"{section.name} ({', '.join(f'{key} {value}' for key, value in given.items())})"


def _and(items: Any) -> str:
    """``a, b and c``."""
    *before, last = map(str, items)
    return f"{', '.join(before)} and {last}" if before else last
