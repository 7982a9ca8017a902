"""Read folds that others made: a table of cases and folds, or a folder of ``splits_<k>.csv``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from milsurv.cohort.ids import IdError, extract_id, shorten
from milsurv.cohort.text_table import Row, TextTable, read_text_table
from milsurv.errors import CohortError, nearest

ROLES = ("train", "validation", "test")
SHOWN_PROBLEMS = 5

_FOLDER_FILE = re.compile(r"splits_(\d+)\.csv")


@dataclass(frozen=True)
class AssignedFold:
    """Case ids of one fold, as assigned. ``validation`` is empty when nobody assigned any."""

    fold: int
    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]


@dataclass(frozen=True)
class _Mention:
    """A place in a file that gives a case a role in a fold."""

    case_id: str
    fold: int
    role: str
    where: str
    scope: str = ""
    """In what a case may stand in one place only, as messages say it after the places."""


def read_split_files(
    path: Path, case_ids: Collection[str], case_pattern: str | None
) -> tuple[list[AssignedFold], list[str]]:
    """The folds in ``path``, limited to the cohort's ``case_ids``, and warnings.

    ``path`` is one of

    - a table (CSV, TSV, Parquet) of ``case_id, fold``: a case is tested in its fold and trains in the others;
    - the same with ``role`` (train, validation, test), a row for each case and fold;
    - a folder of ``splits_<k>.csv`` with columns ``train`` and ``val``, where ``val`` is what is reported.
      With a third column ``test``, that is reported and ``val`` chooses the epoch.

    ``case_pattern`` cuts case ids out of ids that are not case ids already. Raises `CohortError` for
    values that are not allowed, a case in two folds or in two roles of one fold, folds that train or test
    nobody, and cases of the cohort that no fold names.
    """

    def to_case(text: str) -> str:
        return text if text in case_ids else extract_id(text, case_pattern, "case_pattern")

    mentions = _read_folder(path, to_case) if path.is_dir() else _read_table(read_text_table(path), to_case)
    known = [mention for mention in mentions if mention.case_id in case_ids]
    folds = [_fold(fold, known) for fold in sorted({mention.fold for mention in mentions})]
    named = {mention.case_id for mention in mentions}
    if named.isdisjoint(case_ids):
        raise CohortError(
            [
                f"{path}: none of the cohort's {len(case_ids)} cases ({shorten(sorted(case_ids), 1)}) stands in "
                f"a fold; the ids there are {shorten(sorted(named))}; "
                "correct splits.files or cohort.case_pattern"
            ]
        )
    problems = [
        f"{path}: fold {fold.fold} has no {side} case that is in the cohort; give it some, or remove the fold"
        for fold in folds
        for side, members in (("training", fold.train), ("test", fold.test))
        if not members
    ]
    unnamed = [case_id for case_id in case_ids if case_id not in named]
    if unnamed:
        problems.append(
            f"{path}: {len(unnamed)} of the cohort's {len(case_ids)} cases stand in no fold: "
            f"{shorten(unnamed, 5)}; add them, take them out of the cohort's table, or check cohort.case_pattern"
        )
    if problems:
        raise CohortError(problems)
    return folds, _warnings(path, folds, named, case_ids)


def _warnings(
    path: Path, folds: Iterable[AssignedFold], named: Iterable[str], case_ids: Collection[str]
) -> list[str]:
    unknown = sorted(case_id for case_id in named if case_id not in case_ids)
    warnings = []
    if unknown:
        warnings.append(
            f"{path}: {len(unknown)} cases of the splits are not in the cohort: {shorten(unknown)}"
        )
    for fold in folds:
        members = fold.train | fold.validation | fold.test
        absent = [case_id for case_id in case_ids if case_id not in members]
        if absent:
            warnings.append(f"{path}: fold {fold.fold} leaves out {len(absent)} cases: {shorten(absent)}")
    return warnings


def _fold(fold: int, mentions: Iterable[_Mention]) -> AssignedFold:
    members: dict[str, set[str]] = defaultdict(set)
    for mention in mentions:
        if mention.fold == fold:
            members[mention.role].add(mention.case_id)
    train, validation, test = (frozenset(members[role]) for role in ROLES)
    return AssignedFold(fold, train, validation, test)


def _read_table(table: TextTable, to_case: Callable[[str], str]) -> list[_Mention]:
    if not {"case_id", "fold"} <= set(table.columns):
        wrong = table.remedy(("case_id", "fold")) or (
            f"the columns are {table.column_list()}; splits.files must be a table with the columns case_id, fold and, "
            "if wanted, role, or a folder of splits_<k>.csv"
        )
        raise CohortError([f"{table.path}: {wrong}"])
    has_roles = "role" in table.columns
    mentions, problems = [], []
    for row in table.rows:
        try:
            mentions.append(_mention(row, has_roles, to_case))
        except ValueError as error:
            problems.append(f"{table.path}: row {row.number}: {error}")
    problems = _first_few(problems)
    if has_roles:
        problems += _contradictions(mentions, table.path, lambda mention: (mention.fold, mention.role))
    else:
        problems += _contradictions(mentions, table.path, lambda mention: (None, mention.fold))
    if problems:
        raise CohortError(problems)
    return mentions if has_roles else [*mentions, *_training_elsewhere(mentions)]


def _mention(row: Row, has_roles: bool, to_case: Callable[[str], str]) -> _Mention:
    """Raises ValueError with what is wrong, what is allowed, what to do."""
    if row.flaw:
        raise ValueError(f"{row.flaw}; correct it")
    case, fold = row.cells["case_id"], row.cells["fold"]
    if not case:
        raise ValueError("case_id is empty; a case id is needed; correct it or remove the row")
    if not re.fullmatch(r"\d+(\.0*)?", fold):
        raise ValueError(f"fold is {fold or 'empty'}; allowed: whole numbers from 0; correct it")
    number = int(float(fold))
    if not has_roles:
        return _Mention(to_case(case), number, "test", f"fold {number} (row {row.number})")
    role = row.cells["role"]
    if role not in ROLES:
        raise ValueError(
            f"role is {role or 'empty'}{nearest(role, ROLES)}; allowed: {', '.join(ROLES)}; correct it"
        )
    return _Mention(to_case(case), number, role, f"{role} (row {row.number})", f" of fold {number}")


def _training_elsewhere(mentions: Sequence[_Mention]) -> list[_Mention]:
    folds = {mention.fold for mention in mentions}
    return [
        _Mention(mention.case_id, fold, "train", mention.where)
        for mention in mentions
        for fold in folds - {mention.fold}
    ]


def _read_folder(folder: Path, to_case: Callable[[str], str]) -> list[_Mention]:
    files = {int(match[1]): file for file in folder.iterdir() if (match := _FOLDER_FILE.fullmatch(file.name))}
    if not files:
        raise CohortError(
            [f"{folder}: no file here is named splits_<k>.csv, such as splits_0.csv; correct splits.files"]
        )
    mentions, problems = [], []
    for fold, file in sorted(files.items()):
        table = read_text_table(file)
        roles = {"train": "train", "val": "test"}
        if "test" in table.columns:
            roles = {"train": "train", "val": "validation", "test": "test"}
        if not set(roles) <= set(table.columns):
            problems.append(
                f"{file}: the columns are {table.column_list()}; train and val are needed, test is allowed; "
                "correct the file"
            )
            continue
        problems += [f"{file}: row {row.number}: {row.flaw}; correct it" for row in table.rows if row.flaw]
        for column, role in roles.items():
            for row in table.rows:
                value = row.cells.get(column, "")
                try:
                    if value:
                        mentions.append(_Mention(to_case(value), fold, role, column, f" of {file.name}"))
                except IdError as error:
                    problems.append(f"{file}: row {row.number}: {error}; correct the pattern or the file")
    contradictions = _contradictions(mentions, folder, lambda mention: (mention.fold, mention.role))
    if problems or contradictions:
        raise CohortError(_first_few(problems) + contradictions)
    return mentions


def _contradictions(
    mentions: Iterable[_Mention], path: Path, place: Callable[[_Mention], tuple[int | None, str | int]]
) -> list[str]:
    """A line for each case that stands on two sides within the same scope; ``place`` gives scope and side."""
    stands: dict[tuple[str, int | None], dict[str | int, _Mention]] = defaultdict(dict)
    for mention in mentions:
        scope, side = place(mention)
        stands[mention.case_id, scope].setdefault(side, mention)
    return _first_few(
        [
            f"{path}: case {case_id} stands in {' and '.join(mention.where for mention in sides.values())}"
            f"{next(iter(sides.values())).scope}; one is allowed; correct the file"
            for (case_id, _), sides in stands.items()
            if len(sides) > 1
        ]
    )


def _first_few(problems: list[str]) -> list[str]:
    more = len(problems) - SHOWN_PROBLEMS
    return problems[:SHOWN_PROBLEMS] + ([f"and {more} more such problems"] if more > 0 else [])
