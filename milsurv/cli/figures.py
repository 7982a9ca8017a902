"""``milsurv figures``: a finished run's figures as files."""

from __future__ import annotations

from pathlib import Path

import typer

from milsurv.report.gallery import Format, save_figures
from milsurv.report.results import RunResults
from milsurv.runs.folder import find_run
from milsurv.storage.run_files import FIGURES


def figures_command(run: Path, kind: Format, output: Path | None) -> int:
    """Exit status 0. Raises MilsurvError when the run is not finished."""
    folder = find_run(run)
    for path in save_figures(RunResults.read(folder), output or folder / FIGURES, kind):
        typer.echo(path)
    return 0
