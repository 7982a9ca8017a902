"""``milsurv export``: a trained model to share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from milsurv.errors import size
from milsurv.models.export import CARD, export_model


def export_command(run: Path, folder: Path, plugins: Sequence[Path]) -> int:
    """Exit status 0. Raises MilsurvError when the run is not finished or the folder is not new."""
    export_model(run, folder, plugins)
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    typer.echo(
        f"{folder}: {size(total)}; read {folder / CARD} before you share it, and state a licence there"
    )
    return 0
