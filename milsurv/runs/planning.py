"""From a cohort and what became of its slides to the folds that are trained; shared by a run and its check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from milsurv.cohort.cases import Cohort, Split
from milsurv.cohort.splits import make_splits
from milsurv.config.run import Evaluation, RunConfig
from milsurv.errors import MilsurvError
from milsurv.evaluation.clinical import attribute_table, variables
from milsurv.evaluation.subgroups import attributes_of, subgroups
from milsurv.evaluation.times import EvaluationTimes, evaluation_times, time_text
from milsurv.features.source import SlideOutcome
from milsurv.plugin.kinds import kinds_that_decide
from milsurv.runs.folder import RunContent, RunFolder
from milsurv.runs.inputs import usable_cases
from milsurv.training.data import TrainingCase
from milsurv.training.job import FoldJob


@dataclass(frozen=True)
class Plan:
    """Who trains, chooses the epoch and is reported in each fold, and when survival is looked at."""

    usable: Cohort
    """The cohort with the cases and slides that have features, by id."""
    splits: tuple[Split, ...]
    times: EvaluationTimes
    warnings: tuple[str, ...]


def plan_folds(
    cohort: Cohort, outcomes: Mapping[str, SlideOutcome], config: RunConfig, only_fold: int | None = None
) -> Plan:
    """The folds of the cases that have features. Raises MilsurvError when a run cannot be made of them."""
    usable = usable_cases(cohort, outcomes)
    require_columns(usable, config.evaluation)
    splits, warnings = split_cases(usable, config, only_fold)
    times = evaluation_times(
        [case.time for case in usable.cases], [case.event for case in usable.cases], config.evaluation
    )
    return Plan(usable, tuple(splits), times, (*warnings, *_late_times(usable, config.evaluation)))


def require_columns(cohort: Cohort, settings: Evaluation) -> None:
    """Raise MilsurvError, before anything is trained, when a column cannot serve the evaluation."""
    subgroups(attributes_of(cohort), settings.subgroups)
    variables(attribute_table(cohort, settings.clinical))


def split_cases(cohort: Cohort, config: RunConfig, only_fold: int | None) -> tuple[list[Split], list[str]]:
    """Who trains, who chooses the epoch, who is reported; and warnings."""
    splits, warnings = make_splits(cohort, config.splits, config.cohort.case_pattern)
    require_fold(only_fold, [split.fold for split in splits])
    if config.training.selection in ("last_epoch", "reported_fold"):
        splits = [replace(split, train=split.train + split.validation, validation=()) for split in splits]
    return splits, warnings


def require_fold(only_fold: int | None, folds: Sequence[int]) -> None:
    """Raise MilsurvError when the one fold that is asked for is not among ``folds``."""
    if only_fold is not None and only_fold not in folds:
        raise MilsurvError(f"--fold {only_fold}: there are folds {', '.join(map(str, folds))}")


def _late_times(cohort: Cohort, settings: Evaluation) -> list[str]:
    longest = max(case.time for case in cohort.cases)
    late = [time_text(time) for time in settings.times or () if time > longest]
    if not late:
        return []
    return [
        f"evaluation.times: {', '.join(late)} lies beyond the longest follow-up, {time_text(longest)} "
        f"{cohort.time_unit}: nothing can be measured there"
    ]


def fold_jobs(
    content: RunContent,
    cases: Iterable[TrainingCase],
    folder: RunFolder,
    times: EvaluationTimes,
) -> list[FoldJob]:
    """A unit's task for each seed and fold; ``cases`` are the content's with their feature files."""
    deciding = kinds_that_decide("models")
    origins = {key: origin for key, origin in content.origins.items() if key[0] in deciding}
    by_id = {case.case_id: case for case in cases}

    def chosen(ids: Sequence[str]) -> tuple[TrainingCase, ...]:
        return tuple(by_id[case_id] for case_id in ids)

    return [
        FoldJob(
            config=content.config,
            seed=seed,
            fold=split.fold,
            folder=folder.of_fold(seed, split.fold),
            train=chosen(split.train),
            validation=chosen(split.validation),
            test=chosen(split.test),
            times=times.all,
            origins=origins,
        )
        for seed in content.config.seeds
        for split in content.splits
    ]
