"""``milsurv compare`` and ``milsurv figures``: results of finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from milsurv.cli.common import PluginOption, new_app, new_table
from milsurv.errors import MilsurvError
from milsurv.progress import PlainConsole

if TYPE_CHECKING:
    from milsurv.evaluation.schema import Comparison

app = new_app()
MARKS = {"external": "external validation", "reported_fold": "optimistic", "last_epoch": "last epoch"}


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of finished runs, WORKSPACE/runs/NAME[/FINGERPRINT]."),
    ],
    bootstraps: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a forest plot: .svg, .pdf or .png.")
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Compare runs on the same cases and folds: differences with intervals, p-values and Holm's correction."""
    from milsurv.evaluation.plugin_metrics import all_metrics
    from milsurv.plugin.registry import get_registry
    from milsurv.runs.comparison import compare_runs

    if len(runs) < 2:
        raise MilsurvError("give the folders of at least two runs, such as milsurv-workspace/runs/NAME")
    registry = get_registry(plugin or ())
    found = compare_runs(runs, bootstraps, seed, all_metrics(registry))
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print(found)
    if figure is not None:
        from milsurv.report.figures.forest import forest

        figure.parent.mkdir(parents=True, exist_ok=True)
        forest(found).savefig(figure, bbox_inches="tight", dpi=200)
        if not as_json:
            typer.echo(f"Figure: {figure}")


def _print(found: Comparison) -> None:
    from milsurv.evaluation.metrics import read_definitions
    from milsurv.report.formatting import bare_p_value, interval, number

    console = PlainConsole()
    console.print(
        f"{found['cases']} cases, {found['events']} events, {found['bootstraps']} paired resamples within folds"
    )
    for name, info in read_definitions(found).items():
        title = info.label or info.title
        runs = new_table("run", title, "95 % interval", "epoch")
        for run in found["runs"]:
            mark = MARKS.get(run["selection"], "inner validation")
            runs.add_row(run["name"], number(run[name]["value"]), interval(run[name]["interval"]), mark)
        pairs = new_table("difference", f"of {title}", "95 % interval", "p", "p (Holm)")
        for pair in found["pairs"]:
            if pair["metric"] == name:
                difference, ends = pair["difference"], pair["difference"]["interval"]
                pairs.add_row(
                    f"{pair['first']} - {pair['second']}",
                    number(difference["value"]),
                    f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else difference["reason"],
                    bare_p_value(pair["p_value"]["value"]),
                    bare_p_value(pair["holm_p_value"]["value"]),
                )
        console.print(runs)
        console.print(pairs)
    if any(run["selection"] == "reported_fold" for run in found["runs"]):
        console.print(
            "Optimistic: the epoch of such a run was selected by its test cases, so its values are overestimated.",
            style="yellow",
        )


@app.command()
def figures(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a finished run, WORKSPACE/runs/NAME[/FINGERPRINT]."),
    ],
    kind: Annotated[
        Literal["png", "pdf", "svg"], typer.Option("--format", help="PNGs have 300 dpi.")
    ] = "png",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write to (default: RUN/figures)."),
    ] = None,
) -> None:
    """Write the figures of a run for a paper: survival, calibration, AUC and Brier score over time, risk, training."""
    from milsurv.report.gallery import save_figures
    from milsurv.report.results import RunResults
    from milsurv.runs.folder import find_run
    from milsurv.storage.run_files import FIGURES

    folder = find_run(run)
    for path in save_figures(RunResults.read(folder), output or folder / FIGURES, kind):
        typer.echo(path)
