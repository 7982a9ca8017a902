"""Reading splits from files: a table of cases and folds, or a folder of ``splits_<k>.csv``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from milsurv.cohort.cases import Split
from milsurv.cohort.ids import IdError, extract_id, first_few, shorten
from milsurv.cohort.text_table import Row, TextTable, read_text_table
from milsurv.errors import CohortError, nearest

ROLES = ("train", "validation", "test")
MAX_PROBLEMS = 5
"""Problems that are listed; the rest are counted."""

_FOLDER_FILE = re.compile(r"splits_(\d+)\.csv")


@dataclass(frozen=True)
class _Assignment:
    """A place in a file that gives a case a role in a fold."""

    case_id: str
    fold: int
    role: str
    where: str
    scope: str = ""
    """Within what a case may be in one place only, appended to the places in messages."""


def read_split_files(
    path: Path, case_ids: Collection[str], case_pattern: str | None
) -> tuple[list[Split], list[str]]:
    """The folds in ``path``, restricted to the cohort's ``case_ids``, and warnings.

    ``path`` is one of

    - a table (CSV, TSV, Parquet) of ``case_id, fold``: a case is tested in its fold and trains in the others;
    - the same with ``role`` (train, validation, test), one row per case and fold;
    - a folder of ``splits_<k>.csv`` with columns ``train`` and ``val``, where ``val`` is the test set.
      With a third column ``test``, that is the test set, and ``val`` selects the epoch.

    ``case_pattern`` extracts case ids from ids that are not case ids already. Raises `CohortError` for invalid
    values, a case in two folds or in two roles of one fold, folds without training or test cases, and cases of the
    cohort that are in no fold.
    """

    def to_case(text: str) -> str:
        return text if text in case_ids else extract_id(text, case_pattern, "case_pattern")

    assigned = _read_folder(path, to_case) if path.is_dir() else _read_table(read_text_table(path), to_case)
    named = {item.case_id for item in assigned}
    if named.isdisjoint(case_ids):
        raise CohortError(
            [
                f"{path}: none of the cohort's {len(case_ids)} cases ({shorten(sorted(case_ids), 1)}) is in "
                f"a fold; the ids there are {shorten(sorted(named))}; "
                "correct splits.files or cohort.case_pattern"
            ]
        )
    known = [item for item in assigned if item.case_id in case_ids]
    folds = [_fold(fold, known) for fold in sorted({item.fold for item in assigned})]
    problems = [
        f"{path}: fold {fold.fold} has no {role} case of the cohort; add some, or remove the fold"
        for fold in folds
        for role, members in (("training", fold.train), ("test", fold.test))
        if not members
    ]
    if unnamed := [case_id for case_id in case_ids if case_id not in named]:
        problems.append(
            f"{path}: {len(unnamed)} of the cohort's {len(case_ids)} cases are in no fold: "
            f"{shorten(unnamed, 5)}; add them, remove them from the cohort's table, or check cohort.case_pattern"
        )
    if problems:
        raise CohortError(problems)
    return folds, _check_coverage(path, folds, named, case_ids)


def _check_coverage(
    path: Path, folds: Iterable[Split], named: Iterable[str], case_ids: Collection[str]
) -> list[str]:
    warnings = []
    if unknown := sorted(case_id for case_id in named if case_id not in case_ids):
        warnings.append(
            f"{path}: {len(unknown)} cases of the splits are not in the cohort: {shorten(unknown)}"
        )
    for fold in folds:
        members = {*fold.train, *fold.validation, *fold.test}
        if absent := [case_id for case_id in case_ids if case_id not in members]:
            warnings.append(
                f"{path}: fold {fold.fold} does not include {len(absent)} cases: {shorten(absent)}"
            )
    return warnings


def _fold(fold: int, assigned: Iterable[_Assignment]) -> Split:
    members: dict[str, set[str]] = defaultdict(set)
    for item in assigned:
        if item.fold == fold:
            members[item.role].add(item.case_id)
    train, validation, test = (tuple(sorted(members[role])) for role in ROLES)
    return Split(fold, train, validation, test)


def _read_table(table: TextTable, to_case: Callable[[str], str]) -> list[_Assignment]:
    if not {"case_id", "fold"} <= set(table.columns):
        fix = table.suggest_fix(("case_id", "fold")) or (
            f"the columns are {table.column_list()}; splits.files must be a table with the columns case_id, fold and, "
            "optionally, role, or a folder of splits_<k>.csv"
        )
        raise CohortError([f"{table.path}: {fix}"])
    has_roles = "role" in table.columns
    assigned, problems = [], []
    for row in table.rows:
        try:
            assigned.append(_read_row(row, has_roles, to_case))
        except ValueError as error:
            problems.append(f"{table.path}: row {row.number}: {error}")
    problems = first_few(problems, MAX_PROBLEMS)
    if has_roles:
        problems += _contradictions(assigned, table.path, lambda item: (item.fold, item.role))
    else:
        problems += _contradictions(assigned, table.path, lambda item: (None, item.fold))
    if problems:
        raise CohortError(problems)
    return assigned if has_roles else [*assigned, *_training_elsewhere(assigned)]


def _read_row(row: Row, has_roles: bool, to_case: Callable[[str], str]) -> _Assignment:
    """Raises ValueError with what is wrong, what is allowed, and what to do."""
    if row.flaw:
        raise ValueError(f"{row.flaw}; correct it")
    case, fold = row.cells["case_id"], row.cells["fold"]
    if not case:
        raise ValueError("case_id is empty; fill it in or remove the row")
    if not re.fullmatch(r"\d+(\.0*)?", fold):
        raise ValueError(f"fold is {fold or 'empty'}; allowed: whole numbers from 0; correct it")
    number = int(float(fold))
    if not has_roles:
        return _Assignment(to_case(case), number, "test", f"fold {number} (row {row.number})")
    role = row.cells["role"]
    if role not in ROLES:
        raise ValueError(
            f"role is {role or 'empty'}{nearest(role, ROLES)}; allowed: {', '.join(ROLES)}; correct it"
        )
    return _Assignment(to_case(case), number, role, f"{role} (row {row.number})", f" of fold {number}")


def _training_elsewhere(assigned: Sequence[_Assignment]) -> list[_Assignment]:
    folds = {item.fold for item in assigned}
    return [
        _Assignment(item.case_id, fold, "train", item.where)
        for item in assigned
        for fold in folds - {item.fold}
    ]


def _read_folder(folder: Path, to_case: Callable[[str], str]) -> list[_Assignment]:
    files = {int(match[1]): file for file in folder.iterdir() if (match := _FOLDER_FILE.fullmatch(file.name))}
    if not files:
        raise CohortError(
            [f"{folder}: contains no file named splits_<k>.csv, such as splits_0.csv; correct splits.files"]
        )
    assigned, problems = [], []
    for fold, file in sorted(files.items()):
        table = read_text_table(file)
        roles = {"train": "train", "val": "test"}
        if "test" in table.columns:
            roles = {"train": "train", "val": "validation", "test": "test"}
        if not set(roles) <= set(table.columns):
            problems.append(
                f"{file}: the columns are {table.column_list()}; train and val are required, test is optional; "
                "correct the file"
            )
            continue
        problems += [f"{file}: row {row.number}: {row.flaw}; correct it" for row in table.rows if row.flaw]
        for column, role in roles.items():
            for row in table.rows:
                value = row.cells.get(column, "")
                try:
                    if value:
                        assigned.append(_Assignment(to_case(value), fold, role, column, f" of {file.name}"))
                except IdError as error:
                    problems.append(f"{file}: row {row.number}: {error}; correct the pattern or the file")
    contradictions = _contradictions(assigned, folder, lambda item: (item.fold, item.role))
    if problems or contradictions:
        raise CohortError(first_few(problems, MAX_PROBLEMS) + contradictions)
    return assigned


def _contradictions(
    assigned: Iterable[_Assignment],
    path: Path,
    place: Callable[[_Assignment], tuple[int | None, str | int]],
) -> list[str]:
    """A line for each case in several places of one scope; ``place`` returns scope and place."""
    found: dict[tuple[str, int | None], dict[str | int, _Assignment]] = defaultdict(dict)
    for item in assigned:
        scope, at = place(item)
        found[item.case_id, scope].setdefault(at, item)
    return first_few(
        [
            f"{path}: case {case_id} is in {' and '.join(item.where for item in places.values())}"
            f"{next(iter(places.values())).scope}; one is allowed; correct the file"
            for (case_id, _), places in found.items()
            if len(places) > 1
        ],
        MAX_PROBLEMS,
    )
