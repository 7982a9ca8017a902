"""Warnings about times, ids and missing values."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest

from milsurv.cohort.checks import (
    DAYS,
    check_case_ids,
    check_follow_up,
    check_thousands_separators,
    check_times,
    known_unit,
)
from milsurv.cohort.text_table import MISSING_WORDS
from tests.cohort.tables import columns, problem, read, table_warnings, write

MEDIANS = {"aggressive": 9.0, "usual": 25.0, "slow": 70.0}
"""Months of follow-up in cohorts of cancer."""


def times(median: float, unit: str, cases: int = 200) -> list[float]:
    """Exponential times with ``median`` months, none beyond 20 years, in ``unit``."""
    draw = random.Random(1)
    months = [min(draw.expovariate(0.693 / median), 240.0) + 0.3 for _ in range(cases)]
    return [round(month * DAYS["month"] / DAYS[unit], 3) for month in months]


@pytest.mark.parametrize("unit", DAYS)
@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_times_in_their_unit_are_not_doubted(median: float, unit: str) -> None:
    assert list(check_times("time", f"{unit}s", times(median, unit))) == []


@pytest.mark.parametrize(("unit", "said"), [("day", "months"), ("day", "years"), ("month", "years")])
@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_longer_than_people_are_followed(median: float, unit: str, said: str) -> None:
    found = times(median, unit)
    (line,) = check_times("time", said, found)
    assert line.startswith(f"the longest follow-up is {max(found):,.4g} {said} (")
    assert f"{unit}s" in line.partition("if the times are in ")[2]


@pytest.mark.parametrize(("unit", "said"), [("month", "days"), ("year", "days"), ("year", "weeks")])
@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_shorter_than_cohorts_are_followed(median: float, unit: str, said: str) -> None:
    (line,) = check_times("time", said, times(median, unit))
    assert "which is unusually short" in line
    assert f"{unit}s" in line.partition("if the times are in ")[2]


@pytest.mark.parametrize(
    ("column", "unit", "doubted"),
    [
        ("days_to_death", "months", True),
        ("OS_MONTHS", "days", True),
        ("survival_days", "months", True),
        ("OSDays", "months", True),
        ("followup_yrs", "months", True),
        ("days_to_death", "days", False),
        ("OS_MONTHS", "Months", False),
        ("survival_months", "month", False),
        ("OS.time", "months", False),
        ("time", "months", False),
        ("yearly_visit_time", "months", False),
        ("age_at_diagnosis", "months", True),
        ("date", "months", True),
        ("stage_time", "months", False),
    ],
)
def test_names_that_contradict_the_unit(column: str, unit: str, doubted: bool) -> None:
    found = list(check_times(column, unit, times(25, known_unit(unit) or "month")))
    assert len(found) == doubted
    assert all(f"the name of cohort.columns.time, {column}, suggests " in line for line in found)


def test_equal_times_and_calendar_years(tmp_path: Path) -> None:
    (line,) = table_warnings(write(tmp_path, columns(time=[24] * 10)))
    assert line.startswith("all 10 cases have the same follow-up, 24 months")
    (line,) = table_warnings(write(tmp_path, columns(time=range(2001, 2011))))
    assert line.startswith("the times in column time, 2001 to 2010, look like calendar years")


@pytest.mark.parametrize(
    ("unit", "other"), [("month", "day"), ("day", "month"), ("year", "month"), ("month", "year")]
)
def test_an_external_cohort_in_another_unit(unit: str, other: str) -> None:
    training, here = times(25, unit), times(40, other)
    line = check_follow_up(f"{unit}s", here, training)
    assert line is not None
    assert f"{max(here):,.4g} and {max(training):,.4g}" in line


@pytest.mark.parametrize(
    ("texts", "doubted"),
    [
        (["1.234", "950", "2.100"], True),
        (["1.234", "950.5", "2.100"], False),
        (["12.345", "1.202"], False),
        (["1234", "950"], False),
        (["1.234", "1950"], False),
    ],
)
def test_points_between_thousands(texts: list[str], doubted: bool) -> None:
    assert (check_thousands_separators("time", texts) is not None) == doubted


@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_another_disease_in_the_same_unit_is_no_other_unit(median: float) -> None:
    assert check_follow_up("months", times(median, "month"), times(25, "month")) is None


@pytest.mark.parametrize("changed", ["1E+05", "1.23E+11", "5-Mar", "Mar-05", "12-DEC", "####"])
def test_ids_that_a_spreadsheet_changed(changed: str) -> None:
    (line,) = check_case_ids(["P1", changed])
    assert line.startswith(
        f"1 case ids seem to have been converted to numbers or dates by a spreadsheet ({changed})"
    )


def test_ids_that_became_numbers() -> None:
    (line,) = check_case_ids(["1.0", "2.0", "17.0"])
    assert line.startswith("every case id ends with .0 (1.0, 2.0, 17.0)")


@pytest.mark.parametrize("name", ["Total", "Grand total", "mean"])
def test_a_row_of_totals(name: str) -> None:
    assert list(check_case_ids(["P1", name])) == [
        f"case {name} is named like a row of totals; if it is not a patient, remove the row"
    ]


@pytest.mark.parametrize("other", ["p1", "P 1", "P\N{NO-BREAK SPACE}1", "P01", "P1\N{ZERO WIDTH SPACE}"])
def test_ids_that_look_alike(tmp_path: Path, other: str) -> None:
    table = columns()
    table["case_id"] = [other, *table["case_id"][1:]]
    (line,) = table_warnings(write(tmp_path, table))
    assert line.startswith("1 groups of case ids differ only in case, spaces or leading zeros (")
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
    assert list(check_case_ids(usual)) == []


@pytest.mark.parametrize(
    "word", [*sorted(MISSING_WORDS), "None", "NA", "[Not Available]", "UNKNOWN", "", "  "]
)
def test_every_word_is_missing_in_every_column(tmp_path: Path, word: str) -> None:
    table = columns(stage=["II", word] * 5, mpp=[0.5, word] * 5)
    table["time"] = [word, *table["time"][1:]]
    table["event"] = [*table["event"][:1], word, *table["event"][2:]]
    settings = {"columns": {"mpp": "mpp"}, "on_invalid": "drop"}

    cohort = read(write(tmp_path, table), ("stage",), **settings)

    assert [case.case_id for case in cohort.cases] == [f"P{number}" for number in range(2, 10)]
    assert [case.attributes["stage"] for case in cohort.cases] == ["II", ""] * 4
    assert [case.slides[0].mpp for case in cohort.cases] == [0.5, None] * 4
    shown = repr(word) if word.strip() else "empty"
    assert cohort.missing == (
        f"time: missing in 1 of 10 rows ({shown} 1)",
        f"event: missing in 1 of 10 rows ({shown} 1)",
        f"mpp: missing in 5 of 10 rows ({shown} 5)",
        f"stage: missing in 5 of 10 rows ({shown} 5)",
    )


def test_an_id_that_says_missing_is_no_id(tmp_path: Path) -> None:
    table = columns()
    table["case_id"] = ["Unknown", *table["case_id"][1:]]
    assert problem(write(tmp_path, table)).startswith("row 2: case_id is 'Unknown', which counts as missing")


def test_nulls_of_parquet_are_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame(columns(age=[50, None] * 5, stage=["II", None] * 5))
    frame.astype({"age": "Int64", "stage": "string"}).to_parquet(tmp_path / "cohort.parquet")
    cohort = read(tmp_path / "cohort.parquet", ("age", "stage"))
    assert [case.attributes for case in cohort.cases[:2]] == [
        {"age": "50", "stage": "II"},
        {"age": "", "stage": ""},
    ]
    assert cohort.missing == (
        "age: missing in 5 of 10 rows (empty 5)",
        "stage: missing in 5 of 10 rows (empty 5)",
    )


def test_words_are_added_and_taken_away(tmp_path: Path) -> None:
    table = write(tmp_path, columns(treatment=["None", "chemo"] * 5, age=["-9", "60"] * 5))

    (line,) = table_warnings(table, ("treatment", "age"))
    assert line == (
        "column treatment: 'None' counts as missing in 5 rows; if it is a value there, add it to "
        "cohort.not_missing: ['None']"
    )
    cohort = read(table, ("treatment", "age"), not_missing=["None"], also_missing=[-9])
    assert cohort.cases[0].attributes == {"treatment": "None", "age": ""}
    assert cohort.missing == ("age: missing in 5 of 10 rows ('-9' 5)",)


@pytest.mark.parametrize("word", ["[Not Performed]", "***", "Unknown/Not reported", "—"])
def test_a_word_that_looks_missing_and_is_not_listed_is_told(tmp_path: Path, word: str) -> None:
    table = write(tmp_path, columns(stage=["II", word] * 5))
    (line,) = table_warnings(table, ("stage",))
    assert line == (
        f"column stage: '{word}' counts as a value in 5 rows; if it marks a missing value, add it to "
        f"cohort.also_missing: ['{word}']"
    )
    assert table_warnings(table, ("stage",), also_missing=[word]) == []


def test_values_are_no_missing_words(tmp_path: Path) -> None:
    words = ["+", "++", "N/A1", "no", "0", "NX", "T1", "negative", "Stage I", "other"]
    cohort = read(write(tmp_path, columns(stage=words)), ("stage",))
    assert [case.attributes["stage"] for case in cohort.cases] == words
    assert cohort.missing == ()
