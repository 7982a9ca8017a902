"""A run from slides and follow-up to the report, one function per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from milsurv.cohort.cases import Cohort
from milsurv.evaluation.schema import RunMetrics
from milsurv.executors.base import WORKER_DIED, Event, Resources, Unit
from milsurv.explain.view import views_of_fold
from milsurv.plugin.lifecycle import HookFailure, LifeCycle
from milsurv.report.html import write_report
from milsurv.report.probabilities import probability_warnings, read_probabilities
from milsurv.runs.baselines import fit_baselines
from milsurv.runs.cohorts import prepare_cohort
from milsurv.runs.evaluation import measure
from milsurv.runs.folder import RunContent, RunFolder
from milsurv.runs.inputs import feature_source, make_features, training_case
from milsurv.runs.planning import fold_jobs, plan_run, require_fold
from milsurv.runs.session import Session, advance
from milsurv.storage.locks import remove_abandoned
from milsurv.storage.run_files import EVENTS, PREDICTIONS
from milsurv.training.fold import WORSE, train_fold
from milsurv.training.job import FoldJob
from milsurv.training.loop import fit_loss
from milsurv.training.results import read_predictions


@dataclass(frozen=True)
class RunResult:
    """The result of a run or an external validation."""

    folder: Path
    metrics: RunMetrics
    report: Path | None
    """None if some folds are not trained yet."""
    slides_excluded: int
    cohort: Cohort


def run(session: Session, only_fold: int | None = None) -> RunResult:
    """Run all stages that are not finished yet. Raises MilsurvError for problems that the user can fix."""
    config, progress = session.config, session.progress
    for part in ("cohorts", "features", "runs", "baselines", "evaluations"):
        remove_abandoned(config.workspace / part)
    if config.splits.files is None:
        require_fold(only_fold, range(config.splits.count))
    source = feature_source(session)
    cohort = prepare_cohort(session, source)
    slides = [slide for case in cohort.cases for slide in case.slides]
    outcomes = make_features(session, source, slides)
    content = plan_run(session, source, cohort, outcomes, only_fold)
    for warning in content.warnings:
        progress.warn(warning)
    folder = RunFolder.create(content)
    cases = [training_case(case, source) for case in content.usable.cases]
    jobs = fold_jobs(content, cases, folder)
    if reused := folder.reuse_folds(jobs, content):
        progress.say(f"{reused} of {len(jobs)} folds are reused from another evaluation of this training")
    todo = [job for job in jobs if only_fold in (None, job.fold)]
    for job in todo:
        fit_loss(job, session.registry)  # report a fold that cannot train before the first one trains
    life_cycle = notify_plugins(session, folder)
    train(session, todo, folder, life_cycle)
    for warning in probability_warnings(read_probabilities(folder.path)):
        progress.warn(warning)
    baselines = fit_baselines(content, cases, [job.fold for job in jobs if job.finished])
    progress.say("computing metrics, writing the report")
    metrics = measure(jobs, content, folder, baselines)
    finished = all(job.finished for job in jobs)
    report = finish(content, folder, metrics, life_cycle) if finished else None
    excluded = sum(outcome.reason is not None for outcome in outcomes.values())
    return RunResult(folder.path, metrics, report, excluded, content.usable)


def notify_plugins(session: Session, folder: RunFolder) -> LifeCycle:
    """The run hooks of all plugins. If one fails, a warning is shown and its traceback is written to the events."""

    def on_failure(failure: HookFailure) -> None:
        session.progress.warn(
            f"plugin {failure.plugin} failed in {failure.hook} ({failure.error}) and is not called again in this run; "
            f"the traceback is in {folder.path / EVENTS}"
        )
        folder.log({"event": "plugin switched off", **asdict(failure)})

    return LifeCycle(session.registry.manager, on_failure)


def train(session: Session, jobs: Sequence[FoldJob], folder: RunFolder, life_cycle: LifeCycle) -> None:
    """Train the folds that are not finished, and call the plugins' run hooks."""
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
            job.remove_states()  # they remain when a run was killed after its last write
    config = session.config.model_dump(mode="json", by_alias=True)
    life_cycle.call("milsurv_run_started", config=config, folder=folder.path)
    total = sum(job.training_rows for job in jobs if not job.trained)

    def on_event(unit: Unit, event: Event) -> None:
        job: FoldJob = unit.arguments["job"]
        advance(stage, "", unit, event)
        if event["event"] == "cases":
            stage.advance(event["count"])
        elif event["event"] == "bags" and event["plan"] not in plans:
            plans.add(event["plan"])
            session.progress.say(f"bags: {event['plan']}")
        if event["event"] not in ("epoch", WORSE, "fold finished", WORKER_DIED):
            return
        folder.log(event)
        fold = {"seed": job.seed, "fold": job.fold, "folder": job.folder}
        if event["event"] == "epoch":
            values = {key: value for key, value in event.items() if isinstance(value, float)}
            life_cycle.call("milsurv_epoch_finished", epoch=event["epoch"], values=values, **fold)
        elif event["event"] == "fold finished":
            life_cycle.call("milsurv_fold_finished", **fold)

    plans: set[str] = set()
    with session.progress.stage("training folds", total, "cases") as stage:
        session.executor.run(units, on_event)


def finish(content: RunContent, folder: RunFolder, metrics: RunMetrics, life_cycle: LifeCycle) -> Path:
    """Write the report and call the plugins' hooks."""
    slides = content.slides()
    predictions = read_predictions(folder.path / PREDICTIONS)
    session = content.session
    views = views_of_fold(session.config, session.registry, folder.path, predictions, slides)
    report = write_report(folder.path, session.config, views)
    life_cycle.call("milsurv_run_finished", folder=folder.path, metrics=metrics)
    return report
