"""Tables whose header is not where it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cohort.tables import columns, problem, read, write

CBIOPORTAL = "#Patient Identifier\tSample\n#Text\tText\n#STRING\tSTRING\n#1\t1\n"


@pytest.mark.parametrize(
    ("above", "separator", "name", "said"),
    [
        (CBIOPORTAL, "\t", "data_clinical_patient.txt", "lines 1 to 4 are comments (#, as in cBioPortal's"),
        ("# exported today\n", ",", "t.csv", "line 1 is a comment (#, "),
        ("Cohort of 2020\n\n", ",", "t.csv", "the header is in line 3; remove the lines above"),
        ("", ";", "t.csv", "it seems to be separated by ';', but .csv files must be separated by ','"),
        ("", " ", "t.txt", "it seems to be separated by ' ', but .txt files must be separated by tabs"),
    ],
)
def test_a_header_elsewhere_is_one_line(
    tmp_path: Path, above: str, separator: str, name: str, said: str
) -> None:
    table = write(tmp_path, columns(), separator, name)
    table.write_text(above + table.read_text())
    assert problem(table).startswith(said)


def test_comments_are_named_when_other_columns_are_asked_for(tmp_path: Path) -> None:
    table = write(tmp_path, columns(), "\t", "t.txt")
    table.write_text(CBIOPORTAL + table.read_text())
    assert problem(table, columns={"time": "OS_MONTHS"}).startswith("lines 1 to 4 are comments")


def test_what_is_wrong_with_every_row_is_one_line(tmp_path: Path) -> None:
    dates = [f"2015-03-{day:02d}" for day in range(1, 11)]
    line = problem(write(tmp_path, columns(time=dates)))
    assert line.startswith(
        "no row is valid: all 10 rows have the problem of row 2 (case P0): time is '2015-03-01'; "
    )
    assert "this is a date: use the time from start to end of follow-up" in line

    table = write(tmp_path, columns())
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *(f"{number},{row}" for number, row in enumerate(rows))]))
    assert "write the table with row.names = FALSE" in problem(table)


def test_an_index_with_an_empty_name_is_no_matter(tmp_path: Path) -> None:
    assert len(read(write(tmp_path, {"": range(10), **columns()})).cases) == 10
