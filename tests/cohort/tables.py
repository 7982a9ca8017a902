"""Small cohort tables for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from milsurv.cohort.cases import Cohort
from milsurv.cohort.table import read_cohort
from milsurv.config.cohort import TableCohort
from milsurv.errors import CohortError

Columns = dict[str, Sequence[object]]


def columns(cases: int = 10, **others: Sequence[object]) -> Columns:
    """A sound table of ``cases``, every third of them censored; ``others`` replace its columns, or come after them."""
    return {
        "case_id": [f"P{number}" for number in range(cases)],
        "slide_id": [f"s{number}" for number in range(cases)],
        "time": [5.5 + 3 * number for number in range(cases)],
        "event": [int(number % 3 > 0) for number in range(cases)],
        **others,
    }


def write(folder: Path, table: Columns, separator: str = ",", name: str = "cohort.csv") -> Path:
    """The table as text."""
    rows = [table, *zip(*table.values(), strict=True)]
    file = folder / name
    file.write_text("".join(f"{separator.join(map(str, row))}\n" for row in rows), encoding="utf-8")
    return file


def read(file: Path, attributes: tuple[str, ...] = (), **settings: Any) -> Cohort:
    """The cohort of a table without slide files."""
    slides = file.parent / "slides"
    slides.mkdir(exist_ok=True)
    return read_cohort(TableCohort(table=file, slides=slides, **settings), attributes=attributes)


def table_warnings(file: Path, attributes: tuple[str, ...] = (), **settings: Any) -> list[str]:
    """The warnings of a table that is read, besides that its slides have no files."""
    found = read(file, attributes, **settings).warnings
    return [line for line in found if "has a file" not in line]


def problem(file: Path, **settings: Any) -> str:
    """The one line with which a table is refused."""
    with pytest.raises(CohortError) as caught:
        read(file, **settings)
    (line,) = caught.value.problems
    return line.removeprefix(f"{file}: ")
