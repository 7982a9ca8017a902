"""The table of scenarios: finished cells are read and not computed again, and the tables say what the rows say."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.scenarios import (
    AGGREGATORS,
    HEADINGS,
    LOSSES,
    Cell,
    Row,
    append_row,
    estimate,
    mean_and_deviation,
    read_rows,
    tables,
)
from milsurv.config.loading import load_config
from milsurv.plugin.registry import Registry

ROOT = Path(__file__).parents[1]
CELLS = [
    Cell("joint", cases, 2000, aggregator, "cox", seed, 'a="b, c" d=1')
    for cases in (100, 300)
    for aggregator in ("abmil_all", "crossfusion")
    for seed in (1, 2, 3)
]
ROWS = [
    Row(cell, None if number == 0 else 0.6 + number / 100, 0.5 + cell.seed / 100, 0.8, 7.5)
    for number, cell in enumerate(CELLS)
]


def _write(path: Path) -> Path:
    for row in ROWS:
        append_row(path, row)
    return path


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = _write(tmp_path / "scenarios.csv")
    assert read_rows(path) == ROWS
    assert path.read_text().splitlines()[0].split(",") == HEADINGS
    assert read_rows(tmp_path / "none.csv") == []


def test_a_table_has_mean_and_deviation_over_seeds() -> None:
    lines = tables(ROWS).splitlines()
    assert lines[0] == '### joint, 2000 patches, a="b, c" d=1'
    assert lines[2] == "| model | loss | n = 100 | n = 300 |"
    assert lines[4] == "| true risk (upper bound) |  | 0.800 ± 0.000 | 0.800 ± 0.000 |"
    assert lines[5] == "| mean_features (baseline) |  | 0.520 ± 0.010 | 0.520 ± 0.010 |"
    later = [row.c_index for row in ROWS[9:12] if row.c_index is not None]
    expected = f"{statistics.mean(later):.3f} ± {statistics.stdev(later):.3f}"
    assert lines[7] == f"| `crossfusion` | `cox` | 0.640 ± 0.010 | {expected} |"
    assert lines[6].startswith("| `abmil_all` | `cox` | 0.615 ± 0.007 |")
    assert mean_and_deviation([None]) == "-"
    assert mean_and_deviation([0.5, None]) == "0.500"


def test_the_estimate_scales_the_finished_cells() -> None:
    new = Cell("rare", 1000, 2000, "crossfusion", "nll", 1, "")
    assert (
        estimate([new] * 480, ROWS)
        == f"480 cells, about {480 * (7.5 / 100 + 7.5 / 300) / 2 * 1000 / 3600:.1f} hours"
    )
    assert "no cell is finished yet" in estimate([new], [])


def test_every_aggregator_and_loss_is_in_the_table() -> None:
    sections = [
        load_config("scenario", [f"aggregator={text}"])[0].aggregator for text in AGGREGATORS.values()
    ]
    in_the_baseline = {"mean_cox"}
    assert {section.name for section in sections} | in_the_baseline == set(Registry().names("aggregator"))
    assert set(LOSSES) == set(Registry().names("loss"))


def test_finished_cells_are_not_computed_again(tmp_path: Path) -> None:
    """The real command; nothing is left to compute."""
    path = tmp_path / "scenarios.csv"
    append_row(path, Row(Cell("rare", 100, 2000, "abmil", "cox", 1, ""), 0.7, 0.6, 0.8, 5.0))
    before = path.read_bytes()
    command = [sys.executable, "-m", "benchmarks.scenarios", "--output", str(path), "--scenario", "rare"]
    asked = [
        "--n",
        "100",
        "--aggregator",
        "abmil",
        "--loss",
        "cox",
        "--seeds",
        "1",
        "--workspace",
        str(tmp_path),
    ]
    subprocess.run([*command, *asked], cwd=ROOT, check=True, capture_output=True)
    assert path.read_bytes() == before
    assert "| `abmil` | `cox` | 0.700 |" in path.with_suffix(".md").read_text()
