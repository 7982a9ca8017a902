"""``python -m benchmarks.scenarios``: every aggregator and loss on every scenario of synthetic cohorts.

Each cell is a run of ``configs/scenario.yaml`` by milsurv: 5 folds of one cohort, whose seed is also that of training.
A finished cell is a row of the CSV file and is not computed again, so that the command can be stopped and repeated; the
Markdown tables beside it have the mean and standard deviation over seeds of Harrell's C, pooled over folds.

    python -m benchmarks.scenarios --scenario joint --n 100 --aggregator crossfusion abmil_all --loss cox
    python -m benchmarks.scenarios --estimate
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from milsurv.config.loading import load_config
from milsurv.evaluation.schema import RunMetrics
from milsurv.progress import RunProgress
from milsurv.runs.pipeline import run
from milsurv.runs.session import open_session
from milsurv.storage.atomic import append_line, write_text

SCENARIOS = {
    "rare": ["cohort.scenario=rare"],
    "joint": ["cohort.scenario=joint"],
    "spatial": ["cohort.scenario=spatial"],
    "site": ["cohort.scenario=site"],
    "site_new": ["cohort.scenario=site", r"splits.group_by=^SYN-(SITE\d+)-"],
}
"""Name in the table -> settings; ``site_new`` tests on sites that are not in training, ``site`` does not."""
AGGREGATORS = {
    "crossfusion": "{name: crossfusion, embed_dim: 64}",
    "crossfusion_local": "{name: crossfusion, embed_dim: 64, attention: local}",
    "crossfusion_concat": "{name: crossfusion_concat, embed_dim: 64}",
    "crossfusion_single": "{name: crossfusion_single, embed_dim: 64}",
    "abmil": "{name: abmil, hidden_dim: 64, attention_dim: 32}",
    "abmil_all": "{name: abmil, hidden_dim: 64, attention_dim: 32, magnification: all}",
    "dsmil": "{name: dsmil, query_dim: 32}",
    "transmil": "{name: transmil, embed_dim: 64}",
    "meanpool": "{name: meanpool}",
    "maxpool": "{name: maxpool}",
}
"""Name in the table -> section ``aggregator``, all of width 64; ``mean_cox`` is the baseline ``mean_features``."""
LOSSES = ("nll", "ce", "cox")
CASES = (100, 300, 1000)
SEEDS = (1, 2, 3)
PATCHES = 2000
TITLES = {"site_new": "site, tested on new sites"}


@dataclass(frozen=True)
class Cell:
    """What one run is about."""

    scenario: str
    cases: int
    patches: int
    aggregator: str
    loss: str
    seed: int
    settings: str
    """Further settings of all runs, as given with ``--set``."""


@dataclass(frozen=True)
class Row:
    """A finished cell; Harrell's C of the model, the baseline ``mean_features`` and the true risk, None if unknown."""

    cell: Cell
    c_index: float | None
    baseline: float | None
    bound: float | None
    seconds: float


HEADINGS = [*(field.name for field in fields(Cell)), *(field.name for field in fields(Row)[1:])]


def main() -> None:
    """Compute the cells that are asked for and are not in the CSV file, and write the tables."""
    arguments = _parse()
    rows = read_rows(arguments.output)
    asked = [
        Cell(scenario, cases, arguments.patches, aggregator, loss, seed, " ".join(arguments.set))
        for cases, scenario, aggregator, loss, seed in product(
            arguments.n, arguments.scenario, arguments.aggregator, arguments.loss, arguments.seeds
        )
    ]
    todo = [cell for cell in asked if cell not in {row.cell for row in rows}]
    progress = RunProgress()
    if arguments.estimate:
        progress.say(estimate(todo, rows))
        return
    for number, cell in enumerate(todo, start=1):
        row = compute(cell, arguments.workspace, arguments.set)
        append_row(arguments.output, row)
        rows.append(row)
        write_text(arguments.output.with_suffix(".md"), tables(rows))
        what = f"{cell.scenario}, {cell.cases} cases, {cell.aggregator}, {cell.loss}, seed {cell.seed}"
        c_index = mean_and_deviation([row.c_index])
        progress.say(f"{number} of {len(todo)}: {what}: Harrell's C {c_index} in {row.seconds:.0f} s")
    write_text(arguments.output.with_suffix(".md"), tables(rows))
    progress.say(f"tables: {arguments.output.with_suffix('.md')}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--n", nargs="+", type=int, default=CASES, help="cases of a cohort")
    parser.add_argument("--aggregator", nargs="+", choices=AGGREGATORS, default=list(AGGREGATORS))
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--patches", type=int, default=PATCHES, help="patches of a slide at 20x")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all runs")
    parser.add_argument("--workspace", type=Path, default=Path("milsurv-workspace"))
    parser.add_argument(
        "--output", type=Path, default=Path("scenarios.csv"), help="CSV file of finished cells"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="print how long the cells would take, from finished ones"
    )
    return parser.parse_args()


def compute(cell: Cell, workspace: Path, settings: Sequence[str]) -> Row:
    """Run a cell."""
    config, registry = load_config(
        "scenario",
        [
            *(f"name={cell.scenario}-{cell.aggregator}-{cell.loss}", f"workspace={workspace}"),
            *SCENARIOS[cell.scenario],
            *(f"cohort.{key}={getattr(cell, key)}" for key in ("cases", "patches", "seed")),
            *(f"aggregator={AGGREGATORS[cell.aggregator]}", f"loss={{name: {cell.loss}}}"),
            *(f"seeds=[{cell.seed}]", "evaluation.bootstraps=0", *settings),
        ],
    )
    started = time.monotonic()
    with open_session(config, registry, RunProgress(quiet=True)) as session:
        metrics = run(session).metrics
    return Row(cell, *_values(metrics), time.monotonic() - started)


def _values(metrics: RunMetrics) -> tuple[float | None, float | None, float | None]:
    (pooled,) = metrics["pooled"]
    baseline = [b["baseline"] for b in metrics["baselines"] if b["name"] == "mean_features"]
    truth = metrics["true_risk"]
    return (
        pooled["metrics"]["harrell_c_index"]["value"],
        baseline[0]["harrell_c_index"]["value"] if baseline else None,
        truth["harrell_c_index"]["pooled"]["value"] if truth else None,
    )


def append_row(path: Path, row: Row) -> None:
    """Append a finished cell to the CSV file, after the headings if the file is new."""
    if not path.exists():
        append_line(path, ",".join(HEADINGS))
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([*astuple(row.cell), *astuple(row)[1:]])
    append_line(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    """The finished cells of a CSV file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_read(cells) for cells in csv.DictReader(file)]


def _read(cells: dict[str, str]) -> Row:
    cell = Cell(
        cells["scenario"],
        int(cells["cases"]),
        int(cells["patches"]),
        cells["aggregator"],
        cells["loss"],
        int(cells["seed"]),
        cells["settings"],
    )
    c_index, baseline, bound = (
        float(cells[name]) if cells[name] else None for name in ("c_index", "baseline", "bound")
    )
    return Row(cell, c_index, baseline, bound, float(cells["seconds"]))


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each scenario, number of patches and further settings, with a column for each size."""
    groups = dict.fromkeys((row.cell.scenario, row.cell.patches, row.cell.settings) for row in rows)
    return "\n\n".join("\n".join(_table(rows, group)) for group in groups) + "\n"


def _table(rows: Sequence[Row], group: tuple[str, int, str]) -> Iterator[str]:
    scenario, patches, settings = group
    mine = [row for row in rows if (row.cell.scenario, row.cell.patches, row.cell.settings) == group]
    sizes = sorted({row.cell.cases for row in mine})
    yield f"### {TITLES.get(scenario, scenario)}, {patches} patches{f', {settings}' if settings else ''}\n"
    yield f"| model | loss | {' | '.join(f'n = {size}' for size in sizes)} |"
    yield f"| --- | --- |{' --- |' * len(sizes)}"

    def line(model: str, loss: str, values: Sequence[Sequence[float | None]]) -> str:
        return f"| {model} | {loss} | {' | '.join(map(mean_and_deviation, values))} |"

    def once(name: str) -> list[list[float | None]]:
        """A value that does not depend on the model, of each seed."""
        return [
            list({row.cell.seed: getattr(row, name) for row in mine if row.cell.cases == size}.values())
            for size in sizes
        ]

    yield line("true risk (upper bound)", "", once("bound"))
    yield line("mean_features (baseline)", "", once("baseline"))
    for model, loss in dict.fromkeys((row.cell.aggregator, row.cell.loss) for row in mine):
        of_model = [row for row in mine if (row.cell.aggregator, row.cell.loss) == (model, loss)]
        values = [[row.c_index for row in of_model if row.cell.cases == size] for size in sizes]
        yield line(f"`{model}`", f"`{loss}`", values)


def mean_and_deviation(values: Sequence[float | None]) -> str:
    """``0.712 ± 0.031`` of the values that are known; ``-`` if none is, and no deviation of one."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{fmean(known):.3f} ± {stdev(known):.3f}" if len(known) > 1 else f"{fmean(known):.3f}"


def estimate(todo: Sequence[Cell], rows: Sequence[Row]) -> str:
    """How long cells would take: by the mean seconds per patch of finished ones with their aggregator, else of all."""

    def rate(of: Sequence[Row]) -> float | None:
        return fmean(row.seconds / (row.cell.cases * row.cell.patches) for row in of) if of else None

    everywhere = rate(rows)
    if everywhere is None:
        return f"{len(todo)} cells; no cell is finished yet from which their time could be estimated"
    rates = {name: rate([row for row in rows if row.cell.aggregator == name]) for name in AGGREGATORS}
    seconds = sum((rates[cell.aggregator] or everywhere) * cell.cases * cell.patches for cell in todo)
    return f"{len(todo)} cells, about {seconds / 3600:.1f} hours"


if __name__ == "__main__":
    main()
