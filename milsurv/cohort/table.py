"""The cohort table: who the cases are, how long each was followed, and whether the event was observed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from milsurv.cohort.cases import Case, Cohort
from milsurv.cohort.doubts import doubts, one_sided
from milsurv.cohort.event_column import EventColumn
from milsurv.cohort.ids import shorten
from milsurv.cohort.locate import Located, SlideFolder, index_slides, locate_by_case, locate_by_slide
from milsurv.cohort.missing import missing_doubts, missing_told, missing_words
from milsurv.cohort.rows import Entry, RowProblem, check_row, disagreements, duplicates
from milsurv.cohort.text_table import TextTable, read_text_table
from milsurv.config.cohort import Columns, TableCohort
from milsurv.errors import CohortError

FEW_ROWS = 4
"""In a table with fewer rows, what is wrong with all of them is told row by row."""
SHOWN_PROBLEMS = 20
"""Problems of rows that are listed in full; the rest are counted."""
_USUAL_WORDS = {
    "case": ("case", "patient", "subject", "barcode"),
    "slide": ("slide", "image", "file", "wsi"),
    "time": ("time", "month", "day", "year", "survival"),
    "event": ("event", "status", "death", "dead"),
    "censorship": ("cens",),
    "mpp": ("mpp", "micron", "resolution"),
}
_TCGA_PATIENT = re.compile(r"^(TCGA-\w{2}-\w{4})-")


def read_cohort(
    config: TableCohort,
    *,
    files: SlideFolder | None = None,
    true_risk: str | None = None,
    synthetic: bool = False,
    attributes: Sequence[str] = (),
) -> Cohort:
    """Read and check the cohort table, and find its slides, among ``files`` where no folder of slides is given.

    ``true_risk`` names a column with the known risk of synthetic cases (a number, higher is worse), ``attributes``
    columns whose text the cases keep for the evaluation. Every
    row is either part of the cohort or, under ``on_invalid: drop``, named in `Cohort.dropped`, and so is
    every case of which nothing is left. Raises `CohortError` with all problems at once.
    """
    table = read_text_table(config.table, missing_words(config))
    _require_columns(table, config.columns, true_risk)
    _require_attributes(table, attributes)
    events = EventColumn.of(config)
    checked = [check_row(row, config, events, true_risk, attributes) for row in table.rows]
    entries = [result for result in checked if isinstance(result, Entry)]
    found = [problem for result in checked if not isinstance(result, Entry) for problem in result]
    found += [*disagreements(entries, config.columns, true_risk), *duplicates(entries)]
    found.sort(key=lambda problem: problem.rows)
    out = {number for problem in found for number in problem.rows}
    kept = [entry for entry in entries if entry.row not in out]

    dropping = config.on_invalid == "drop"
    problems = events.problems(table)
    problems += one_sided(table, events, kept) if dropping and not problems else []
    problems += [] if dropping else _problem_lines(table, found)
    if not kept and not problems:
        problems.append(f"{table.path}: none of its {len(table.rows)} rows is a valid case; {_first(found)}")
    try:
        located = _locate(kept, config, files)
        problems += located.problems
    except CohortError as error:
        problems += error.problems
    if problems:
        raise CohortError(problems)
    return Cohort(
        cases=_cases(kept, located),
        time_unit=config.time_unit,
        endpoint=config.endpoint,
        synthetic=synthetic,
        dropped=_dropped_lines(found, {entry.case_id for entry in kept}),
        warnings=(
            *_one_patient_in_several_cases(kept),
            *doubts(table, config, events, kept),
            *missing_doubts(table, attributes),
            *located.warnings,
        ),
        missing=missing_told(table, [*_roles(config.columns).values(), *attributes]),
    )


def _roles(columns: Columns) -> dict[str, str]:
    """Role -> column, of those that the configuration names."""
    return {role: name for role, name in columns.model_dump().items() if name is not None}


def _require_columns(table: TextTable, columns: Columns, true_risk: str | None) -> None:
    named = _roles(columns)
    lacking = [
        f"no column {name!r} (cohort.columns.{role}{_suggestion(role, name, table.columns)})"
        for role, name in named.items()
        if name not in table.columns
    ]
    if true_risk is not None and true_risk not in table.columns:
        lacking.append(f"no column {true_risk!r} with the true risk")
    if lacking:
        if remedy := table.remedy(named.values()):
            raise CohortError([f"{table.path}: {remedy}"])
        raise CohortError(
            [
                f"{table.path}: {', '.join(lacking)}; the columns are: "
                f"{table.column_list()}; name the right ones under cohort.columns"
            ]
        )


def _require_attributes(table: TextTable, attributes: Sequence[str]) -> None:
    lacking = [
        f"no column {name!r}{f' (did you mean {close[0]}?)' if close else ''}"
        for name in attributes
        if name not in table.columns
        for close in [get_close_matches(name, table.columns, n=1)]
    ]
    if lacking:
        raise CohortError(
            [
                f"{table.path}: {', '.join(lacking)}; the columns are: {table.column_list()}; "
                "name one of them in evaluation.subgroups and evaluation.clinical"
            ]
        )


def _suggestion(role: str, name: str, columns: Sequence[str]) -> str:
    def usual(role: str) -> list[str]:
        return [column for column in columns if any(word in column.lower() for word in _USUAL_WORDS[role])]

    if close := get_close_matches(name, columns, n=1, cutoff=0.75):
        return f": did you mean {close[0]}?"
    if role == "event" and usual("censorship"):
        return f": perhaps cohort.columns.censorship: {usual('censorship')[0]}, if 1 means censored there"
    if candidates := usual(role):
        return f": perhaps {' or '.join(candidates[:2])}"
    return ": null if the table has one row per case" if role == "slide" else ""


def _problem_lines(table: TextTable, problems: Sequence[RowProblem]) -> list[str]:
    by_kind: dict[str, list[RowProblem]] = defaultdict(list)
    for problem in problems:
        by_kind[problem.column or problem.what].append(problem)
    everywhere = [
        of_kind
        for of_kind in by_kind.values()
        if len({number for problem in of_kind for number in problem.rows}) == len(table.rows) >= FEW_ROWS
    ]
    if everywhere:
        return [
            f"{table.path}: no row is valid: in all {len(table.rows)} rows as in {first.where}: {first.what}; "
            f"{first.remedy if first.column is None else first.remedy.partition(';')[0]}; {_elsewhere(first)}"
            for first, *_ in everywhere
        ]
    lines = [
        f"{table.path}: {problem.where}: {problem.what}; {problem.remedy}"
        for problem in problems[:SHOWN_PROBLEMS]
    ]
    more = problems[SHOWN_PROBLEMS:]
    if more:
        rows = len({number for problem in more for number in problem.rows})
        lines.append(f"{table.path}: and {len(more)} more such problems, in {rows} rows")
    if len({number for problem in problems for number in problem.rows}) == len(table.rows) > 1:
        lines.append(f"{table.path}: no row is valid; look first at cohort.columns and the patterns")
    return lines


def _elsewhere(problem: RowProblem) -> str:
    if problem.column is not None:
        return "look first at cohort.columns and the patterns"
    return "if the values without a name are row names, as R writes them, write the table without (row.names = FALSE)"


def _first(problems: Sequence[RowProblem]) -> str:
    if not problems:
        return "give one row per slide below the header"
    return f"the first problem: {problems[0].where}: {problems[0].what}; {problems[0].remedy}"


def _dropped_lines(problems: Sequence[RowProblem], kept_cases: set[str]) -> tuple[str, ...]:
    """A line for each row left out, which says so when nothing is left of the case."""
    lines = []
    for problem in problems:
        lost = [case_id for case_id in problem.cases if case_id not in kept_cases]
        which = "the case" if len(problem.cases) == 1 else ", ".join(lost)
        rest = f"; nothing is left of {which}" if lost else ""
        lines.append(f"{problem.where}: left out, {problem.what}{rest}")
    return tuple(lines)


def _locate(entries: Sequence[Entry], config: TableCohort, files: SlideFolder | None) -> Located:
    index = files or index_slides(_slides_of(config))
    if config.columns.slide is not None:
        slide_ids = [entry.slide_id for entry in entries if entry.slide_id]
        return locate_by_slide(index, slide_ids, config.slide_pattern)
    if config.case_pattern is None:
        raise CohortError(
            [
                "cohort.columns.slide is null, so slides are found by the case ids in their file names: "
                "set cohort.case_pattern to a regular expression with one group around the case id, "
                "such as '^(.{12})'"
            ]
        )
    return locate_by_case(
        index, [entry.case_id for entry in entries], config.case_pattern, config.slide_pattern
    )


def _slides_of(config: TableCohort) -> Path:
    if config.slides is None:
        raise CohortError(["cohort.slides is missing: name the folder with the slides"])
    return config.slides


def _cases(entries: Iterable[Entry], located: Located) -> tuple[Case, ...]:
    cases: dict[str, Case] = {}
    for entry in entries:
        refs = located.slides[entry.slide_id or entry.case_id]
        case = cases.get(entry.case_id) or Case(
            entry.case_id, entry.time, entry.event, (), entry.true_risk, entry.attributes
        )
        slides = (*case.slides, *(replace(ref, mpp=entry.mpp) for ref in refs))
        cases[entry.case_id] = replace(case, slides=slides)
    return tuple(cases.values())


def _one_patient_in_several_cases(entries: Iterable[Entry]) -> list[str]:
    """TCGA barcodes begin with the patient; longer ones as case ids can put a patient on two sides."""
    patients = defaultdict(set)
    for entry in entries:
        if match := _TCGA_PATIENT.match(entry.case_id):
            patients[match.group(1)].add(entry.case_id)
    several = [patient for patient, cases in patients.items() if len(cases) > 1]
    if not several:
        return []
    return [
        f"{len(several)} TCGA patients stand as several cases each and may train and test at once: "
        f"{shorten(several)}; "
        "make them one case each with cohort.case_pattern: '^(.{12})'"
    ]
