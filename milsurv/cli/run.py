"""``milsurv run``: the plan, the run, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milsurv._version import __version__
from milsurv.config.loading import load_config
from milsurv.config.run import Splits
from milsurv.errors import MilsurvError
from milsurv.evaluation.intervals import Metric
from milsurv.evaluation.metrics import HARRELL, read_definitions
from milsurv.evaluation.schema import EvaluationResults, PooledAccount, RunMetrics
from milsurv.interrupts import Interrupted
from milsurv.progress import RunProgress
from milsurv.runs.pipeline import RunResult, run
from milsurv.runs.session import Session, open_session


def run_command(
    source: str, overrides: Sequence[str], plugins: Sequence[Path], fold: int | None, quiet: bool
) -> int:
    """Exit status: 0; 1 when more slides are left out than ``max_failed_slides``."""
    progress = RunProgress(quiet)
    config, registry = load_config(source, overrides, plugins)
    progress.log_to(config.workspace / "logs" / f"{config.name}.log")
    try:
        with open_session(config, registry, progress) as session:
            _print_plan(session, fold)
            result = run(session, fold)
    except MilsurvError as error:
        progress.log(f"error: {error}")
        raise
    except Interrupted as stop:
        progress.log(f"stopped by {stop}")
        raise
    _print_result(result, progress)
    allowed = config.max_failed_slides
    if allowed is not None and result.slides_left_out > allowed:
        progress.warn(f"slides left out: {result.slides_left_out}, more than max_failed_slides: {allowed}")
        return 1
    return 0


def _print_plan(session: Session, fold: int | None) -> None:
    config, progress = session.config, session.progress
    scales = " ".join(f"{magnification}x" for magnification in config.tiling.magnifications)
    folds = _folds_in_words(config.splits)
    if fold is not None:
        folds = f"fold {fold} of {folds}"
    seeds = f"seed{'s' if len(config.seeds) > 1 else ''} {', '.join(map(str, config.seeds))}"
    by = "C-index" if config.training.select_by == "c_index" else "loss"
    chooser = {
        "inner_validation": f"epoch chosen by inner validation {by}",
        "last_epoch": "last epoch kept",
        "reported_fold": f"epoch chosen by the reported cases' {by}: optimistic",
        "both": f"epoch chosen by inner validation {by}, and by the reported cases' to compare",
    }[config.training.selection]
    progress.say(
        f"milsurv {__version__}: run '{config.name}' on {session.device.name}, {session.executor.workers} worker(s)"
    )
    progress.say(f"  cohort     {config.cohort}")
    if config.features is not None:
        progress.say(
            f"  features   {scales}, imported from {config.features.place} ({config.features.layout})"
        )
    else:
        backbone = config.extracting_backbone.name
        progress.say(f"  features   {scales} patches of {config.tiling.patch_px} px by {backbone}")
    progress.say(f"  model      {config.aggregator.name}, loss {config.loss.name}")
    progress.say(f"  training   {folds} × {seeds}, up to {config.training.epochs} epochs, {chooser}")
    progress.say(f"  workspace  {config.workspace}")


def _folds_in_words(splits: Splits) -> str:
    if splits.files is not None:
        return f"folds of {splits.files}"
    if splits.scheme == "monte_carlo":
        return f"{splits.folds} random splits"
    return f"{splits.folds} folds{f', {splits.repeats} times' if splits.repeats > 1 else ''}"


def _print_result(result: RunResult, progress: RunProgress) -> None:
    metrics, cohort = result.metrics, result.metrics["cohort"]
    progress.say()
    progress.say(
        f"{cohort['cases']} cases, {cohort['events']} events, {cohort['slides']} slides used, "
        f"{cohort['slides_left_out']} left out"
    )
    optimistic = ", optimistic: the reported cases chose the epoch"
    mark = optimistic if cohort["selection"] == "reported_fold" else ""
    for pooled in metrics["pooled"]:
        print_account(
            f"seed {pooled['seed']}, {_folds(metrics, pooled['seed'])}{mark}", pooled, metrics, progress
        )
    if metrics["ensemble"]:
        print_account(f"ensemble of the seeds{mark}", metrics["ensemble"], metrics, progress)
    for pooled in metrics["optimistic"]["pooled"] if metrics["optimistic"] else ():
        print_account(f"seed {pooled['seed']}{optimistic}", pooled, metrics, progress)
    summary = metrics["summary"][HARRELL.name]
    if summary["mean"] is not None:
        spread = "" if summary["standard_deviation"] is None else f", SD {summary['standard_deviation']:.3f}"
        progress.say(f"{HARRELL.label}, mean of {summary['folds']} folds: {summary['mean']:.3f}{spread}")
    bound = metrics["true_risk"] and metrics["true_risk"]["harrell_c_index"]["mean"]
    if bound is not None:
        progress.say(f"{HARRELL.label} of the true risk, mean over folds: {bound:.3f} (upper bound)")
    if cohort["synthetic"]:
        progress.say("This cohort is synthetic: the numbers say nothing about patients.")
    if result.slides_left_out:
        progress.warn(
            f"slides left out: {result.slides_left_out}; the reasons are in {result.folder / 'slides.csv'}"
        )
    progress.say(
        f"Report: {result.report}" if result.report else f"Not all folds are trained yet: {result.folder}"
    )


def print_account(
    title: str, account: PooledAccount, metrics: EvaluationResults, progress: RunProgress
) -> None:
    """The metrics that are shown on the terminal, with their intervals or the reasons for missing values."""
    progress.say(f"{title}:")
    for name, info in read_definitions(metrics).items():
        if "screen" in info.shown and name in account["metrics"]:
            progress.say(f"  {info.label or info.title:<24}{_estimate(account['metrics'][name])}")


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
