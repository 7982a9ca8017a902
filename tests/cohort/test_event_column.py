"""The event column: no value of it is lost without a word, and the advice on its values can be followed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from milsurv.cohort.event_column import names_censoring, names_event
from milsurv.config.cohort import EventValues, TableCohort
from tests.cohort.tables import columns, problem, read, table_warnings, write

CODINGS = {
    "R's habit": ("2", "1"),
    "words": ("Dead", "Alive"),
    "long words": ("DECEASED", "LIVING"),
    "yes and no": ("yes", "no"),
    "cBioPortal": ("1:DECEASED", "0:LIVING"),
    "cBioPortal's DSS": ("1:DEAD WITH TUMOR", "0:ALIVE OR DEAD TUMOR FREE"),
    "cBioPortal's DFS": ("1:Recurred/Progressed", "0:DiseaseFree"),
    "negated": ("event", "no event"),
    "quoted": ("death's date known", "alive"),
}


def proposed(line: str) -> dict[str, Any]:
    """The setting that a message proposes."""
    match = re.search(r"cohort\.event_values: (\{.*?\]\})", line)
    assert match, line
    values: dict[str, Any] = yaml.safe_load(match[1])
    return values


@pytest.mark.parametrize("on_invalid", ["error", "drop"])
@pytest.mark.parametrize(("dead", "alive"), CODINGS.values(), ids=CODINGS.keys())
def test_other_codings_are_refused_with_a_setting_that_reads_them(
    tmp_path: Path, dead: str, alive: str, on_invalid: str
) -> None:
    truth = [int(number % 3 > 0) for number in range(10)]
    table = write(tmp_path, columns(event=[dead if event else alive for event in truth]))

    line = problem(table, on_invalid=on_invalid)

    assert line.startswith("column event contains ")
    cohort = read(table, on_invalid=on_invalid, event_values=proposed(line))
    assert [case.event for case in cohort.cases] == truth
    assert not cohort.dropped


@pytest.mark.parametrize(("censored", "observed"), [("yes", "no"), ("2", "1"), ("Y", "N")])
def test_under_censorship_the_proposal_is_turned_round(tmp_path: Path, censored: str, observed: str) -> None:
    table = write(tmp_path, columns(event=[observed, censored] * 5))
    settings: dict[str, Any] = {"columns": {"censorship": "event"}}
    found = proposed(problem(table, **settings))
    events = [case.event for case in read(table, event_values=found, **settings).cases]
    assert events == [1, 0] * 5


def test_a_competing_event_is_named_and_counted_as_censored_if_the_user_says_so(tmp_path: Path) -> None:
    table = write(tmp_path, columns(event=[0, 1, 2, 1, 2, 0, 1, 1, 1, 0]))
    line = problem(table, on_invalid="drop")
    assert "contains '0' (3 rows), '1' (5 rows), '2' (2 rows)" in line
    assert "a competing event ends follow-up like censoring" in line
    assert sum(case.event for case in read(table, event_values=proposed(line)).cases) == 5


def test_a_value_that_nothing_explains_is_named_with_its_row(tmp_path: Path) -> None:
    table = write(tmp_path, columns(event=[0, 1, 1, 0, "x9", 0, 1, 1, 1, 0]))
    line = problem(table, on_invalid="drop")
    assert "'x9' (row 6)" in line
    assert "'x9' in one of them, or empty in the table" in line
    emptied = write(tmp_path, columns(event=[0, 1, 1, 0, "", 0, 1, 1, 1, 0]))
    assert len(read(emptied, on_invalid="drop").cases) == 9


def test_configured_values_that_lack_one_say_which(tmp_path: Path) -> None:
    table = write(tmp_path, columns(event=["dead", "alive", "lost", "dead", "dead"] * 2))
    line = problem(table, on_invalid="drop", event_values={"observed": ["DEAD"], "censored": ["Alive"]})
    assert "add 'lost' to cohort.event_values" in line


def test_a_column_of_something_else_is_not_listed_whole(tmp_path: Path) -> None:
    line = problem(write(tmp_path, columns(20, event=[f"note {n}" for n in range(20)])))
    assert "and 12 other values" in line
    assert line.endswith("set cohort.columns.event to the right column")


@pytest.mark.parametrize("extra", [("case_id", "slide_id", "time", "event"), ("", "", "months", "0 or 1")])
def test_a_second_header_is_named_as_that(tmp_path: Path, extra: tuple[str, ...]) -> None:
    table = write(tmp_path, columns())
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:4], ",".join(extra), *lines[4:]]))
    line = problem(table, on_invalid="drop")
    assert line.endswith("row 5 looks like a second header or a row of units: remove it")


def test_yaml_words_that_are_no_text_are_read_as_words() -> None:
    given = yaml.safe_load("{observed: [yes, 2], censored: [no, 1:ALIVE]}")
    assert EventValues(**given) == EventValues(
        observed=("true", "yes", "on", "2"), censored=("false", "no", "off", "1:ALIVE")
    )


def test_a_value_cannot_mean_both() -> None:
    with pytest.raises(ValueError, match="2 cannot be both observed and censored"):
        TableCohort(table=Path("t.csv"), event_values=EventValues(observed=("2",), censored=("1", "2.0")))


@pytest.mark.parametrize("event", [1, 0])
def test_a_cohort_with_one_kind_of_case_is_doubted(tmp_path: Path, event: int) -> None:
    (line,) = table_warnings(write(tmp_path, columns(event=[event] * 10)))
    assert line.startswith(
        f"all 10 cases {'have an event' if event else 'are censored'}, as column event is read"
    )


def test_dropping_all_censored_cases_is_refused_whatever_the_reason(tmp_path: Path) -> None:
    truth = [1, 1, 0, 1, 0, 1, 1, 1, 0, 1]
    days_to_death = [10 * number + 40 if event else "'--" for number, event in enumerate(truth)]
    line = problem(write(tmp_path, columns(event=truth, time=days_to_death)), on_invalid="drop")
    assert "drop would exclude all 3 rows of cases that are censored (the first is row 4)" in line

    blank = [event or "" for event in truth]
    line = problem(write(tmp_path, columns(event=blank)), on_invalid="drop")
    assert "drop would exclude all 3 rows whose event is empty (the first is row 4)" in line


def test_dropping_most_of_one_side_is_doubted(tmp_path: Path) -> None:
    times = [0 if number % 3 == 0 and number else 40 + number for number in range(10)]
    (line,) = table_warnings(write(tmp_path, columns(time=times)), on_invalid="drop")
    assert line.startswith(
        "3 of 4 rows of censored cases and 0 of 6 rows of cases with an event are excluded"
    )


@pytest.mark.parametrize(
    "name",
    [
        "censorship",
        "Censored",
        "status_censored",
        "cens",
        "is_censored",
        "OS_CENSOR",
        "alive",
        "overall_survival",
    ],
)
def test_names_that_say_who_is_censored(tmp_path: Path, name: str) -> None:
    assert names_censoring(name)
    assert not names_event(name)
    table = columns()
    table[name] = table.pop("event")
    (line,) = table_warnings(write(tmp_path, table), columns={"event": name})
    assert f"set cohort.columns.censorship: {name} instead" in line
    assert table_warnings(write(tmp_path, table), columns={"censorship": name}) == []


@pytest.mark.parametrize(
    "name",
    ["event", "OS_event", "dead", "vital_status", "death", "uncensored", "not_censored", "survival_status"],
)
def test_names_that_say_who_had_an_event(tmp_path: Path, name: str) -> None:
    assert names_event(name)
    assert not names_censoring(name)
    table = columns()
    table[name] = table.pop("event")
    (line,) = table_warnings(write(tmp_path, table), columns={"censorship": name})
    assert f"set cohort.columns.event: {name} instead" in line
    assert table_warnings(write(tmp_path, table), columns={"event": name}) == []
