"""The folds of a run, and the job of each fold and seed; shared by a run and its check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from milsurv.cohort.cases import Cohort, Split
from milsurv.cohort.splits import make_splits
from milsurv.config.run import Evaluation, RunConfig
from milsurv.errors import MilsurvError
from milsurv.evaluation.clinical import attribute_table, variables
from milsurv.evaluation.subgroups import attributes_of, subgroups
from milsurv.evaluation.times import evaluation_times, time_text
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.plugin.kinds import kinds_that_decide
from milsurv.runs.folder import RunContent, RunFolder
from milsurv.runs.inputs import usable_cases
from milsurv.runs.session import Session
from milsurv.training.data import TrainingCase
from milsurv.training.job import FoldJob


def plan_run(
    session: Session,
    source: FeatureSource,
    cohort: Cohort,
    outcomes: Mapping[str, SlideOutcome],
    only_fold: int | None = None,
) -> RunContent:
    """The folds of the cases that have features. Raises MilsurvError if they are not suitable for a run."""
    config = session.config
    usable, evaluation = usable_cases(cohort, outcomes), config.evaluation
    _require_columns(usable, evaluation)
    splits, warnings = _split_cases(usable, config, only_fold)
    times = evaluation_times(
        [case.time for case in usable.cases], [case.event for case in usable.cases], evaluation
    )
    warnings += _late_times(usable, evaluation)
    return RunContent(session, source, cohort, usable, outcomes, times, tuple(splits), tuple(warnings))


def _require_columns(cohort: Cohort, settings: Evaluation) -> None:
    """Raise MilsurvError, before anything is trained, when a column cannot be used in the evaluation."""
    subgroups(attributes_of(cohort), settings.subgroups)
    variables(attribute_table(cohort, settings.clinical))


def _split_cases(cohort: Cohort, config: RunConfig, only_fold: int | None) -> tuple[list[Split], list[str]]:
    """The splits, and warnings about them."""
    splits, warnings = make_splits(cohort, config.splits, config.cohort.case_pattern)
    require_fold(only_fold, [split.fold for split in splits])
    if config.training.selection in ("last_epoch", "reported_fold"):
        splits = [replace(split, train=split.train + split.validation, validation=()) for split in splits]
    return splits, list(warnings)


def require_fold(only_fold: int | None, folds: Sequence[int]) -> None:
    """Raise MilsurvError when the requested fold is not among ``folds``."""
    if only_fold is not None and only_fold not in folds:
        raise MilsurvError(f"--fold {only_fold}: there are folds {', '.join(map(str, folds))}")


def _late_times(cohort: Cohort, settings: Evaluation) -> list[str]:
    longest = max(case.time for case in cohort.cases)
    late = [time_text(time) for time in settings.times or () if time > longest]
    if not late:
        return []
    return [
        f"evaluation.times: {', '.join(late)} is beyond the longest follow-up, {time_text(longest)} "
        f"{cohort.time_unit}: metrics cannot be computed there"
    ]


def fold_jobs(content: RunContent, cases: Iterable[TrainingCase], folder: RunFolder) -> list[FoldJob]:
    """The job of each seed and fold; ``cases`` are the usable cases with their feature files."""
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
            times=content.times.all,
            origins=origins,
        )
        for seed in content.config.seeds
        for split in content.splits
    ]
