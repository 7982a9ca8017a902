"""Validation of the rows of a cohort table, one by one and against each other."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from milsurv.cohort.cases import ALLOWED_MPP, is_valid_mpp
from milsurv.cohort.event_column import EventColumn
from milsurv.cohort.ids import IdError, extract_id, extract_slide_id
from milsurv.cohort.text_table import Row
from milsurv.config.cohort import Columns, TableCohort

_EXCLUDE = "exclude such rows with cohort.on_invalid: drop"
_FIX = f"correct it, or {_EXCLUDE}"

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A valid row."""

    row: int
    case_id: str
    slide_id: str | None
    time: float
    event: int
    mpp: float | None
    true_risk: float | None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowProblem:
    """What is wrong with one row, or with several rows together."""

    rows: tuple[int, ...]
    """Rows that are excluded because of it."""
    cases: tuple[str, ...]
    """Their cases, as far as they are known."""
    what: str
    remedy: str
    """What is allowed, and what to do."""
    column: str | None = None
    """The column with the invalid value, if it is one column."""

    @property
    def where(self) -> str:
        rows = f"row{'s' * (len(self.rows) > 1)} {', '.join(map(str, self.rows))}"
        return f"{rows} (case{'s' * (len(self.cases) > 1)} {', '.join(self.cases)})" if self.cases else rows


class _CellError(ValueError):
    """Invalid value of a cell; the arguments are what it is and what is allowed."""


def check_row(
    row: Row,
    config: TableCohort,
    events: EventColumn,
    true_risk: str | None,
    attributes: Sequence[str] = (),
) -> Entry | list[RowProblem]:
    """The row's values, or all problems with them. The values of columns ``attributes`` are not checked.

    Event values without a meaning are reported by `EventColumn.problems`, once for the table, and not here.
    """
    columns = config.columns
    if row.flaw:
        remedy = f"quote values that contain the separator; {_FIX}"
        return [RowProblem((row.number,), (), row.flaw, remedy)]
    wrong: list[tuple[str, str, str]] = []

    def take(column: str | None, parse: Callable[[str], T], otherwise: T) -> T:
        if column is None:
            return otherwise
        try:
            return parse(row.cells[column])
        except IdError as error:
            wrong.append((f"{column}: {error}", f"correct the value or the pattern, or {_EXCLUDE}", column))
        except _CellError as error:
            what, allowed = error.args
            word = row.missing.get(column)
            found = what if word is None else f"{word!r}, which counts as missing"
            wrong.append((f"{column} is {found}", f"allowed: {allowed}; {_FIX}", column))
        return otherwise

    case_id = take(columns.case, lambda text: extract_id(_id(text), config.case_pattern, "case_pattern"), "")
    slide_id = take(columns.slide, lambda text: extract_slide_id(_id(text), config.slide_pattern), "")
    time = take(columns.time, _time, math.nan)
    take(events.name, lambda text: _present(text, events.allowed), "")
    event = events.read(row)
    mpp = take(columns.mpp, _mpp, None)
    risk = take(true_risk, _number, None)
    if wrong:
        case = case_id or row.cells[columns.case]
        return [RowProblem((row.number,), (case,) if case else (), *found) for found in wrong]
    if event is None:
        return []
    texts = {column: row.cells[column] for column in attributes}
    return Entry(row.number, case_id, slide_id or None, time, event, mpp, risk, texts)


def _present(text: str, allowed: str) -> str:
    if not text:
        raise _CellError("empty", allowed)
    return text


def _id(text: str) -> str:
    return _present(text, "an id")


def _number(text: str) -> float:
    _present(text, "a number")
    try:
        number = float(text.replace("_", "?"))
    except ValueError:
        raise _CellError(repr(text), f"a number{_form(text)}") from None
    if not math.isfinite(number):
        raise _CellError(text, "a finite number")
    return number


def _form(text: str) -> str:
    """How to correct a text that a person would read as a number or a date."""
    if re.fullmatch(r"[+-]?\d{1,3}([ ',.]\d{3})+([.,]\d+)?", text) and not re.fullmatch(r"\d+\.\d+", text):
        return ", without separators between thousands and with a point before the decimals"
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return ", with a point before the decimals"
    if re.match(r"\d{4}-\d\d?-\d\d?\b|\d\d?[./-]\d\d?[./-]\d{2,4}\b", text):
        return ", and this is a date: use the time from start to end of follow-up"
    return ""


def _time(text: str) -> float:
    allowed = "a number greater than 0"
    time = _number(_present(text, allowed))
    if time <= 0:
        raise _CellError(text, allowed)
    return time


def _mpp(text: str) -> float | None:
    if not text:
        return None
    mpp = _number(text)
    if not is_valid_mpp(mpp):
        raise _CellError(text, f"{ALLOWED_MPP}, or empty")
    return mpp


def disagreements(entries: Iterable[Entry], columns: Columns, true_risk: str | None) -> list[RowProblem]:
    """Cases whose rows disagree about the case; all their rows are excluded."""
    rows = defaultdict(list)
    for entry in entries:
        rows[entry.case_id].append(entry)
    problems = []
    for case_id, same in rows.items():
        values: dict[str, list[float | str | None]] = {
            columns.time: [entry.time for entry in same],
            f"{columns.event or columns.censorship}": [
                entry.event if columns.event else 1 - entry.event for entry in same
            ],
            f"{true_risk}": [entry.true_risk for entry in same],
            **{column: [entry.attributes[column] for entry in same] for column in same[0].attributes},
        }
        differing = [
            f"{name} ({', '.join(_format(value) for value in dict.fromkeys(found) if value is not None)})"
            for name, found in values.items()
            if len(set(found)) > 1
        ]
        if differing:
            numbers = tuple(entry.row for entry in same)
            what = f"rows of one case disagree on {' and '.join(differing)}"
            remedy = "all rows of a case must agree; correct them, or exclude the case with cohort.on_invalid: drop"
            problems.append(RowProblem(numbers, (case_id,), what, remedy))
    return problems


def _format(value: float | str) -> str:
    return (value or "empty") if isinstance(value, str) else f"{value:.15g}"


def duplicates(entries: Iterable[Entry]) -> list[RowProblem]:
    """Slides (without a slide column: cases) in several rows.

    The first row of a case keeps its slide. A slide listed under several cases is excluded from all of them.
    """
    rows = defaultdict(list)
    for entry in entries:
        rows[entry.slide_id or entry.case_id].append(entry)
    problems = []
    for same in rows.values():
        first = same[0]
        thing = f"slide {first.slide_id}" if first.slide_id else "the case"
        cases = tuple(dict.fromkeys(entry.case_id for entry in same))
        if len(cases) > 1:
            numbers = tuple(entry.row for entry in same)
            remedy = "a slide belongs to one case; correct them, or exclude them with cohort.on_invalid: drop"
            problems.append(RowProblem(numbers, cases, f"{thing} is listed under {len(cases)} cases", remedy))
            continue
        for entry in same[1:]:
            remedy = "one row is allowed; remove one, or exclude the later one with cohort.on_invalid: drop"
            problems.append(RowProblem((entry.row,), cases, f"{thing} is already in row {first.row}", remedy))
    return problems
