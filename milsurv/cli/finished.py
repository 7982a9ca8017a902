"""Commands on finished runs: compare, draw, look, predict, validate, share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
)

app = new_app()


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of finished runs, WORKSPACE/runs/NAME[/FINGERPRINT]."),
    ],
    bootstraps: Annotated[int, typer.Option(min=100, help="Paired resamples of the cases.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a forest plot: .svg, .pdf or .png.")
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Compare runs on the same cases and folds: difference in Harrell's C, interval, p, Holm's correction."""
    from milsurv.cli.compare import compare_command

    raise typer.Exit(compare_command(runs, bootstraps, seed, as_json, figure, plugin or []))


@app.command()
def figures(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a finished run, WORKSPACE/runs/NAME[/FINGERPRINT]."),
    ],
    kind: Annotated[
        Literal["png", "pdf", "svg"], typer.Option("--format", help="PNG is written at 300 dpi.")
    ] = "png",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write (default: figures/ in the run)."),
    ] = None,
) -> None:
    """Write a run's figures for a paper: survival, calibration, AUC and Brier score over time, risk, training."""
    from milsurv.cli.figures import figures_command

    raise typer.Exit(figures_command(run, kind, output))


@app.command()
def heatmap(
    run: ModelArgument,
    slide: Annotated[
        str, typer.Argument(metavar="SLIDE", help="A slide file, or the id of a slide of the run.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where to write (default: RUN/heatmaps/SLIDE_ID)."
        ),
    ] = None,
    plugin: PluginOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    occlusion: Annotated[
        bool,
        typer.Option(
            "--occlusion", help="Leave patches out and see the risk fall, also where there is attention."
        ),
    ] = False,
    mpp: MppOption = None,
) -> None:
    """Show where a run's models look on a slide: maps, the patches that count most and least, GeoJSON for QuPath.

    Of a slide of a training case those models alone are asked that did not learn from it, if there are any.
    """
    from milsurv.cli.heatmap import heatmap_command

    overrides = join_overrides(None, workspace, device)
    raise typer.Exit(heatmap_command(run, slide, output, overrides, plugin or [], occlusion, mpp))


@app.command()
def predict(
    run: ModelArgument,
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE", help="Slide files, or folders of slides.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the table, a CSV.")
    ] = None,
    mpp: MppOption = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="A table with training's column for slides (slide_id), and mpp, the case's id, or both, for each.",
        ),
    ] = None,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Draw where the models look, into heatmaps/ beside the table.")
    ] = False,
    overrides: ModelSetOption = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    plugin: PluginOption = None,
) -> None:
    """Judge slides by a trained model: risk and its spread over folds, median survival, survival at the run's times.

    Tissue, patches and backbone are training's; folds that learned from a slide's case do not judge it. Exit status 1
    when a slide has no prediction.
    """
    from milsurv.cli.predict import predict_command

    given = join_overrides(overrides, workspace, device)
    raise typer.Exit(predict_command(run, slides, given, plugin or [], output, heatmaps, mpp, table))


@app.command()
def evaluate(
    run: ModelArgument,
    cohort: Annotated[
        Path, typer.Option("--cohort", metavar="TABLE", help="Follow-up of other cases: CSV, TSV or Parquet.")
    ],
    slides: Annotated[
        Path | None, typer.Option("--slides", metavar="DIR", help="Folder with their slides.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="What differs from training: --set cohort.columns.time=OS_MONTHS, --set evaluation.subgroups=[sex].",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = None,
    plugin: PluginOption = None,
) -> None:
    """Validate a trained model on another cohort: nothing is fitted anew, the report is that of a run."""
    from milsurv.cli.evaluate import evaluate_command

    raise typer.Exit(
        evaluate_command(run, cohort, slides, join_overrides(overrides, workspace, device), plugin or [])
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder for the model.")
    ],
    plugin: PluginOption = None,
) -> None:
    """Write a trained model as a folder to share: weights, settings, and a model card; no patient's id, no path."""
    from milsurv.cli.export import export_command

    raise typer.Exit(export_command(run, output, plugin or []))
