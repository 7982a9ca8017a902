"""``milsurv import-checkpoint``: a released checkpoint as a model file."""

from __future__ import annotations

from pathlib import Path

from milsurv.models.interop import import_checkpoint
from milsurv.progress import RunProgress


def import_checkpoint_command(file: Path, model: str, heads: int | None, output: Path) -> int:
    """Exit status: 0."""
    about = import_checkpoint(file, model, output, num_heads=heads)
    settings = ", ".join(f"{key} {value}" for key, value in about["aggregator"].items() if key != "name")
    features = ", ".join(f"{dim} at {magnification}x" for magnification, dim in about["feature_dims"].items())
    progress = RunProgress()
    progress.say(f"{about['aggregator']['name']}: {settings}")
    progress.say(
        f"features: {features}; {about['n_outputs']} time bins, whose edges a checkpoint does not tell"
    )
    progress.say(f"Model: {output}")
    return 0
