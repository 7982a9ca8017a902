"""``milsurv evaluate``: external validation of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milsurv.cli.run import print_account
from milsurv.models.external import evaluate_external, load_for
from milsurv.progress import RunProgress
from milsurv.runs.session import open_session


def evaluate_command(
    model: Path, cohort: Path, slides: Path | None, overrides: Sequence[str], plugins: Sequence[Path]
) -> int:
    """Exit status 0. Raises MilsurvError for what the user can mend."""
    progress = RunProgress()
    trained = load_for(model, cohort, slides, overrides, plugins)
    progress.log_to(trained.config.workspace / "logs" / f"{trained.config.name}-evaluation.log")
    progress.say(f"external validation of {trained.name}, {len(trained.models)} models, on {cohort}")
    with open_session(trained.config, trained.registry, progress) as session:
        result = evaluate_external(session, trained)
    about = result.metrics["cohort"]
    progress.say(f"{about['cases']} cases, {about['events']} events, {about['slides']} slides used")
    print_account(
        "ensemble of the models, nothing fitted anew", result.metrics["pooled"][0], result.metrics, progress
    )
    if trained.cohort["synthetic"]:
        progress.say("The model was trained on a synthetic cohort: the numbers say nothing about patients.")
    progress.say(f"Report: {result.report}")
    return 0
