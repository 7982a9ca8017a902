"""Subgroups: the cases that share a value of a column of the cohort table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from milsurv.cohort.cases import Cohort
from milsurv.errors import MilsurvError

MAX_VALUES = 10
"""A column with more distinct values is split at its median if they are numbers."""
MISSING = "missing"

Subgroups = Mapping[str, Mapping[str, Sequence[str]]]
"""Column -> value -> ids of the cases with it, in display order."""


def attributes_of(cohort: Cohort) -> dict[str, dict[str, str]]:
    """Case id -> column -> text, empty when missing."""
    return {case.case_id: case.attributes for case in cohort.cases}


def subgroups(attributes: Mapping[str, Mapping[str, str]], columns: Iterable[str]) -> Subgroups:
    """The subgroups that each of ``columns`` defines; ``attributes`` maps case id -> column -> text.

    Each value is a subgroup; cases without a value form the subgroup "missing". A numeric column with more than ten
    distinct values is split at its median over all cases. Raises `MilsurvError` when a column has more than ten
    distinct values that are not numbers.
    """
    made: dict[str, dict[str, list[str]]] = {}
    for column in columns:
        named = _named(column, {case_id: texts[column] for case_id, texts in attributes.items()})
        made[column] = {}
        for value in sorted(set(named.values()), key=_order):
            made[column][value] = [case_id for case_id, name in named.items() if name == value]
    return made


def members(rows: pd.DataFrame, groups: Subgroups) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Column, value and rows (by ``case_id``) of each subgroup that has any."""
    for column, values in groups.items():
        for value, ids in values.items():
            of_group = rows[rows["case_id"].isin(ids)]
            if len(of_group):
                yield column, value, of_group


def numbers(texts: Mapping[str, str]) -> dict[str, float] | None:
    """Case id -> number, without empty cells; None when a cell is not a finite number."""
    try:
        found = {case_id: float(text.replace("_", "?")) for case_id, text in texts.items() if text}
    except ValueError:
        return None
    return found if all(map(math.isfinite, found.values())) else None


def _named(column: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Case id -> name of its subgroup."""
    values = {text for text in texts.values() if text}
    if len(values) <= MAX_VALUES:
        return {case_id: text or MISSING for case_id, text in texts.items()}
    known = numbers(texts)
    if known is None:
        raise MilsurvError(
            f"evaluation.subgroups: column {column!r} has {len(values)} distinct values; allowed: at most "
            f"{MAX_VALUES}, or numbers, which are split at their median; merge values in the table or remove the column"
        )
    cut = float(np.median(list(known.values())))
    if cut == max(known.values()):
        low, high, is_low = f"< {cut:g}", f"≥ {cut:g}", cut.__gt__
    else:
        low, high, is_low = f"≤ {cut:g}", f"> {cut:g}", cut.__ge__
    halves = {case_id: low if is_low(number) else high for case_id, number in known.items()}
    return {case_id: halves.get(case_id, MISSING) for case_id in texts}


def _order(value: str) -> tuple[bool, bool, float, str]:
    """Sort key: numbers, then words, then missing; ≤ before >."""
    known = numbers({"": value})
    upper = value[:1] in ">≥"
    return value == MISSING, not known, known[""] if known else float(upper), value
