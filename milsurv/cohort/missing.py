"""The words that stand for a missing value, one list for every table, and how often each was met."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from milsurv.cohort.text_table import USUAL_MISSING, TextTable
from milsurv.config.cohort import TableCohort, plain, yaml_list

AMBIGUOUS = ("none", "-")
"""Missing to one program, and a value to another: no treatment, a negative receptor."""
_LOOKS_MISSING = re.compile(r"\[.*\]|[^\w+]+|(unknown|missing|not (available|reported|known|evaluated))\b.*")


def missing_words(config: TableCohort) -> frozenset[str]:
    """The words of the cohort table that are read as empty, in small letters."""
    also, never = ({plain(word) for word in words} for words in (config.also_missing, config.not_missing))
    return (USUAL_MISSING | also) - never


def missing_told(table: TextTable, columns: Sequence[str]) -> tuple[str, ...]:
    """A line for each of ``columns`` with missing values: in how many rows, and which words say so."""
    rows = [row for row in table.rows if not row.flaw]
    lines = []
    for column in columns:
        words = Counter(row.missing.get(column, "") for row in rows if not row.cells[column])
        if words:
            told = ", ".join(
                f"{repr(word) if word else 'empty'} {count}" for word, count in words.most_common()
            )
            lines.append(f"{column}: missing in {words.total()} of {len(rows)} rows ({told})")
    return tuple(lines)


def missing_doubts(table: TextTable, attributes: Sequence[str]) -> Iterator[str]:
    """Words of clinical columns that may be values though they count as missing, or the other way round."""
    for column in attributes:
        words = Counter(row.missing[column] for row in table.rows if column in row.missing)
        values = Counter(row.cells[column] for row in table.rows if not row.flaw)
        yield from (
            f"column {column}: {word!r} counts as missing in {count} rows; if it is a value there, list it in "
            f"cohort.not_missing: {yaml_list([word])}"
            for word, count in words.items()
            if word.casefold() in AMBIGUOUS
        )
        yield from (
            f"column {column}: {word!r} counts as a value in {count} rows; if it stands for a missing one, list it in "
            f"cohort.also_missing: {yaml_list([word])}"
            for word, count in values.items()
            if _LOOKS_MISSING.fullmatch(word.casefold())
        )
