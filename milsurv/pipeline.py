"""The way through the house: from slides and follow-up to a report, one function per stage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from milsurv.artifacts import fingerprint, write_text
from milsurv.claims import remove_abandoned
from milsurv.cohort.cases import Case, Cohort, SlideRef, Split
from milsurv.cohort.reasons import few_lines
from milsurv.cohort.splits import make_splits
from milsurv.cohort.synthetic import GENERATOR_VERSION, draw, plan_cohort, slide_path
from milsurv.cohort.table import read_cohort
from milsurv.config import Evaluation, RunConfig, SyntheticCohort, TableCohort
from milsurv.errors import CohortError, MilsurvError
from milsurv.evaluation.clinical import attribute_table, variables
from milsurv.evaluation.subgroups import attributes_of, subgroups
from milsurv.evaluation.times import EvaluationTimes, evaluation_times
from milsurv.executors.base import IN_OTHER_HANDS, Event, Executor, Unit
from milsurv.executors.devices import choose_device, count_workers, slides_in_hand, visible_gpus
from milsurv.executors.local import LocalExecutor
from milsurv.features.extract import ExtractedSlide, ExtractionSettings, release_encoders
from milsurv.features.importing import ImportSettings, require_equal_dims
from milsurv.features.tally import EVENTS, Tally
from milsurv.leakage import without_copies
from milsurv.measuring import measure
from milsurv.plugin.lifecycle import HookFailure, LifeCycle
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress, Stage
from milsurv.report.html import write_report
from milsurv.report.views import views_of_fold
from milsurv.run_folder import OF_IMPORTED_FEATURES, FeatureSettings, RunContent, RunFolder
from milsurv.training.bags import CachePlan, plan_cache, shared_cache
from milsurv.training.data import TrainingCase
from milsurv.training.job import PREDICTIONS, FoldJob
from milsurv.training.loop import train_fold
from milsurv.training.results import read_predictions


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    folder: Path
    metrics: dict[str, Any]
    report: Path | None
    """None when folds are still to be trained."""
    slides_left_out: int
    cohort: Cohort


def run(
    config: RunConfig, registry: Registry, progress: RunProgress, only_fold: int | None = None
) -> RunResult:
    """Do all of a run that is not done yet. Raises MilsurvError for what the user can mend."""
    registry.require_unchanged()
    device = choose_device(config.device)
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by PyTorch's documentation
    for part in ("cohorts", "features", "runs", "evaluations"):
        remove_abandoned(config.workspace / part)
    if config.splits.files is None:
        _require_fold(only_fold, range(config.splits.count))
    workers = count_workers(config.executor.workers, device)
    with LocalExecutor(workers, config.executor.threads, visible_gpus(device)) as executor:
        settings = feature_settings(config, registry)
        cohort = prepare_cohort(config, settings, executor, progress)
        slides = [slide for case in cohort.cases for slide in case.slides]
        outcomes = extract_features(slides, settings, registry, executor, progress, device)
        usable = usable_cases(cohort, outcomes)
        require_columns(usable, config.evaluation)
        splits, warnings = split_cases(usable, config, progress, only_fold)
        times = evaluation_times(
            [c.time for c in usable.cases], [c.event for c in usable.cases], config.evaluation
        )
        content = RunContent(
            config, registry, settings, cohort, usable, outcomes, tuple(splits), tuple(warnings)
        )
        folder = RunFolder.lay_out(content, times)
        jobs = fold_jobs(content, folder, times, device, plan_bags(content, device, workers, progress))
        if taken := folder.take_over(jobs, content):
            progress.say(
                f"{taken} of {len(jobs)} folds go on from where another evaluation of this training was"
            )
        todo = [job for job in jobs if only_fold in (None, job.fold)]
        life_cycle = tell_plugins(registry, folder, progress)
        train(todo, folder, executor, progress, life_cycle, config)
    progress.say("measuring, writing the report")
    metrics = measure(jobs, content, times, folder)
    finished = all(job.finished for job in jobs)
    report = finish(content, folder, metrics, life_cycle) if finished else None
    left_out = sum(outcome.reason is not None for outcome in outcomes.values())
    return RunResult(folder.path, metrics, report, left_out, usable)


def feature_settings(config: RunConfig, registry: Registry) -> FeatureSettings:
    """How the features come about: extracted from slides, or imported."""
    if config.features is not None:
        return ImportSettings.of(config, config.features)
    return ExtractionSettings.of(config, registry)


def prepare_cohort(
    config: RunConfig, settings: FeatureSettings, executor: Executor, progress: RunProgress
) -> Cohort:
    """Read the cohort's table and find its slides or their features; a synthetic cohort is made first."""
    asked = config.evaluation.columns
    if isinstance(config.cohort, TableCohort):
        files = settings.source.index() if isinstance(settings, ImportSettings) else None
        cohort = read_cohort(config.cohort, files=files, attributes=asked)
        cohort = without_copies(cohort, settings.likeness, config.cohort.on_invalid == "drop")
    else:
        table = _make_synthetic(config.cohort, config.workspace, executor, progress)
        cohort = read_cohort(table, true_risk="true_risk", synthetic=True, attributes=asked)
    for line in cohort.missing:
        progress.say(line)
    for warning in cohort.warnings:
        progress.warn(warning)
    for line in few_lines(cohort.dropped, "rows or cases of the table are left out, which the report lists"):
        progress.warn(line)
    return cohort


def synthetic_table(config: SyntheticCohort, workspace: Path) -> TableCohort:
    """Where a synthetic cohort's table and slides stand."""
    content = {"cases": config.cases, "seed": config.seed, "generator": GENERATOR_VERSION}
    folder = workspace / "cohorts" / f"synthetic-{fingerprint(content)}"
    return TableCohort(table=folder / "cohort.csv", slides=folder / "slides")


def _make_synthetic(
    config: SyntheticCohort, workspace: Path, executor: Executor, progress: RunProgress
) -> TableCohort:
    location = synthetic_table(config, workspace)
    assert location.slides is not None
    table, slides = plan_cohort(config.cases, config.seed)
    write_text(location.table, table.to_csv(index=False))
    paths = {slide_path(slide, location.slides): slide for slide in slides}
    units = [
        Unit(slide.slide_id, draw, {"slide": slide, "folder": location.slides}, path)
        for path, slide in paths.items()
        if not path.exists()
    ]
    with progress.stage("drawing slides", len(units), "slides") as stage:
        executor.run(units, partial(_count, stage, "drawn"))
    return location


def extract_features(
    slides: Sequence[SlideRef],
    settings: FeatureSettings,
    registry: Registry,
    executor: Executor,
    progress: RunProgress,
    device: str,
) -> dict[str, ExtractedSlide]:
    """Slide id -> what became of it; slides whose feature files are whole are not read again."""
    outcomes: dict[str, ExtractedSlide] = {}
    todo: list[SlideRef] = []
    for slide in slides:
        if slide.path is None:
            outcomes[slide.slide_id] = ExtractedSlide(slide.slide_id, {}, reason=slide.reason)
        elif done := settings.done_before(slide):
            outcomes[slide.slide_id] = done
        else:
            todo.append(slide)
    for warning in settings.warnings(todo, registry):
        progress.warn(warning)
    tally = Tally(settings.folder)

    def on_event(unit: Unit, event: Event) -> None:
        if event["event"] == "smaller batches":
            progress.warn(
                f"the memory of {device} holds batches of {event['batch_size']}: set extraction.batch_size to that"
            )
        tally.add({"slide": unit.name, **event})
        progress.log(event.get("traceback", ""))
        _count(stage, "slide", unit, event, tally)

    with progress.stage(f"{settings.verb} features", len(todo), "slides") as stage:
        units = [settings.unit(slide, device) for slide in todo]
        fresh = executor.run(units, on_event, slides_in_hand(device), release_encoders)
    outcomes |= {outcome.slide_id: outcome for outcome in fresh}
    _warn_of_slides(outcomes.values(), tally.folder / EVENTS, progress)
    if isinstance(settings, ImportSettings):
        require_equal_dims(settings, [o.slide_id for o in outcomes.values() if o.reason is None])
    return outcomes


def _warn_of_slides(outcomes: Collection[ExtractedSlide], events: Path, progress: RunProgress) -> None:
    left_out = [f"slide {o.slide_id} is left out: {o.reason}" for o in outcomes if o.reason is not None]
    doubted = [f"slide {o.slide_id}: {doubt}" for o in outcomes for doubt in o.doubts]
    for lines, what in ((left_out, "slides are left out"), (doubted, "doubts about slides")):
        for line in few_lines(lines, f"{what}, which the report lists"):
            progress.warn(line)
    if any(outcome.fault for outcome in outcomes):
        progress.warn(f"the tracebacks of unexpected failures are in {events}")


def _count(stage: Stage, done: str, unit: Unit, event: Event, note: object = "") -> None:
    """Advance a stage by each event named ``done``."""
    if event["event"] == IN_OTHER_HANDS:
        stage.wait_for(unit.name)
    stage.advance(event["event"] == done, note)


def usable_cases(cohort: Cohort, outcomes: dict[str, ExtractedSlide]) -> Cohort:
    """The cases with the slides that have features, both by id. Raises CohortError when none is left."""
    cases = []
    for case in sorted(cohort.cases, key=lambda case: case.case_id):
        slides = [slide for slide in case.slides if outcomes[slide.slide_id].reason is None]
        if slides:
            by_id = sorted(slides, key=lambda slide: slide.slide_id)
            cases.append(replace(case, slides=tuple(by_id)))
    if not cases:
        raise CohortError([_no_slide(list(outcomes.values()))])
    return replace(cohort, cases=tuple(cases))


def _no_slide(outcomes: Sequence[ExtractedSlide]) -> str:
    reasons = sorted({str(outcome.reason) for outcome in outcomes})
    told = f"no case has a usable slide; the reasons: {'; '.join(reasons[:5]) or 'no slides'}"
    counts = Counter(outcome.fault for outcome in outcomes if outcome.fault)
    for fault, count in counts.most_common(1):
        if count > 1:
            told += (
                f"; {count} of {len(outcomes)} failed in the same unexpected way ({fault}), which points to a fault of "
                f"milsurv, of a plugin, or of this installation: the traceback is in {EVENTS} beside the features"
            )
    return told


def require_columns(cohort: Cohort, settings: Evaluation) -> None:
    """Raise MilsurvError, before anything is trained, when a column cannot serve the evaluation."""
    subgroups(attributes_of(cohort), settings.subgroups)
    variables(attribute_table(cohort, settings.clinical))


def split_cases(
    cohort: Cohort, config: RunConfig, progress: RunProgress, only_fold: int | None
) -> tuple[list[Split], list[str]]:
    """Who trains, who chooses the epoch, who is reported; and warnings."""
    pattern = config.cohort.case_pattern if isinstance(config.cohort, TableCohort) else None
    splits, warnings = make_splits(cohort, config.splits, pattern)
    for warning in warnings:
        progress.warn(warning)
    _require_fold(only_fold, [split.fold for split in splits])
    if config.training.selection in ("last_epoch", "reported_fold"):
        splits = [replace(split, train=split.train + split.validation, validation=()) for split in splits]
    return splits, warnings


def _require_fold(only_fold: int | None, folds: Sequence[int]) -> None:
    if only_fold is not None and only_fold not in folds:
        raise MilsurvError(f"--fold {only_fold}: there are folds {', '.join(map(str, folds))}")


def plan_bags(content: RunContent, device: str, workers: int, progress: RunProgress) -> CachePlan:
    """Where each worker keeps the bags that its folds train on."""
    files = [content.settings.path(s.slide_id) for case in content.usable.cases for s in case.slides]
    plan, told = plan_cache(files, content.config.executor, device, workers)
    progress.say(f"bags: {told}")
    return plan


def as_training_case(case: Case, settings: FeatureSettings) -> TrainingCase:
    """The case with its slides' feature files."""
    slides = tuple((slide.slide_id, settings.path(slide.slide_id)) for slide in case.slides)
    return TrainingCase(case.case_id, case.time, case.event, slides)


def fold_jobs(
    content: RunContent, folder: RunFolder, times: EvaluationTimes, device: str, cache: CachePlan
) -> list[FoldJob]:
    """A unit's task for each seed and fold."""
    config, settings = content.config, content.settings
    origins = {key: origin for key, origin in content.origins.items() if key[0] in OF_IMPORTED_FEATURES}
    by_id = {case.case_id: as_training_case(case, settings) for case in content.usable.cases}

    def chosen(ids: Sequence[str]) -> tuple[TrainingCase, ...]:
        return tuple(by_id[case_id] for case_id in ids)

    return [
        FoldJob(
            config=config,
            seed=seed,
            fold=split.fold,
            folder=folder.of_fold(seed, split.fold),
            train=chosen(split.train),
            validation=chosen(split.validation),
            test=chosen(split.test),
            times=times.all,
            device=device,
            cache=cache,
            origins=origins,
        )
        for seed in config.seeds
        for split in content.splits
    ]


def tell_plugins(registry: Registry, folder: RunFolder, progress: RunProgress) -> LifeCycle:
    """The life-cycle hooks of all plugins; one that fails is a warning, and its traceback stands in the events."""

    def on_failure(failure: HookFailure) -> None:
        progress.warn(
            f"plugin {failure.plugin} failed in {failure.hook} and is told nothing more of this run "
            f"({failure.error}); the traceback stands in {folder.path / EVENTS}"
        )
        folder.log({"event": "plugin switched off", **asdict(failure)})

    return LifeCycle(registry.manager, on_failure)


def train(
    jobs: Sequence[FoldJob],
    folder: RunFolder,
    executor: Executor,
    progress: RunProgress,
    life_cycle: LifeCycle,
    config: RunConfig,
) -> None:
    """Train the folds that are not finished, telling the plugins' life-cycle hooks as they go."""
    units = [
        Unit(f"seed {job.seed} fold {job.fold}", train_fold, {"job": job}, job.folder / PREDICTIONS)
        for job in jobs
        if not job.finished
    ]
    for job in jobs:
        if job.finished:
            job.remove_states()  # left when a run was killed after its last write
    life_cycle.tell(
        "milsurv_run_started", config=config.model_dump(mode="json", by_alias=True), folder=folder.path
    )
    total = sum(len(job.rows) for job in jobs if not job.trained) * config.training.epochs

    def on_event(unit: Unit, event: Event) -> None:
        job: FoldJob = unit.arguments["job"]
        if event["event"] == IN_OTHER_HANDS:
            stage.wait_for(unit.name)
            return
        if event["event"] in ("cases", "bag"):
            stage.advance(event.get("count", 0))
            return
        folder.log(event)
        fold = {"seed": job.seed, "fold": job.fold, "folder": job.folder}
        if event["event"] == "epoch":
            values = {key: value for key, value in event.items() if isinstance(value, float)}
            life_cycle.tell("milsurv_epoch_finished", epoch=event["epoch"], values=values, **fold)
        elif event["event"] == "fold finished":
            life_cycle.tell("milsurv_fold_finished", **fold)

    with progress.stage("training folds", total, "cases") as stage:
        executor.run(units, on_event)
    shared_cache.cache_clear()


def finish(content: RunContent, folder: RunFolder, metrics: dict[str, Any], life_cycle: LifeCycle) -> Path:
    """Write the report and tell the plugins."""
    slides = content.slides()
    predictions = read_predictions(folder.path / PREDICTIONS)
    views = views_of_fold(content.config, content.registry, folder.path, predictions, slides)
    report = write_report(folder.path, content.config, views)
    life_cycle.tell("milsurv_run_finished", folder=folder.path, metrics=metrics)
    return report
