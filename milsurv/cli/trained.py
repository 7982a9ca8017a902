"""Commands for trained models: predict, evaluate, heatmap, export, import-checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milsurv.cli.common import (
    DeviceOption,
    ModelArgument,
    ModelSetOption,
    MppOption,
    PluginOption,
    WorkspaceOption,
    join_overrides,
    new_app,
    new_table,
)
from milsurv.errors import MilsurvError, size
from milsurv.progress import PlainConsole, RunProgress

if TYPE_CHECKING:
    from milsurv.models.prediction import SlidePrediction
    from milsurv.models.trained import TrainedModel
    from milsurv.runs.session import Session

app = new_app()
SYNTHETIC = "The model was trained on a synthetic cohort: the results say nothing about patients."


@app.command()
def heatmap(
    run: ModelArgument,
    slide: Annotated[
        str, typer.Argument(metavar="SLIDE", help="A slide file, or the id of a slide of the run.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder to write to (default: RUN/heatmaps/SLIDE_ID)."
        ),
    ] = None,
    plugin: PluginOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    occlusion: Annotated[
        bool,
        typer.Option("--occlusion", help="Also measure how the risk changes when patches are removed."),
    ] = False,
    mpp: MppOption = None,
) -> None:
    """Show where models look on a slide: heatmaps, patches of highest and lowest weight, GeoJSON for QuPath.

    Slides of training cases are scored only by models that were not trained on them, if there are any.
    """
    from milsurv.models.heatmap import HEATMAPS, draw_heatmap, find_slide
    from milsurv.runs.session import open_session

    progress = RunProgress()
    trained = _load(run, join_overrides(None, workspace, device), plugin, progress)
    with open_session(trained.config, trained.registry, progress) as session:
        drawn = find_slide(session, trained, slide, mpp)
        folder = output or trained.folder / HEATMAPS / drawn.slide.slide_id
        for path in draw_heatmap(session, trained, drawn, folder, occlusion):
            progress.say(f"{path}")


@app.command()
def predict(
    run: ModelArgument,
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE", help="Slide files, or folders of slides.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="CSV file to write.")
    ] = None,
    mpp: MppOption = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="Table with the slide id column of the training, and the columns mpp, case id, or both.",
        ),
    ] = None,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Also draw heatmaps, in heatmaps/ next to the CSV file.")
    ] = False,
    overrides: ModelSetOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    plugin: PluginOption = None,
) -> None:
    """Predict new slides: risk and its spread over models, median survival, survival probabilities.

    Slides are processed with the settings of the training. Slides of training cases are scored only by models that
    were not trained on them. The exit status is 1 if a slide has no prediction.
    """
    from milsurv.models.heatmap import HEATMAPS
    from milsurv.models.prediction import predict_slides
    from milsurv.runs.session import open_session

    progress = RunProgress()
    if output is not None and output.is_dir():
        raise MilsurvError(f"-o {output} is a folder; give a file, such as {output / 'predictions.csv'}")
    trained = _load(run, join_overrides(overrides, workspace, device), plugin, progress)
    with open_session(trained.config, trained.registry, progress) as session:
        predictions = predict_slides(session, trained, slides, mpp, table)
        _report(trained, predictions, output, progress)
        if heatmaps:
            _draw(session, trained, predictions, (output.parent if output else Path()) / HEATMAPS)
    raise typer.Exit(int(any(prediction.row["models"] == 0 for prediction in predictions)))


def _load(
    run: Path, overrides: Sequence[str], plugins: Sequence[Path] | None, progress: RunProgress
) -> TrainedModel:
    from milsurv.models.trained import load_trained

    trained = load_trained(run, overrides, plugins or [])
    for warning in trained.warnings:
        progress.warn(warning)
    return trained


def _report(
    trained: TrainedModel, predictions: Sequence[SlidePrediction], output: Path | None, progress: RunProgress
) -> None:
    import pandas as pd

    from milsurv.storage.atomic import write_text

    rows = [prediction.row for prediction in predictions]
    _print(trained, rows)
    for prediction in predictions:
        if prediction.overlap is not None and prediction.row["note"]:
            progress.warn(f"slide {prediction.slide.slide_id}: {prediction.row['note']}")
    if trained.cohort["synthetic"]:
        progress.say(SYNTHETIC)
    if output is not None:
        write_text(output, pd.DataFrame(rows).to_csv(index=False))
        progress.say(f"Predictions: {output}")


def _draw(
    session: Session, trained: TrainedModel, predictions: Sequence[SlidePrediction], folder: Path
) -> None:
    from milsurv.models.heatmap import DrawnSlide, draw_heatmap

    for prediction in predictions:
        if prediction.overlap is not None:
            drawn = DrawnSlide(prediction.slide, prediction.features, prediction.overlap)
            try:
                draw_heatmap(session, trained, drawn, folder / prediction.slide.slide_id)
            except MilsurvError as error:
                session.progress.warn(f"no heatmap of slide {prediction.slide.slide_id}: {error}")
                continue
            session.progress.say(f"Heatmap: {folder / prediction.slide.slide_id}")


def _print(trained: TrainedModel, rows: Sequence[dict[str, Any]]) -> None:
    from milsurv.report.formatting import time

    unit, endpoint = trained.cohort["time_unit"], trained.cohort["endpoint"]
    longest = float(trained.training_cases.follow_up.time.max())
    table = new_table("slide", padding=(0, 2, 0, 0))
    survival = [f"S({time(t)})" for t in trained.times]
    for heading in ("risk", "range", "group", "median", *survival):
        table.add_column(heading)
    for row in rows:
        table.add_row(row["slide_id"], *_cells(row, longest))
    console = PlainConsole()
    console.print(
        f"Risk in standard deviations from the median of the training cases, with its range over models; "
        f"survival S(t) and median survival: {endpoint} in {unit}"
    )
    console.print(table)


def _cells(row: dict[str, Any], longest: float) -> list[str]:
    import pandas as pd

    from milsurv.report.formatting import DASH, time

    survival = [value for name, value in row.items() if name.startswith("survival_at_")]
    if not row["models"]:
        return [DASH] * (4 + len(survival))
    median = row["median_survival"]
    return [
        f"{row['risk']:.2f}",
        f"{row['risk_lowest']:.2f} to {row['risk_highest']:.2f}" if row["models"] > 1 else "1 model",
        "high" if row["high_risk"] else "low",
        f"> {time(longest)}" if pd.isna(median) else time(median),
        *(f"{value:.2f}" for value in survival),
    ]


@app.command()
def evaluate(
    run: ModelArgument,
    cohort: Annotated[
        Path,
        typer.Option("--cohort", metavar="TABLE", help="Follow-up table of the cohort: CSV, TSV or Parquet."),
    ],
    slides: Annotated[
        Path | None, typer.Option("--slides", metavar="DIR", help="Folder of the cohort's slides.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a setting of the training, such as cohort.columns.time=OS_MONTHS or "
            "evaluation.subgroups=[sex].",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    plugin: PluginOption = None,
) -> None:
    """Validate a trained model on another cohort, without refitting, and write a report."""
    from milsurv.cli.run import print_metrics
    from milsurv.models.external import evaluate_external, load_for
    from milsurv.runs.session import open_session

    progress = RunProgress()
    trained = load_for(run, cohort, slides, join_overrides(overrides, workspace, device), plugin or [])
    progress.log_to(trained.config.workspace / "logs" / f"{trained.config.name}-evaluation.log")
    progress.say(f"external validation of {trained.name}, {len(trained.models)} models, on {cohort}")
    with open_session(trained.config, trained.registry, progress) as session:
        result = evaluate_external(session, trained)
    counts = result.metrics["cohort"]
    progress.say(f"{counts['cases']} cases, {counts['events']} events, {counts['slides']} slides used")
    print_metrics("ensemble of the models", result.metrics["pooled"][0], result.metrics, progress)
    if trained.cohort["synthetic"]:
        progress.say(SYNTHETIC)
    progress.say(f"Report: {result.report}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="New folder for the model.")
    ],
    plugin: PluginOption = None,
) -> None:
    """Export a trained model for sharing: weights, settings and a model card, without patient ids and local paths."""
    from milsurv.models.export import CARD, export_model

    export_model(run, output, plugin or [])
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    typer.echo(f"{output}: {size(total)}; read {output / CARD} and state a licence in it before you share it")


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt, .pth or .safetensors file.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="CrossFusion, CrossFusionConcat, CrossFusionSingle, AMIL, DSMIL or TransMIL.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Model file to write.")],
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads of a CrossFusion model (default: 4, as released)."),
    ] = None,
) -> None:
    """Convert a checkpoint released by the CrossFusion authors to a model file."""
    from milsurv.models.interop import import_checkpoint

    about = import_checkpoint(file, model, output, num_heads=heads)
    settings = ", ".join(f"{key} {value}" for key, value in about["aggregator"].items() if key != "name")
    features = ", ".join(f"{dim} at {magnification}x" for magnification, dim in about["feature_dims"].items())
    progress = RunProgress()
    progress.say(f"{about['aggregator']['name']}: {settings}")
    progress.say(
        f"features: {features}; {about['n_outputs']} time bins, whose edges are not in the checkpoint"
    )
    progress.say(f"Model: {output}")
