"""``python -m benchmarks [NAME…] [--quick]``: a table for each benchmark, ours beside the plain implementation."""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

NAMES = ("start", "patches", "extraction", "bootstrap", "cox", "dense", "local", "training", "bags")
WIDTH = 110


def main() -> None:
    """Run the benchmarks that are named, or all, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[*NAMES, []], help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    arguments = parser.parse_args()
    console = Console(width=WIDTH)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(
        f"{os.cpu_count()} cores, load {load}; Python {platform.python_version()}, torch {version('torch')}",
        highlight=False,
    )
    for name in arguments.names or NAMES:
        module = import_module(f"benchmarks.{name}")
        console.print(f"\n{name}: {(module.__doc__ or '').strip()}", highlight=False)
        console.print(_table(module.rows(arguments.quick)))


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("what")
    for heading in ("ours", "plain", "times better"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.what, _number(row.ours, row.unit), _number(row.plain, row.unit), _number(row.ratio, "")
        )
    return table


def _number(value: float | None, unit: str) -> str:
    """Three digits and the unit."""
    if value is None:
        return "-"
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f} {unit}".rstrip()


if __name__ == "__main__":
    main()
