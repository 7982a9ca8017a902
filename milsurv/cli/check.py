"""``milsurv check``: what is wrong with a run before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milsurv.config.loading import load_config
from milsurv.progress import RunProgress
from milsurv.runs.checks import check_run


def check_command(source: str, overrides: Sequence[str], plugins: Sequence[Path], fold: int | None) -> int:
    """Exit status: 0 when the run can start, 2 when something must be mended first."""
    progress = RunProgress()
    config, registry = load_config(source, overrides, plugins)
    findings = check_run(config, registry, fold)
    for fact in findings.facts:
        progress.say(fact)
    for warning in findings.warnings:
        progress.warn(warning)
    for problem in dict.fromkeys(findings.problems):
        progress.error(problem)
    if findings.problems:
        return 2
    progress.say(f"'{config.name}' can run")
    return 0
