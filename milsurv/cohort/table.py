"""Reading the cohort table: cases, their follow-up, and their slides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from milsurv.cohort.cases import Case, Cohort
from milsurv.cohort.checks import check_excluded_outcome, check_table, count_missing, missing_words
from milsurv.cohort.event_column import EventColumn
from milsurv.cohort.locate import Located, SlideFolder, index_slides, locate_by_case, locate_by_slide
from milsurv.cohort.rows import Entry, RowProblem, check_row, disagreements, duplicates
from milsurv.cohort.text_table import TextTable, read_text_table
from milsurv.config.cohort import Columns, TableCohort
from milsurv.errors import CohortError

FEW_ROWS = 4
"""In a table with fewer rows, a problem of every row is still reported row by row."""
MAX_PROBLEMS = 20
"""Problems of rows that are listed; the rest are counted."""
_USUAL_WORDS = {
    "case": ("case", "patient", "subject", "barcode"),
    "slide": ("slide", "image", "file", "wsi"),
    "time": ("time", "month", "day", "year", "survival"),
    "event": ("event", "status", "death", "dead"),
    "censorship": ("cens",),
    "mpp": ("mpp", "micron", "resolution"),
}


def read_cohort(
    config: TableCohort,
    *,
    files: SlideFolder | None = None,
    true_risk: str | None = None,
    synthetic: bool = False,
    attributes: Sequence[str] = (),
) -> Cohort:
    """Read and check the cohort table, and find its slides among ``files``, by default those in ``cohort.slides``.

    ``true_risk`` is a column with the known risk of synthetic cases (a number, higher is worse), ``attributes`` are
    columns whose text the cases keep for the evaluation. Every row is either part of the cohort or, under
    ``on_invalid: drop``, listed in `Cohort.dropped`. Raises `CohortError` with all problems at once.
    """
    table = read_text_table(config.table, missing_words(config))
    _require_columns(table, config.columns, true_risk)
    _require_attributes(table, attributes)
    events = EventColumn.from_config(config)
    checked = [check_row(row, config, events, true_risk, attributes) for row in table.rows]
    entries = [result for result in checked if isinstance(result, Entry)]
    found = [problem for result in checked if not isinstance(result, Entry) for problem in result]
    found += [*disagreements(entries, config.columns, true_risk), *duplicates(entries)]
    found.sort(key=lambda problem: problem.rows)
    out = {number for problem in found for number in problem.rows}
    kept = [entry for entry in entries if entry.row not in out]

    dropping = config.on_invalid == "drop"
    problems = events.problems(table)
    problems += check_excluded_outcome(table, events, kept) if dropping and not problems else []
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
        warnings=(*check_table(table, config, events, kept, attributes), *located.warnings),
        missing=count_missing(table, [*_roles(config.columns).values(), *attributes]),
    )


def _roles(columns: Columns) -> dict[str, str]:
    """Role -> column, of the roles that are configured."""
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
        if remedy := table.suggest_fix(named.values()):
            raise CohortError([f"{table.path}: {remedy}"])
        raise CohortError(
            [
                f"{table.path}: {', '.join(lacking)}; the columns are: "
                f"{table.column_list()}; set the right ones in cohort.columns"
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
                "correct evaluation.subgroups or evaluation.clinical"
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
            f"{table.path}: no row is valid: all {len(table.rows)} rows have the problem of {first.where}: "
            f"{first.what}; "
            f"{first.remedy if first.column is None else first.remedy.partition(';')[0]}; {_hint(first)}"
            for first, *_ in everywhere
        ]
    lines = [
        f"{table.path}: {problem.where}: {problem.what}; {problem.remedy}"
        for problem in problems[:MAX_PROBLEMS]
    ]
    more = problems[MAX_PROBLEMS:]
    if more:
        rows = len({number for problem in more for number in problem.rows})
        lines.append(f"{table.path}: and {len(more)} more such problems, in {rows} rows")
    if len({number for problem in problems for number in problem.rows}) == len(table.rows) > 1:
        lines.append(f"{table.path}: no row is valid; check cohort.columns and the patterns first")
    return lines


def _hint(problem: RowProblem) -> str:
    if problem.column is not None:
        return "check cohort.columns and the patterns first"
    return "if the column without a name holds row names written by R, write the table with row.names = FALSE"


def _first(problems: Sequence[RowProblem]) -> str:
    if not problems:
        return "the table needs one row per slide below the header"
    return f"the first problem: {problems[0].where}: {problems[0].what}; {problems[0].remedy}"


def _dropped_lines(problems: Sequence[RowProblem], kept_cases: set[str]) -> tuple[str, ...]:
    """A line for each excluded row, which also states if its case has no other rows."""
    lines = []
    for problem in problems:
        lost = [case_id for case_id in problem.cases if case_id not in kept_cases]
        which = "the case" if len(problem.cases) == 1 else ", ".join(lost)
        rest = f"; nothing is left of {which}" if lost else ""
        lines.append(f"{problem.where}: excluded, {problem.what}{rest}")
    return tuple(lines)


def _locate(entries: Sequence[Entry], config: TableCohort, files: SlideFolder | None) -> Located:
    if files is None:
        if config.slides is None:
            raise CohortError(["cohort.slides is missing: set it to the folder with the slides"])
        files = index_slides(config.slides)
    if config.columns.slide is not None:
        slide_ids = [entry.slide_id for entry in entries if entry.slide_id]
        return locate_by_slide(files, slide_ids, config.slide_pattern)
    if config.case_pattern is None:
        raise CohortError(
            [
                "cohort.columns.slide is null, so slides are found by the case ids in their file names; "
                "set cohort.case_pattern to a regular expression with one group around the case id, "
                "such as '^(.{12})'"
            ]
        )
    return locate_by_case(
        files, [entry.case_id for entry in entries], config.case_pattern, config.slide_pattern
    )


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
