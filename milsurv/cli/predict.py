"""``milsurv predict``: a trained model's opinion of new slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from milsurv.errors import MilsurvError
from milsurv.models.heatmap import HEATMAPS, DrawnSlide, draw_heatmap
from milsurv.models.prediction import SlidePrediction, predict_slides
from milsurv.models.trained import TrainedModel, load_trained
from milsurv.progress import PlainConsole, RunProgress
from milsurv.report.formatting import DASH, time
from milsurv.runs.session import Session, open_session
from milsurv.storage.atomic import write_text


def predict_command(
    run: Path,
    slides: Sequence[Path],
    overrides: Sequence[str],
    plugins: Sequence[Path],
    output: Path | None,
    heatmaps: bool,
    mpp: float | None,
    table: Path | None,
) -> int:
    """Exit status: 0; 1 when a slide has no prediction."""
    progress = RunProgress()
    if output is not None and output.is_dir():
        raise MilsurvError(
            f"-o {output}: this is a folder; name the file to write, such as {output / 'table.csv'}"
        )
    trained = load_trained(run, overrides, plugins)
    for warning in trained.warnings:
        progress.warn(warning)
    with open_session(trained.config, trained.registry, progress) as session:
        predictions = predict_slides(session, trained, slides, mpp, table)
        _report(trained, predictions, output, progress)
        if heatmaps:
            _draw(session, trained, predictions, (output.parent if output else Path()) / HEATMAPS)
    return int(any(prediction.row["models"] == 0 for prediction in predictions))


def _report(
    trained: TrainedModel,
    predictions: Sequence[SlidePrediction],
    output: Path | None,
    progress: RunProgress,
) -> None:
    rows = [prediction.row for prediction in predictions]
    _print(trained, rows)
    for prediction in predictions:
        if prediction.overlap is not None and prediction.row["note"]:
            progress.warn(f"slide {prediction.slide.slide_id}: {prediction.row['note']}")
    if trained.cohort["synthetic"]:
        progress.say("The model was trained on a synthetic cohort: the numbers say nothing about patients.")
    if output is not None:
        write_text(output, pd.DataFrame(rows).to_csv(index=False))
        progress.say(f"Predictions: {output}")


def _draw(
    session: Session, trained: TrainedModel, predictions: Sequence[SlidePrediction], folder: Path
) -> None:
    for prediction in predictions:
        if prediction.overlap is not None:
            drawn = DrawnSlide(prediction.slide, prediction.features, prediction.overlap)
            try:
                draw_heatmap(session, trained, drawn, folder / prediction.slide.slide_id)
            except MilsurvError as error:
                session.progress.warn(f"slide {prediction.slide.slide_id} is not drawn: {error}")
                continue
            session.progress.say(f"Heatmap: {folder / prediction.slide.slide_id}")


def _print(trained: TrainedModel, rows: Sequence[dict[str, Any]]) -> None:
    unit, endpoint = trained.cohort["time_unit"], trained.cohort["endpoint"]
    last = float(trained.training_cases.follow_up.time.max())
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("slide", overflow="fold")
    beyond = [f"beyond {time(t)}" for t in trained.times]
    for heading in ("risk", "over models", "group", "median", *beyond):
        shown.add_column(heading)
    for row in rows:
        shown.add_row(row["slide_id"], *_cells(row, last))
    console = PlainConsole()
    console.print(f"Risk in deviations from the median of training's cases; {endpoint} in {unit}")
    console.print(shown)


def _cells(row: dict[str, Any], last: float) -> list[str]:
    survival = [value for name, value in row.items() if name.startswith("survival_at_")]
    if not row["models"]:
        return [DASH] * (4 + len(survival))
    median = row["median_survival"]
    return [
        f"{row['risk']:.2f}",
        f"{row['risk_lowest']:.2f} to {row['risk_highest']:.2f}" if row["models"] > 1 else "1 model",
        "high" if row["high_risk"] else "low",
        f"> {time(last)}" if pd.isna(median) else time(median),
        *(f"{value:.2f}" for value in survival),
    ]
