"""``milsurv compare``: compares finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from milsurv.errors import MilsurvError
from milsurv.evaluation.metrics import read_definitions
from milsurv.evaluation.plugin_metrics import all_metrics
from milsurv.evaluation.schema import Comparison
from milsurv.plugin.registry import get_registry
from milsurv.progress import PlainConsole
from milsurv.report.formatting import bare_p_value, interval, number
from milsurv.runs.comparison import compare_runs

MARKS = {"external": "external validation", "reported_fold": "optimistic", "last_epoch": "last epoch"}


def compare_command(
    runs: Sequence[Path],
    bootstraps: int,
    seed: int,
    as_json: bool,
    figure: Path | None,
    plugins: Sequence[Path] = (),
) -> int:
    """Exit status 0. Raises MilsurvError when the runs cannot be compared."""
    if len(runs) < 2:
        raise MilsurvError("give the folders of at least two runs, such as milsurv-workspace/runs/NAME")
    registry = get_registry(tuple(file.absolute() for file in plugins))
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
    return 0


def _print(found: Comparison) -> None:
    console = PlainConsole()
    console.print(
        f"{found['cases']} cases, {found['events']} events, {found['bootstraps']} paired resamples within folds"
    )
    for name, info in read_definitions(found).items():
        title = info.label or info.title
        runs = _table("run", title, "95 % interval", "epoch")
        for run in found["runs"]:
            mark = MARKS.get(run["selection"], "inner validation")
            runs.add_row(run["name"], number(run[name]["value"]), interval(run[name]["interval"]), mark)
        pairs = _table("difference", f"of {title}", "95 % interval", "p", "p (Holm)")
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
            "Optimistic: the epoch of such a run was chosen on its test cases, so its values are too good.",
            style="yellow",
        )


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
