"""The event column: what its values mean, and what to write in the configuration when that is not plain."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from milsurv.cohort.text_table import Row, TextTable
from milsurv.config.cohort import TableCohort, plain, yaml_list

SHOWN_VALUES = 8
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
    says_censored: bool
    """Whether it stands under ``censorship``."""
    time: str
    """The column of times."""
    configured: bool
    """Whether ``cohort.event_values`` says what the values mean."""
    meanings: Mapping[str, int]
    """Plain value -> 1 observed, 0 censored."""

    @classmethod
    def of(cls, config: TableCohort) -> EventColumn:
        """The column that the configuration names."""
        columns, values = config.columns, config.event_values
        name = columns.event or columns.censorship or "event"
        says_censored = columns.event is None
        one = 0 if says_censored else 1
        meanings = {"1": one, "true": one, "0": 1 - one, "false": 1 - one}
        if values is not None:
            meanings = {plain(value): 1 for value in values.observed}
            meanings |= {plain(value): 0 for value in values.censored}
        return cls(name, says_censored, columns.time, values is not None, meanings)

    def read(self, row: Row) -> int | None:
        """1 observed, 0 censored; None when the cell is empty or its value has no meaning."""
        return self.meanings.get(plain(row.cells.get(self.name, "")))

    @cached_property
    def allowed(self) -> str:
        """The values that have a meaning."""
        if self.configured:
            return f"the values in cohort.event_values: {', '.join(self.meanings)}"
        one, zero = ("censored", "event observed") if self.says_censored else ("event observed", "censored")
        return f"1 ({one}) or 0 ({zero}), also 1.0, 0.0, true, false"

    def problems(self, table: TextTable) -> list[str]:
        """One line when values have no meaning.

        No setting leaves such rows out: they are all the rows of one value, such as all the deaths.
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
        shown = ", ".join(_counted(value, rows[value]) for value in values[:SHOWN_VALUES])
        if extra := [
            number for value in unknown for number in rows[value] if number in self._no_cases(table)
        ]:
            return [
                f"{table.path}: column {self.name} holds {shown}; row {', '.join(map(str, extra))} looks like a second "
                "header or a row of units: remove it"
            ]
        more = f", and {len(rows) - SHOWN_VALUES} other values" if len(rows) > SHOWN_VALUES else ""
        return [
            f"{table.path}: column {self.name} holds {shown}{more}; allowed: {self.allowed}; "
            f"{self._remedy(values, unknown)}"
        ]

    def _no_cases(self, table: TextTable) -> set[int]:
        """Rows with words in place of a time."""
        times = {row.number: row.cells.get(self.time, "") for row in table.rows}
        return {number for number, time in times.items() if time and not re.search(r"\d", time)}

    def _remedy(self, values: list[str], unknown: list[str]) -> str:
        role = "censorship" if self.says_censored else "event"
        if len(values) > SHOWN_VALUES:
            return f"name the right column in cohort.columns.{role}"
        if self.configured:
            return f"name {', '.join(map(repr, unknown))} in cohort.event_values too, or correct the table"
        observed, censored = self._proposal(values)
        if not observed or not censored:
            return (
                f"if {', '.join(map(repr, unknown))} is a mistake, correct it (an empty cell says that nothing is "
                f"known); else say what each value means: cohort.event_values: {{observed: {yaml_list(observed)}, "
                f"censored: {yaml_list(censored)}}}"
            )
        rest = [value for value in values if value not in observed + censored]
        others = f", and {', '.join(map(repr, rest))} in one of them, or emptied in the table" if rest else ""
        competing = (
            "; a competing event ends follow-up as censoring does" if "2" in map(plain, censored) else ""
        )
        return (
            f"say what they mean, if this is right: cohort.event_values: {{observed: {yaml_list(observed)}, "
            f"censored: {yaml_list(censored)}}}{others}{competing}"
        )

    def _proposal(self, values: Iterable[str]) -> tuple[list[str], list[str]]:
        """The values that probably stand for an observed event, and for a censored case."""
        flipped = self.says_censored or names_censoring(self.name)
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

    def doubt(self) -> str | None:
        """A line when the column's name says the opposite of its role."""
        if self.configured:
            return None
        if not self.says_censored and names_censoring(self.name):
            return (
                f"cohort.columns.event is {self.name}, a name that says who is censored or alive, and 1 is read as an "
                f"observed event; if 1 means censored there, write cohort.columns.censorship: {self.name} instead"
            )
        if self.says_censored and names_event(self.name):
            return (
                f"cohort.columns.censorship is {self.name}, a name that says who had an event, and 1 is read as "
                f"censored; if 1 means an event there, write cohort.columns.event: {self.name} instead"
            )
        return None


def names_censoring(name: str) -> bool:
    """Whether a column's name says who is censored or alive."""
    name = name.casefold()
    return bool(_CENSORING_NAME.search(name)) and ("cens" in name or not _EVENT_NAME.search(name))


def names_event(name: str) -> bool:
    """Whether a column's name says who had an event."""
    return bool(_EVENT_NAME.search(name.casefold())) and not names_censoring(name)


def _in_words(value: str) -> int | None:
    """What a plain value such as ``1:deceased`` or ``no event`` probably means."""
    if code := re.match(r"([01])\s*[:=]", value):
        return int(code[1])
    observed, censored = _OBSERVED.search(value), _CENSORED.search(value) or "free" in value
    if bool(observed) == bool(censored):
        return 0 if "free" in value else None
    return int(bool(observed)) ^ bool(_NEGATED.search(value))


def _counted(value: str, rows: list[int]) -> str:
    return f"{value!r} ({len(rows)} rows)" if len(rows) > 1 else f"{value!r} (row {rows[0]})"
