"""Ids that a program changed on their way, and ids that are told apart by letters and spaces alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from milsurv.cohort.id_doubts import id_doubts
from tests.cohort.tables import columns, doubts, write


@pytest.mark.parametrize("changed", ["1E+05", "1.23E+11", "5-Mar", "Mar-05", "12-DEC", "####"])
def test_ids_that_a_spreadsheet_changed(changed: str) -> None:
    (line,) = id_doubts(["P1", changed])
    assert line.startswith(f"1 case ids look changed by a spreadsheet into numbers or dates ({changed})")


def test_ids_that_became_numbers() -> None:
    (line,) = id_doubts(["1.0", "2.0", "17.0"])
    assert line.startswith("every case id ends with .0 (1.0, 2.0, 17.0)")


@pytest.mark.parametrize("name", ["Total", "Grand total", "mean"])
def test_a_row_of_totals(name: str) -> None:
    assert list(id_doubts(["P1", name])) == [
        f"case {name} is named like a row of totals; remove the row if it is no patient"
    ]


@pytest.mark.parametrize("other", ["p1", "P 1", "P\N{NO-BREAK SPACE}1", "P01", "P1\N{ZERO WIDTH SPACE}"])
def test_ids_that_look_alike(tmp_path: Path, other: str) -> None:
    table = columns()
    table["case_id"] = [other, *table["case_id"][1:]]
    (line,) = doubts(write(tmp_path, table))
    assert line.startswith("1 groups of case ids differ in capital letters, spaces or leading zeros alone (")
    assert repr(other) in line
    assert "'P1'" in line


def test_usual_ids_are_not_doubted() -> None:
    usual = [
        "TCGA-AA-0001",
        "TCGA-AA-0010",
        "TCGA-AA-0100",
        "10",
        "100",
        "5-mar-x",
        "total_3",
        "1e5a",
        "3.1",
        "2.0",
    ]
    assert list(id_doubts(usual)) == []
