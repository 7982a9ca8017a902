"""``milsurv compare``: finished runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from milsurv.errors import MilsurvError
from milsurv.progress import PlainConsole
from milsurv.report.wording import interval, number, p_value
from milsurv.runs.comparison import compare_runs

MARKS = {"external": "external validation", "reported_fold": "optimistic", "last_epoch": "last epoch"}


def compare_command(
    runs: Sequence[Path], bootstraps: int, seed: int, as_json: bool, figure: Path | None
) -> int:
    """Exit status 0. Raises MilsurvError when the runs cannot be compared."""
    if len(runs) < 2:
        raise MilsurvError("give the folders of two runs or more, such as milsurv-workspace/runs/NAME")
    found = compare_runs(runs, bootstraps, seed)
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


def _print(found: dict[str, Any]) -> None:
    console = PlainConsole()
    console.print(
        f"{found['cases']} cases, {found['events']} events, {found['bootstraps']} paired resamples within folds"
    )
    runs = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("run", "Harrell's C", "95 % interval", "epoch"):
        runs.add_column(heading, overflow="fold")
    for run in found["runs"]:
        c = run["harrell_c_index"]
        mark = MARKS.get(run["selection"], "inner validation")
        runs.add_row(run["name"], number(c["value"]), interval(c["interval"]), mark)
    pairs = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("difference", "of C", "95 % interval", "p", "p (Holm)"):
        pairs.add_column(heading, overflow="fold")
    for pair in found["pairs"]:
        ends = pair["difference"]["interval"]
        cells = (
            f"{pair['first']} - {pair['second']}",
            number(pair["difference"]["value"]),
            f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else str(pair["difference"]["reason"]),
            *(
                p_value(pair[p]["value"]).removeprefix("p = ").removeprefix("p ")
                for p in ("p_value", "holm_p_value")
            ),
        )
        pairs.add_row(*cells)
    console.print(runs)
    console.print(pairs)
    if any(run["selection"] == "reported_fold" for run in found["runs"]):
        console.print(
            "Optimistic: of such a run the reported cases chose the epoch, which flatters it.", style="yellow"
        )
