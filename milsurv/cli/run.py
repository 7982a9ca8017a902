"""``milsurv run`` and ``milsurv check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from milsurv._version import __version__
from milsurv.cli.common import (
    ConfigArgument,
    DeviceOption,
    PluginOption,
    SetOption,
    WorkspaceOption,
    join_overrides,
    new_app,
)
from milsurv.errors import MilsurvError
from milsurv.interrupts import Interrupted
from milsurv.progress import RunProgress
from milsurv.storage.run_files import SLIDES

if TYPE_CHECKING:
    from milsurv.config.run import Splits
    from milsurv.evaluation.intervals import Metric
    from milsurv.evaluation.schema import EvaluationResults, PooledAccount, RunMetrics
    from milsurv.runs.pipeline import RunResult
    from milsurv.runs.session import Session

app = new_app()
OPTIMISTIC = ", optimistic: epoch selected by the test cases"


@app.command()
def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    fold: Annotated[int | None, typer.Option(metavar="K", help="Train only this fold.")] = None,
    plugin: PluginOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only print warnings and errors.")] = False,
) -> None:
    """Run the whole pipeline: slides, features, cross-validated training, evaluation, report.

    Finished work is reused; run the same command again to resume. The exit status is 1 if more slides than
    max_failed_slides are excluded.
    """
    from milsurv.config.loading import load_config
    from milsurv.runs.pipeline import run
    from milsurv.runs.session import open_session

    progress = RunProgress(quiet)
    loaded, registry = load_config(config, join_overrides(overrides, workspace, device), plugin or [])
    progress.log_to(loaded.workspace / "logs" / f"{loaded.name}.log")
    try:
        with open_session(loaded, registry, progress) as session:
            _print_plan(session, fold)
            result = run(session, fold)
    except MilsurvError as error:
        progress.log(f"error: {error}")
        raise
    except Interrupted as stop:
        progress.log(f"stopped by {stop}")
        raise
    _print_result(result, progress)
    limit = loaded.max_failed_slides
    if limit is not None and result.slides_excluded > limit:
        progress.warn(f"slides excluded: {result.slides_excluded}, more than max_failed_slides: {limit}")
        raise typer.Exit(1)


@app.command()
def check(
    config: ConfigArgument,
    overrides: SetOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    fold: Annotated[int | None, typer.Option(metavar="K", help="Check a run of only this fold.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Find problems before a run: settings, plugins, cohort table, slides, weights, folds, disk space.

    Opens every slide or feature file, reads a few of them, and trains a few cases for one step. The exit status is 2
    if there are problems.
    """
    from milsurv.config.loading import load_config
    from milsurv.runs.checks import check_run

    progress = RunProgress()
    loaded, registry = load_config(config, join_overrides(overrides, workspace, device), plugin or [])
    findings = check_run(loaded, registry, fold)
    for fact in findings.facts:
        progress.say(fact)
    for warning in findings.warnings:
        progress.warn(warning)
    for problem in dict.fromkeys(findings.problems):
        progress.error(problem)
    if findings.problems:
        raise typer.Exit(2)
    progress.say(f"'{loaded.name}' is ready to run")


def _print_plan(session: Session, fold: int | None) -> None:
    config, progress = session.config, session.progress
    magnifications = " ".join(f"{magnification}x" for magnification in config.tiling.magnifications)
    folds = _describe_folds(config.splits)
    if fold is not None:
        folds = f"fold {fold} of {folds}"
    seeds = f"seed{'s' if len(config.seeds) > 1 else ''} {', '.join(map(str, config.seeds))}"
    by = "C-index" if config.training.select_by == "c_index" else "loss"
    selection = {
        "inner_validation": f"epoch selected by inner validation {by}",
        "last_epoch": "last epoch",
        "reported_fold": f"epoch selected by {by} of the test cases (optimistic)",
        "both": f"epoch selected by inner validation {by}, and by {by} of the test cases for comparison",
    }[config.training.selection]
    workers = session.executor.workers
    progress.say(f"milsurv {__version__}: run '{config.name}' on {session.device.name}, {workers} worker(s)")
    progress.say(f"  cohort     {config.cohort}")
    if config.features is not None:
        source = f"{config.features.place} ({config.features.layout})"
        progress.say(f"  features   {magnifications}, imported from {source}")
    else:
        backbone = config.extracting_backbone.name
        progress.say(f"  features   {magnifications} patches of {config.tiling.patch_px} px, {backbone}")
    progress.say(f"  model      {config.aggregator.name}, loss {config.loss.name}")
    progress.say(f"  training   {folds} × {seeds}, up to {config.training.epochs} epochs, {selection}")
    progress.say(f"  workspace  {config.workspace}")


def _describe_folds(splits: Splits) -> str:
    if splits.files is not None:
        return f"folds of {splits.files}"
    if splits.scheme == "monte_carlo":
        return f"{splits.folds} random splits"
    return f"{splits.folds} folds{f', {splits.repeats} times' if splits.repeats > 1 else ''}"


def _print_result(result: RunResult, progress: RunProgress) -> None:
    from milsurv.evaluation.metrics import HARRELL

    metrics, cohort = result.metrics, result.metrics["cohort"]
    progress.say()
    progress.say(
        f"{cohort['cases']} cases, {cohort['events']} events, {cohort['slides']} slides used, "
        f"{cohort['slides_excluded']} excluded"
    )
    mark = OPTIMISTIC if cohort["selection"] == "reported_fold" else ""
    for pooled in metrics["pooled"]:
        title = f"seed {pooled['seed']}, {_folds(metrics, pooled['seed'])}{mark}"
        print_metrics(title, pooled, metrics, progress)
    if metrics["ensemble"]:
        print_metrics(f"ensemble of the seeds{mark}", metrics["ensemble"], metrics, progress)
    for pooled in metrics["optimistic"]["pooled"] if metrics["optimistic"] else ():
        print_metrics(f"seed {pooled['seed']}{OPTIMISTIC}", pooled, metrics, progress)
    _print_baselines(metrics, progress)
    summary = metrics["summary"][HARRELL.name]
    if summary["mean"] is not None:
        spread = "" if summary["standard_deviation"] is None else f", SD {summary['standard_deviation']:.3f}"
        progress.say(f"{HARRELL.label}, mean of {summary['folds']} folds: {summary['mean']:.3f}{spread}")
    bound = metrics["true_risk"] and metrics["true_risk"]["harrell_c_index"]["mean"]
    if bound is not None:
        progress.say(f"{HARRELL.label} of the true risk, mean over folds: {bound:.3f} (upper bound)")
    if cohort["synthetic"]:
        progress.say("This cohort is synthetic: the results say nothing about patients.")
    if result.slides_excluded:
        reasons = result.folder / SLIDES
        progress.warn(f"slides excluded: {result.slides_excluded}; see {reasons} for the reasons")
    progress.say(
        f"Report: {result.report}" if result.report else f"Some folds are not trained yet: {result.folder}"
    )


def print_metrics(
    title: str, account: PooledAccount, metrics: EvaluationResults, progress: RunProgress
) -> None:
    """Print the main metrics with their intervals, or the reasons for missing values."""
    from milsurv.evaluation.metrics import read_definitions

    progress.say(f"{title}:")
    for name, info in read_definitions(metrics).items():
        if "screen" in info.shown and name in account["metrics"]:
            progress.say(f"  {info.label or info.title:<25} {_estimate(account['metrics'][name])}")


def _print_baselines(metrics: RunMetrics, progress: RunProgress) -> None:
    """Print the main metrics of each baseline and the difference to the model; warn if the model is not better."""
    from milsurv.evaluation.metrics import HARRELL, read_definitions
    from milsurv.report.baselines import shortfall, title

    for comparison in metrics["baselines"]:
        cases = f", {comparison['cases']} cases" if comparison["excluded"] else ""
        progress.say(f"baseline, {title(comparison)}, on the same folds{cases}:")
        for name, info in read_definitions(metrics).items():
            if "screen" in info.shown and name in comparison["differences"]:
                progress.say(f"  {info.label or info.title:<25} {_estimate(comparison['baseline'][name])}")
        difference = comparison["differences"][HARRELL.name]
        progress.say(f"  {'C, model less baseline':<25} {_estimate(difference)}")
        if warning := shortfall(comparison):
            progress.warn(warning)


def _folds(metrics: RunMetrics, seed: int) -> str:
    count = sum(fold["seed"] == seed for fold in metrics["folds"])
    return "1 fold" if count == 1 else f"pooled over {count} folds"


def _estimate(metric: Metric) -> str:
    if metric["value"] is None:
        return f"not computed: {metric['reason']}"
    text = f"{metric['value']:.3f}"
    if metric["interval"] is not None:
        low, high = metric["interval"]
        text += f"  (95 % interval {low:.3f} to {high:.3f})"
    return text
