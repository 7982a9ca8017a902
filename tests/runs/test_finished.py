"""A finished run from Python: its tables, its figures, and the notebook that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

import milsurv
from milsurv.errors import MilsurvError
from milsurv.runs.finished import FinishedRun

NOTEBOOK = Path(__file__).parents[2] / "docs" / "example.ipynb"


@pytest.fixture(scope="module")
def run(small_run: Path) -> FinishedRun:
    return milsurv.load_run(str(small_run.parent))


def test_tables_are_those_of_the_folder(run: FinishedRun, small_run: Path) -> None:
    assert len(run.predictions) == 2 * 15
    assert set(run.splits["role"]) == {"train", "validation", "test"}
    assert run.slides["status"].tolist() == ["used"] * 17
    assert run.history.groupby(["seed", "fold"]).size().tolist() == [3] * 6
    assert run.report == small_run / "report.html"


def test_metrics_are_those_of_the_file(run: FinishedRun, small_run: Path) -> None:
    written = json.loads((small_run / "metrics.json").read_text())
    table = run.metrics
    accounts = [*written["folds"], *written["pooled"], written["ensemble"]]
    assert len(table) == sum(len(account["metrics"]) for account in accounts)
    second = table[(table["of"] == "fold") & (table["seed"] == 2) & (table["fold"] == 1)].set_index("metric")
    (fold,) = (fold for fold in written["folds"] if (fold["seed"], fold["fold"]) == (2, 1))
    for name, metric in fold["metrics"].items():
        row = second.loc[name]
        assert (row["cases"], row["events"]) == (fold["cases"], fold["events"])
        assert row["value"] == metric["value"] or (pd.isna(row["value"]) and row["reason"])
        if metric["interval"]:
            assert [row["lower"], row["upper"]] == metric["interval"]


def test_figures_are_matplotlibs(run: FinishedRun) -> None:
    assert isinstance(run.figure("kaplan_meier"), Figure)
    with pytest.raises(MilsurvError, match=r"unknown figure 'kaplan_mayer' .did you mean 'kaplan_meier'"):
        run.figure("kaplan_mayer")


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MilsurvError, match="no finished run"):
        milsurv.load_run(tmp_path)


def test_the_notebook_runs_and_was_run(small_run: Path) -> None:
    """Its cells, on another run, as they stand; its outputs are there, made by the cells in their order."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(cell["source"]).removeprefix("%matplotlib inline\n")
        exec(source.replace("milsurv-workspace/runs/demo", str(small_run)), names)
    assert names["run"].folder == small_run
