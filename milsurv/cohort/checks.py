"""Warnings about a cohort table that is valid but looks misread: its event column, times, ids and missing values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from milsurv.cohort.event_column import EventColumn
from milsurv.cohort.ids import group_similar, shorten
from milsurv.cohort.rows import Entry
from milsurv.cohort.text_table import MISSING_WORDS, TextTable
from milsurv.config.cohort import TableCohort, plain, yaml_list

DAYS = {"day": 1.0, "week": 7.0, "month": 365.25 / 12, "year": 365.25}
"""Unit -> its length in days."""
MAX_YEARS = 60.0
"""Longest plausible follow-up: the oldest cohorts of adults are about as old."""
MAX_MEDIAN_YEARS = 20.0
MIN_LONGEST_DAYS = 365.25
"""Cohorts without any follow-up of a year are rare, and have few events."""
MIN_MEDIAN_DAYS = 60.0
MAX_RATIO = 5.0
"""Cohorts of one disease differ by less than this in median and longest follow-up; units differ by 7 to 365."""
MAX_EXCLUDED = 0.5
"""Share of rows whose exclusion is warned about."""
AMBIGUOUS = ("none", "-")
"""Words that mean "missing" in one program, and are values in another: no treatment, a negative receptor."""
_LOOKS_MISSING = re.compile(r"\[.*\]|[^\w+]+|(unknown|missing|not (available|reported|known|evaluated))\b.*")
_UNIT_IN_NAME = {
    "day": re.compile(r"days?(?![a-z])|(?<![a-z])d(?![a-z])"),
    "week": re.compile(r"weeks?(?![a-z])|(?<![a-z])wks?(?![a-z])"),
    "month": re.compile(r"months?(?![a-z])|(?<![a-z])(mo|mos|mths?)(?![a-z])"),
    "year": re.compile(r"years?(?![a-z])|(?<![a-z])(y|yrs?)(?![a-z])"),
}
_NOT_FOLLOW_UP = re.compile(r"(?<![a-z])(age|date|birth|diagnosis_year|year_of\w*)(?![a-z])")
_MONTHS = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_BY_SPREADSHEET = re.compile(
    rf"\d(\.\d+)?e\+\d+|\d{{1,2}}[-./]{_MONTHS}|{_MONTHS}[-./]\d{{2,4}}|#+", re.IGNORECASE
)
_TOTALS = re.compile(r"(grand )?totals?|sum|mean|average|median|count|subtotal", re.IGNORECASE)
_TCGA_PATIENT = re.compile(r"^(TCGA-\w{2}-\w{4})-")
_OUTCOMES = ("are censored", "have an event")


def check_table(
    table: TextTable,
    config: TableCohort,
    events: EventColumn,
    kept: Sequence[Entry],
    attributes: Sequence[str],
) -> Iterator[str]:
    """Warnings about a table of which the rows ``kept`` (n ≥ 1) are used; ``attributes`` are its clinical columns."""
    by_case = {entry.case_id: entry for entry in kept}
    yield from check_case_ids(list(by_case))
    if warning := events.warning():
        yield warning
    outcomes = {entry.event for entry in kept}
    if len(outcomes) == 1 and len(by_case) > 1:
        yield (
            f"all {len(by_case)} cases {_OUTCOMES[outcomes.pop()]}, as column {events.name} is read "
            f"({events.allowed}); check that it is the right column and that its values have this meaning"
        )
    column = config.columns.time
    yield from check_times(column, config.time_unit, [entry.time for entry in by_case.values()])
    texts = [row.cells.get(column, "") for row in table.rows if not row.flaw]
    if warning := check_thousands_separators(column, texts):
        yield warning
    yield from _check_excluded(table, events, {entry.row for entry in kept})
    yield from check_missing_words(table, attributes)


def check_excluded_outcome(table: TextTable, events: EventColumn, kept: Sequence[Entry]) -> list[str]:
    """An error if dropping invalid rows excludes all cases with an event, or all censored cases."""
    outcomes = {entry.event for entry in kept}
    if len(outcomes) != 1:
        return []
    outcome = outcomes.pop()
    rows = {entry.row for entry in kept}
    gone = [row for row in table.rows if row.number not in rows and not row.flaw]
    other = [row for row in gone if events.read(row) == 1 - outcome]
    lost = other or [row for row in gone if events.read(row) is None]
    if not lost:
        return []
    which = f"rows of cases that {_OUTCOMES[1 - outcome]}" if other else f"rows whose {events.name} is empty"
    return [
        f"{table.path}: cohort.on_invalid: drop would exclude all {len(lost)} {which} (the first is row "
        f"{lost[0].number}), and all remaining cases {_OUTCOMES[outcome]}; use on_invalid: error to see what is wrong "
        "with them, and correct the table or cohort.columns"
    ]


def _check_excluded(table: TextTable, events: EventColumn, kept: set[int]) -> Iterator[str]:
    """Whether most rows, or most rows of one outcome, are excluded."""
    if (excluded := len(table.rows) - len(kept)) > MAX_EXCLUDED * len(table.rows):
        yield f"{excluded} of {len(table.rows)} rows of the table are excluded; check why before you use the rest"
        return
    counts = []
    for outcome in (0, 1):
        rows = [row.number for row in table.rows if events.read(row) == outcome]
        counts.append((len([number for number in rows if number not in kept]), len(rows)))
    (censored, of_censored), (observed, of_observed) = counts
    if any(lost > MAX_EXCLUDED * total for lost, total in counts):
        yield (
            f"{censored} of {of_censored} rows of censored cases and {observed} of {of_observed} rows of cases with an "
            "event are excluded: the rest may not represent the cohort"
        )


def known_unit(text: str) -> str | None:
    """``day``, ``week``, ``month`` or ``year`` if ``text`` names one of them, else None."""
    return next((unit for unit in DAYS if text.strip().casefold() in (unit, f"{unit}s", f"{unit}(s)")), None)


def check_times(column: str, unit: str, times: Sequence[float]) -> Iterator[str]:
    """Warnings about follow-up ``times`` (n ≥ 1, in ``unit``) of a table's ``column``."""
    yield from _check_time_column(column, unit)
    longest, middle = max(times), median(times)
    if min(times) == longest and len(times) > 1:
        yield f"all {len(times)} cases have the same follow-up, {longest:g} {unit}; is column {column} the right one?"
    if all(1900 <= time <= 2100 and time == int(time) for time in times):
        yield (
            f"the times in column {column}, {min(times):g} to {longest:g}, look like calendar years; use the time "
            "from start to end of follow-up"
        )
        return
    if (known := known_unit(unit)) is None:
        return
    days = DAYS[known]
    too_long = longest * days > MAX_YEARS * DAYS["year"] or middle * days > MAX_MEDIAN_YEARS * DAYS["year"]
    too_short = longest * days < MIN_LONGEST_DAYS or middle * days < MIN_MEDIAN_DAYS
    if not (too_long or too_short):
        return
    others = [f"{name}s" for name in DAYS if (DAYS[name] < days if too_long else DAYS[name] > days)]
    perhaps = f" if the times are in {' or '.join(others)}," if others else ""
    yield (
        f"the longest follow-up is {longest:,.4g} {unit} ({longest * days / DAYS['year']:,.3g} years), the median "
        f"{middle:,.4g} {unit}, which is unusually {'long' if too_long else 'short'};{perhaps} set cohort.time_unit, "
        "or convert the times"
    )


def _check_time_column(column: str, unit: str) -> Iterator[str]:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", column).lower()
    named = [name for name, pattern in _UNIT_IN_NAME.items() if pattern.search(words)]
    known = known_unit(unit)
    if known is not None and len(named) == 1 and named != [known]:
        yield (
            f"the name of cohort.columns.time, {column}, suggests {named[0]}s, but cohort.time_unit is {unit}; if the "
            f"name is right, set cohort.time_unit: {named[0]}s"
        )
    if match := _NOT_FOLLOW_UP.search(words):
        yield (
            f"the name of cohort.columns.time, {column}, suggests {match[0]} rather than follow-up; use the column "
            "with the time from start to end of follow-up"
        )


def check_thousands_separators(column: str, texts: Sequence[str]) -> str | None:
    """A warning if all points in the numbers of a column could be thousands separators."""
    with_point = [text for text in texts if "." in text]
    if not with_point or not all(re.fullmatch(r"\d{1,3}(\.\d{3})?", text) for text in texts):
        return None
    if len(with_point) == len(texts):  # more likely numbers rounded to three decimals
        return None
    return (
        f"all points in column {column} precede three digits, as in {with_point[0]}, and are read as decimal points; "
        "if they separate thousands, remove them"
    )


def check_follow_up(unit: str, times: Sequence[float], training: Sequence[float]) -> str | None:
    """A warning if the follow-up of an external cohort is so unlike training's that its unit may be wrong."""
    ratios = [measure(times) / measure(training) for measure in (median, max)]
    if not (min(ratios) >= MAX_RATIO or max(ratios) <= 1 / MAX_RATIO):
        return None
    middle, longest = ([measure(of) for of in (times, training)] for measure in (median, max))
    return (
        f"the median follow-up is {middle[0]:,.4g} {unit} in this cohort and {middle[1]:,.4g} {unit} in training; the "
        f"longest is {longest[0]:,.4g} and {longest[1]:,.4g}: if one of them is in another unit, convert the times of "
        f"the table to {unit}, or scores that depend on time are meaningless"
    )


def check_case_ids(case_ids: Sequence[str]) -> Iterator[str]:
    """Warnings about the distinct ids of a cohort's cases."""
    patients: dict[str, int] = Counter(
        match.group(1) for case_id in case_ids if (match := _TCGA_PATIENT.match(case_id))
    )
    if several := [patient for patient, count in patients.items() if count > 1]:
        yield (
            f"{len(several)} TCGA patients have several cases each, which may be on both sides of a split: "
            f"{shorten(several)}; make them one case each with cohort.case_pattern: '^(.{{12}})'"
        )
    if changed := [case_id for case_id in case_ids if _BY_SPREADSHEET.fullmatch(case_id)]:
        yield (
            f"{len(changed)} case ids seem to have been converted to numbers or dates by a spreadsheet "
            f"({shorten(changed)}); export the table again with the ids as text"
        )
    if all(re.fullmatch(r"\d+\.0", case_id) for case_id in case_ids):
        yield (
            f"every case id ends with .0 ({shorten(case_ids)}): a program read the ids as numbers; write them as text"
        )
    if totals := [case_id for case_id in case_ids if _TOTALS.fullmatch(case_id)]:
        yield f"case {shorten(totals)} is named like a row of totals; if it is not a patient, remove the row"
    if similar := [" and ".join(map(repr, ids)) for ids in group_similar(case_ids).values() if len(ids) > 1]:
        yield (
            f"{len(similar)} groups of case ids differ only in case, spaces or leading zeros ({shorten(similar)}) and "
            "count as different cases; if they are one patient, write them in the same way"
        )


def missing_words(config: TableCohort) -> frozenset[str]:
    """The lower-case words of the cohort table that are read as empty."""
    also, never = ({plain(word) for word in words} for words in (config.also_missing, config.not_missing))
    return (MISSING_WORDS | also) - never


def count_missing(table: TextTable, columns: Sequence[str]) -> tuple[str, ...]:
    """A line for each of ``columns`` with missing values: in how many rows, and marked by which words."""
    rows = [row for row in table.rows if not row.flaw]
    lines = []
    for column in columns:
        words = Counter(row.missing.get(column, "") for row in rows if not row.cells[column])
        if words:
            counts = ", ".join(
                f"{repr(word) if word else 'empty'} {count}" for word, count in words.most_common()
            )
            lines.append(f"{column}: missing in {words.total()} of {len(rows)} rows ({counts})")
    return tuple(lines)


def check_missing_words(table: TextTable, attributes: Sequence[str]) -> Iterator[str]:
    """Warnings about words of clinical columns that may be values but count as missing, or the reverse."""
    for column in attributes:
        words = Counter(row.missing[column] for row in table.rows if column in row.missing)
        values = Counter(row.cells[column] for row in table.rows if not row.flaw)
        yield from (
            f"column {column}: {word!r} counts as missing in {count} rows; if it is a value there, add it to "
            f"cohort.not_missing: {yaml_list([word])}"
            for word, count in words.items()
            if word.casefold() in AMBIGUOUS
        )
        yield from (
            f"column {column}: {word!r} counts as a value in {count} rows; if it marks a missing value, add it to "
            f"cohort.also_missing: {yaml_list([word])}"
            for word, count in values.items()
            if _LOOKS_MISSING.fullmatch(word.casefold())
        )
