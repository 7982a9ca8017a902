"""Ids of cases that a spreadsheet has changed, or that differ in letters and spaces alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from milsurv.cohort.ids import shorten

_BY_SPREADSHEET = re.compile(
    r"\d(\.\d+)?e\+\d+|\d{1,2}[-./](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*|"
    r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-./]\d{2,4}|#+",
    re.IGNORECASE,
)
_NO_PATIENT = re.compile(r"(grand )?totals?|sum|mean|average|median|count|subtotal", re.IGNORECASE)


def id_doubts(case_ids: Sequence[str]) -> Iterator[str]:
    """What is odd about the distinct ids of a cohort's cases."""
    if changed := [case_id for case_id in case_ids if _BY_SPREADSHEET.fullmatch(case_id)]:
        yield (
            f"{len(changed)} case ids look changed by a spreadsheet into numbers or dates ({shorten(changed)}); export "
            "the table again with the ids as text"
        )
    if all(re.fullmatch(r"\d+\.0", case_id) for case_id in case_ids):
        yield (
            f"every case id ends with .0 ({shorten(case_ids)}): a program read the ids as numbers; write them as text"
        )
    if sums := [case_id for case_id in case_ids if _NO_PATIENT.fullmatch(case_id)]:
        yield f"case {shorten(sums)} is named like a row of totals; remove the row if it is no patient"
    alike = [ids for ids in by_likeness(case_ids).values() if len(ids) > 1]
    if alike:
        yield (
            f"{len(alike)} groups of case ids differ in capital letters, spaces or leading zeros alone "
            f"({shorten([' and '.join(map(repr, ids)) for ids in alike])}) and count as different cases; if they are "
            "one patient, write them alike"
        )


def by_likeness(ids: Iterable[str]) -> dict[str, list[str]]:
    """What is left of ids without capitals, spaces and leading zeros -> the ids of which that is left."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in ids:
        found[_bare(name)].append(name)
    return found


def _bare(name: str) -> str:
    letters = "".join(sign for sign in name.casefold() if sign.isprintable() and not sign.isspace())
    return re.sub(r"(?<!\d)0+(?=\d)", "", letters)
