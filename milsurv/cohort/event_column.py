"""The event column: what its values mean, and what to configure when that is unclear."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from milsurv.cohort.text_table import Row, TextTable
from milsurv.config.cohort import TableCohort, plain, yaml_list

MAX_VALUES = 8
_OBSERVED = re.compile(r"dead|deceased|died|death|event|observed|progress|recur|relaps|metasta|fail|uncens")
_CENSORED = re.compile(r"alive|living|lived|(?<!un)cens|lost")
_NEGATED = re.compile(r"\b(no|not|without)\b")
_YES, _NO = ("yes", "y", "true", "t"), ("no", "n", "false", "f")
_CENSORING_NAME = re.compile(r"(?<!un)(?<!un_)(?<!not)(?<!not_)(?<!non)(?<!non_)cens|alive|living|surviv")
_EVENT_NAME = re.compile(
    r"event|dead|death|deceas|died|mortal|status|relaps|recur|progress|fail|observ|(un|not|non)_?cens"
)


@dataclass(frozen=True)
class EventColumn:
    """Reads the column under ``cohort.columns.event`` or ``censorship``."""

    name: str
    is_censorship: bool
    """Whether it is configured under ``censorship``."""
    time: str
    """The column of times."""
    configured: bool
    """Whether ``cohort.event_values`` gives the meaning of the values."""
    meanings: Mapping[str, int]
    """Value in its `plain` form -> 1 observed, 0 censored."""

    @classmethod
    def from_config(cls, config: TableCohort) -> EventColumn:
        """The column that the configuration names."""
        columns, values = config.columns, config.event_values
        name = columns.event or columns.censorship or "event"
        is_censorship = columns.event is None
        one = 0 if is_censorship else 1
        meanings = {"1": one, "true": one, "0": 1 - one, "false": 1 - one}
        if values is not None:
            meanings = {plain(value): 1 for value in values.observed}
            meanings |= {plain(value): 0 for value in values.censored}
        return cls(name, is_censorship, columns.time, values is not None, meanings)

    def read(self, row: Row) -> int | None:
        """1 observed, 0 censored; None if the cell is empty or its value has no meaning."""
        return self.meanings.get(plain(row.cells.get(self.name, "")))

    @cached_property
    def allowed(self) -> str:
        """The values with a meaning, for messages."""
        if self.configured:
            return f"the values in cohort.event_values: {', '.join(self.meanings)}"
        one, zero = ("censored", "event observed") if self.is_censorship else ("event observed", "censored")
        return f"1 ({one}) or 0 ({zero}), also 1.0, 0.0, true, false"

    def problems(self, table: TextTable) -> list[str]:
        """One error if values have no meaning.

        Such rows cannot be excluded: they are all rows of one value, such as all deaths.
        """
        rows: dict[str, list[int]] = defaultdict(list)
        written: dict[str, str] = {}
        for row in table.rows:
            if value := row.cells.get(self.name):
                rows[written.setdefault(plain(value), value)].append(row.number)
        values = sorted(rows)
        unknown = [value for value in values if plain(value) not in self.meanings]
        if not unknown:
            return []
        shown = ", ".join(_counted(value, rows[value]) for value in values[:MAX_VALUES])
        if extra := [
            number for value in unknown for number in rows[value] if number in self._rows_without_time(table)
        ]:
            return [
                f"{table.path}: column {self.name} contains {shown}; row {', '.join(map(str, extra))} looks like a "
                "second header or a row of units: remove it"
            ]
        more = f", and {len(rows) - MAX_VALUES} other values" if len(rows) > MAX_VALUES else ""
        return [
            f"{table.path}: column {self.name} contains {shown}{more}; allowed: {self.allowed}; "
            f"{self._remedy(values, unknown)}"
        ]

    def _rows_without_time(self, table: TextTable) -> set[int]:
        """Rows with words instead of a time."""
        times = {row.number: row.cells.get(self.time, "") for row in table.rows}
        return {number for number, time in times.items() if time and not re.search(r"\d", time)}

    def _remedy(self, values: list[str], unknown: list[str]) -> str:
        role = "censorship" if self.is_censorship else "event"
        if len(values) > MAX_VALUES:
            return f"set cohort.columns.{role} to the right column"
        if self.configured:
            return f"add {', '.join(map(repr, unknown))} to cohort.event_values, or correct the table"
        observed, censored = self._proposal(values)
        if not observed or not censored:
            return (
                f"if {', '.join(map(repr, unknown))} is a mistake, correct it (an empty cell means unknown); otherwise "
                f"set the meaning of each value: cohort.event_values: {{observed: {yaml_list(observed)}, "
                f"censored: {yaml_list(censored)}}}"
            )
        rest = [value for value in values if value not in observed + censored]
        others = f", with {', '.join(map(repr, rest))} in one of them, or empty in the table" if rest else ""
        competing = "; a competing event ends follow-up like censoring" if "2" in map(plain, censored) else ""
        return (
            f"if this is their meaning, set cohort.event_values: {{observed: {yaml_list(observed)}, "
            f"censored: {yaml_list(censored)}}}{others}{competing}"
        )

    def _proposal(self, values: Iterable[str]) -> tuple[list[str], list[str]]:
        """The values that probably mean an observed event, and those that mean a censored case."""
        flipped = self.is_censorship or names_censoring(self.name)
        codes = {plain(value) for value in values}
        numbers = {"1": 0, "2": 1} if codes == {"1", "2"} else {"0": 0, "1": 1, "2": 0}
        found: dict[int, list[str]] = {0: [], 1: []}
        for value in values:
            word = plain(value)
            if word in numbers or word in _YES + _NO:
                found[numbers.get(word, int(word in _YES)) ^ flipped].append(value)
            elif (meaning := _in_words(word)) is not None:
                found[meaning].append(value)
        return found[1], found[0]

    def warning(self) -> str | None:
        """A warning if the column's name suggests the opposite of its role."""
        if self.configured:
            return None
        if not self.is_censorship and names_censoring(self.name):
            return (
                f"the name of cohort.columns.event, {self.name}, suggests censored or living cases, but 1 is read as "
                f"an observed event; if 1 means censored, set cohort.columns.censorship: {self.name} instead"
            )
        if self.is_censorship and names_event(self.name):
            return (
                f"the name of cohort.columns.censorship, {self.name}, suggests cases with an event, but 1 is read as "
                f"censored; if 1 means an event, set cohort.columns.event: {self.name} instead"
            )
        return None


def names_censoring(name: str) -> bool:
    """Whether a column's name suggests that it marks censored or living cases."""
    name = name.casefold()
    return bool(_CENSORING_NAME.search(name)) and ("cens" in name or not _EVENT_NAME.search(name))


def names_event(name: str) -> bool:
    """Whether a column's name suggests that it marks cases with an event."""
    return bool(_EVENT_NAME.search(name.casefold())) and not names_censoring(name)


def _in_words(value: str) -> int | None:
    """The probable meaning of a plain value such as ``1:deceased`` or ``no event``."""
    if code := re.match(r"([01])\s*[:=]", value):
        return int(code[1])
    observed, censored = _OBSERVED.search(value), _CENSORED.search(value) or "free" in value
    if bool(observed) == bool(censored):
        return 0 if "free" in value else None
    return int(bool(observed)) ^ bool(_NEGATED.search(value))


def _counted(value: str, rows: list[int]) -> str:
    return f"{value!r} ({len(rows)} rows)" if len(rows) > 1 else f"{value!r} (row {rows[0]})"
