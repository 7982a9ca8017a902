"""``milsurv heatmap``: where a run's models look on a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milsurv.models.heatmap import HEATMAPS, draw_heatmap, find_slide
from milsurv.models.trained import load_trained
from milsurv.progress import RunProgress
from milsurv.runs.session import open_session


def heatmap_command(
    run: Path,
    given: str,
    output: Path | None,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    use_occlusion: bool,
    mpp: float | None,
) -> int:
    """Exit status 0. Raises MilsurvError when the slide cannot be drawn."""
    progress = RunProgress()
    trained = load_trained(run, overrides, plugins)
    for warning in trained.warnings:
        progress.warn(warning)
    with open_session(trained.config, trained.registry, progress) as session:
        drawn = find_slide(session, trained, given, mpp)
        folder = output or trained.folder / HEATMAPS / drawn.slide.slide_id
        for path in draw_heatmap(session, trained, drawn, folder, use_occlusion):
            progress.say(f"{path}")
    return 0
