"""Words for missing values: one list, counted and told, and changed in the configuration."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from milsurv.cohort.text_table import USUAL_MISSING
from tests.cohort.tables import columns, doubts, problem, read, write


@pytest.mark.parametrize(
    "word", [*sorted(USUAL_MISSING), "None", "NA", "[Not Available]", "UNKNOWN", "", "  "]
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

    (line,) = doubts(table, ("treatment", "age"))
    assert line == (
        "column treatment: 'None' counts as missing in 5 rows; if it is a value there, list it in "
        "cohort.not_missing: ['None']"
    )
    cohort = read(table, ("treatment", "age"), not_missing=["None"], also_missing=[-9])
    assert cohort.cases[0].attributes == {"treatment": "None", "age": ""}
    assert cohort.missing == ("age: missing in 5 of 10 rows ('-9' 5)",)


@pytest.mark.parametrize("word", ["[Not Performed]", "***", "Unknown/Not reported", "—"])
def test_a_word_that_looks_missing_and_is_not_listed_is_told(tmp_path: Path, word: str) -> None:
    table = write(tmp_path, columns(stage=["II", word] * 5))
    (line,) = doubts(table, ("stage",))
    assert line == (
        f"column stage: '{word}' counts as a value in 5 rows; if it stands for a missing one, list it in "
        f"cohort.also_missing: ['{word}']"
    )
    assert doubts(table, ("stage",), also_missing=[word]) == []


def test_values_are_no_missing_words(tmp_path: Path) -> None:
    words = ["+", "++", "N/A1", "no", "0", "NX", "T1", "negative", "Stage I", "other"]
    cohort = read(write(tmp_path, columns(stage=words)), ("stage",))
    assert [case.attributes["stage"] for case in cohort.cases] == words
    assert cohort.missing == ()
