"""The way through the house: from slides and follow-up to a report, one function per stage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.summaries import summarize_if_many
from milsurv.config.cohort import SyntheticCohort, TableCohort
from milsurv.executors.base import WORKER_DIED, Event, Resources, Unit
from milsurv.explain.view import views_of_fold
from milsurv.features.extract import ExtractedSlide
from milsurv.features.importers.importing import ImportSettings, require_equal_dims
from milsurv.features.store import feature_dims
from milsurv.features.tally import EVENTS, Tally
from milsurv.plugin.lifecycle import HookFailure, LifeCycle
from milsurv.progress import RunProgress
from milsurv.report.html import write_report
from milsurv.runs.evaluation import measure
from milsurv.runs.folder import FeatureSettings, RunContent, RunFolder
from milsurv.runs.planning import (
    as_training_case,
    cohort_of,
    feature_settings,
    fold_jobs,
    plan_folds,
    require_fold,
)
from milsurv.runs.session import Session, advance
from milsurv.storage.atomic import fingerprint, write_text
from milsurv.storage.locks import remove_abandoned
from milsurv.synthetic.cohort import GENERATOR_VERSION, draw, plan_cohort, slide_path
from milsurv.training.job import PREDICTIONS, FoldJob
from milsurv.training.loop import fit_loss, train_fold
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


def run(session: Session, only_fold: int | None = None) -> RunResult:
    """Do all of a run that is not done yet. Raises MilsurvError for what the user can mend."""
    config, progress = session.config, session.progress
    for part in ("cohorts", "features", "runs", "evaluations"):
        remove_abandoned(config.workspace / part)
    if config.splits.files is None:
        require_fold(only_fold, range(config.splits.count))
    settings = feature_settings(session)
    cohort = prepare_cohort(session, settings)
    slides = [slide for case in cohort.cases for slide in case.slides]
    outcomes = extract_features(session, settings, slides)
    plan = plan_folds(cohort, outcomes, config, only_fold)
    for warning in plan.warnings:
        progress.warn(warning)
    content = RunContent(session, settings, cohort, plan.usable, outcomes, plan.splits, plan.warnings)
    folder = RunFolder.lay_out(content, plan.times)
    cases = [as_training_case(case, settings) for case in plan.usable.cases]
    jobs = fold_jobs(content, cases, folder, plan.times)
    if taken := folder.take_over(jobs, content):
        progress.say(f"{taken} of {len(jobs)} folds go on from where another evaluation of this training was")
    todo = [job for job in jobs if only_fold in (None, job.fold)]
    for job in todo:
        fit_loss(job, session.registry)  # a fold that cannot train is told before the first one trains
    life_cycle = tell_plugins(session, folder)
    train(session, todo, folder, life_cycle)
    progress.say("measuring, writing the report")
    metrics = measure(jobs, content, plan.times, folder)
    finished = all(job.finished for job in jobs)
    report = finish(content, folder, metrics, life_cycle) if finished else None
    left_out = sum(outcome.reason is not None for outcome in outcomes.values())
    return RunResult(folder.path, metrics, report, left_out, plan.usable)


def prepare_cohort(session: Session, settings: FeatureSettings) -> Cohort:
    """Read the cohort's table and find its slides or their features; a synthetic cohort is made first."""
    config, progress = session.config, session.progress
    table = config.cohort
    if isinstance(table, SyntheticCohort):
        table = _make_synthetic(session, table)
    cohort = cohort_of(config, table, settings)
    for line in cohort.missing:
        progress.say(line)
    for warning in cohort.warnings:
        progress.warn(warning)
    for line in summarize_if_many(
        cohort.dropped, "rows or cases of the table are left out, which the report lists"
    ):
        progress.warn(line)
    return cohort


def synthetic_table(config: SyntheticCohort, workspace: Path) -> TableCohort:
    """Where a synthetic cohort's table and slides stand."""
    content = {"cases": config.cases, "seed": config.seed, "generator": GENERATOR_VERSION}
    folder = workspace / "cohorts" / f"synthetic-{fingerprint(content)}"
    return TableCohort(table=folder / "cohort.csv", slides=folder / "slides")


def _make_synthetic(session: Session, config: SyntheticCohort) -> TableCohort:
    location = synthetic_table(config, session.config.workspace)
    assert location.slides is not None
    table, slides = plan_cohort(config.cases, config.seed)
    write_text(location.table, table.to_csv(index=False))
    paths = {slide_path(slide, location.slides): slide for slide in slides}
    units = [
        Unit(slide.slide_id, draw, {"slide": slide, "folder": location.slides}, path)
        for path, slide in paths.items()
        if not path.exists()
    ]
    with session.progress.stage("drawing slides", len(units), "slides") as stage:
        session.executor.run(units, partial(advance, stage, "drawn"))
    return location


def extract_features(
    session: Session, settings: FeatureSettings, slides: Sequence[SlideRef]
) -> dict[str, ExtractedSlide]:
    """Slide id -> what became of it; slides whose feature files are whole are not read again."""
    progress = session.progress
    outcomes: dict[str, ExtractedSlide] = {}
    todo: list[SlideRef] = []
    for slide in slides:
        if slide.path is None:
            outcomes[slide.slide_id] = ExtractedSlide(slide.slide_id, {}, reason=slide.reason)
        elif done := settings.done_before(slide):
            outcomes[slide.slide_id] = done
        else:
            todo.append(slide)
    for warning in settings.warnings(todo, session.registry):
        progress.warn(warning)
    tally = Tally(settings.folder)

    def on_event(unit: Unit, event: Event) -> None:
        if event["event"] == "smaller batches":
            progress.warn(
                f"the memory of {event['device']} holds batches of {event['batch_size']} patches: set "
                "extraction.batch_size to that"
            )
        tally.add({"slide": unit.name, **event})
        progress.log(event.get("traceback", ""))
        advance(stage, "slide", unit, event, tally)

    with progress.stage(f"{settings.verb} features", len(todo), "slides") as stage:
        units = [settings.unit(slide, session.device) for slide in todo]
        fresh = session.executor.run(units, on_event)
    outcomes |= {outcome.slide_id: outcome for outcome in fresh}
    _warn_of_slides(outcomes.values(), tally.folder / EVENTS, progress)
    if isinstance(settings, ImportSettings):
        used = [outcome.slide_id for outcome in outcomes.values() if outcome.reason is None]
        require_equal_dims({slide_id: feature_dims(settings.path(slide_id)) for slide_id in used})
    return outcomes


def _warn_of_slides(outcomes: Collection[ExtractedSlide], events: Path, progress: RunProgress) -> None:
    left_out = [f"slide {o.slide_id} is left out: {o.reason}" for o in outcomes if o.reason is not None]
    doubted = [f"slide {o.slide_id}: {doubt}" for o in outcomes for doubt in o.doubts]
    for lines, what in ((left_out, "slides are left out"), (doubted, "doubts about slides")):
        for line in summarize_if_many(lines, f"{what}, which the report lists"):
            progress.warn(line)
    if any(outcome.fault for outcome in outcomes):
        progress.warn(f"the tracebacks of unexpected failures are in {events}")


def tell_plugins(session: Session, folder: RunFolder) -> LifeCycle:
    """The life-cycle hooks of all plugins; one that fails is a warning, and its traceback stands in the events."""

    def on_failure(failure: HookFailure) -> None:
        session.progress.warn(
            f"plugin {failure.plugin} failed in {failure.hook} and is told nothing more of this run "
            f"({failure.error}); the traceback stands in {folder.path / EVENTS}"
        )
        folder.log({"event": "plugin switched off", **asdict(failure)})

    return LifeCycle(session.registry.manager, on_failure)


def train(session: Session, jobs: Sequence[FoldJob], folder: RunFolder, life_cycle: LifeCycle) -> None:
    """Train the folds that are not finished, telling the plugins' life-cycle hooks as they go."""
    resources = Resources(gpus=int(session.device.kind == "cuda"))
    units = [
        Unit(
            f"seed {job.seed} fold {job.fold}", train_fold, {"job": job}, job.folder / PREDICTIONS, resources
        )
        for job in jobs
        if not job.finished
    ]
    for job in jobs:
        if job.finished:
            job.remove_states()  # left when a run was killed after its last write
    config = session.config.model_dump(mode="json", by_alias=True)
    life_cycle.tell("milsurv_run_started", config=config, folder=folder.path)
    total = sum(len(job.rows) for job in jobs if not job.trained) * session.config.training.epochs

    def on_event(unit: Unit, event: Event) -> None:
        job: FoldJob = unit.arguments["job"]
        advance(stage, "", unit, event)
        if event["event"] == "cases":
            stage.advance(event["count"])
        elif event["event"] == "bags" and event["plan"] not in plans:
            plans.add(event["plan"])
            session.progress.say(f"bags: {event['plan']}")
        if event["event"] not in ("epoch", "fold finished", WORKER_DIED):
            return
        folder.log(event)
        fold = {"seed": job.seed, "fold": job.fold, "folder": job.folder}
        if event["event"] == "epoch":
            values = {key: value for key, value in event.items() if isinstance(value, float)}
            life_cycle.tell("milsurv_epoch_finished", epoch=event["epoch"], values=values, **fold)
        elif event["event"] == "fold finished":
            life_cycle.tell("milsurv_fold_finished", **fold)

    plans: set[str] = set()
    with session.progress.stage("training folds", total, "cases") as stage:
        session.executor.run(units, on_event)


def finish(content: RunContent, folder: RunFolder, metrics: dict[str, Any], life_cycle: LifeCycle) -> Path:
    """Write the report and tell the plugins."""
    slides = content.slides()
    predictions = read_predictions(folder.path / PREDICTIONS)
    session = content.session
    views = views_of_fold(session.config, session.registry, folder.path, predictions, slides)
    report = write_report(folder.path, session.config, views)
    life_cycle.tell("milsurv_run_finished", folder=folder.path, metrics=metrics)
    return report
