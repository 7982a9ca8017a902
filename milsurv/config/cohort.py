"""What a YAML file may say of the cohort: a table of follow-up, or a synthetic cohort."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    Tag,
    field_validator,
    model_validator,
)

from milsurv.config.section import AbsolutePath, Section


def with_one_group(pattern: str) -> str:
    """The pattern, if it is a regular expression with one group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"must have exactly one group in parentheses, has {groups}")
    return pattern


class Columns(Section):
    """Names of the cohort table's columns."""

    case: str = "case_id"
    slide: str | None = "slide_id"
    """None for a table with one row per case: slides are then found by ``case_pattern`` in their file names."""
    time: str = "time"
    event: str | None = None
    """1 = event observed, 0 = censored."""
    censorship: str | None = None
    """1 = censored, 0 = event observed: the other way to say it."""
    mpp: str | None = None
    """µm per level-0 pixel of the slide; wins over what the slide itself says."""

    @model_validator(mode="before")
    @classmethod
    def _event_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("event") is None and data.get("censorship") is None:
            return {**data, "event": "event"}
        return data

    @model_validator(mode="after")
    def _one_of_two(self) -> Columns:
        if self.event is not None and self.censorship is not None:
            raise ValueError("give either columns.event or columns.censorship, not both")
        return self


def _words(value: Any) -> Any:
    """Values of a table as text: YAML reads ``2`` as a number, and ``yes``, ``no`` and ``null`` as no text either."""
    if not isinstance(value, list | tuple):
        return value
    of_yaml = {True: ("true", "yes", "on"), False: ("false", "no", "off"), None: ("null",)}
    texts = [of_yaml[word] if word is None or isinstance(word, bool) else (str(word),) for word in value]
    return tuple(word.strip() for words in texts for word in words)


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class EventValues(Section):
    """What the values of the event column mean, where they are not 1 and 0."""

    observed: Words = Field(min_length=1)
    censored: Words = Field(min_length=1)

    @model_validator(mode="after")
    def _each_means_one_thing(self) -> EventValues:
        if both := sorted({plain(word) for word in self.observed} & {plain(word) for word in self.censored}):
            raise ValueError(f"{', '.join(both)} cannot be both observed and censored")
        return self


def plain(value: str) -> str:
    """A table's value as it is compared: in small letters, and numbers alike however they are written."""
    value = value.strip().casefold()
    return f"{float(value):.15g}" if re.fullmatch(r"-?\d+(\.\d*)?", value, re.ASCII) else value


def yaml_list(values: Sequence[str]) -> str:
    """Values of a table as a YAML list, for a setting that a message proposes; ``[…]`` without any."""
    quoted = [v if re.fullmatch(r"\d+", v) else "'" + v.replace("'", "''") + "'" for v in values]
    return f"[{', '.join(quoted) or '…'}]"


class TableCohort(Section):
    """A table of follow-up and a folder of slides."""

    source: Literal["table"] = "table"
    table: AbsolutePath
    """CSV, TSV or Parquet; one row per slide (or per case, see ``columns.slide``)."""
    slides: AbsolutePath | None = None
    """Folder in which slides are found by id, nested folders too; not given when features are imported."""
    columns: Columns = Columns()
    event_values: EventValues | None = None
    """What the values of the event or censorship column mean; None: 1 and 0, as the column's role says."""
    also_missing: Words = ()
    """Words that stand for a missing value in this table, besides the usual ones (see docs/cohort.md)."""
    not_missing: Words = ()
    """Usual words for a missing value that are values in this table, such as ``None`` among treatments."""
    time_unit: str = "months"
    endpoint: str = "OS"
    slide_pattern: str | None = None
    """Regular expression with one group that cuts the slide id out of a file name or table value."""
    case_pattern: str | None = None
    """Regular expression with one group that cuts the case id out of a table value, split file or file name."""
    on_invalid: Literal["error", "drop"] = "error"

    @field_validator("slide_pattern", "case_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        return None if pattern is None else with_one_group(pattern)


class SyntheticCohort(Section):
    """A made cohort with slides drawn by milsurv, whose true risk is known."""

    source: Literal["synthetic"]
    cases: int = Field(default=110, ge=20, le=100_000)
    seed: NonNegativeInt = 1


COHORT_SOURCES: dict[str, type[Section]] = {"table": TableCohort, "synthetic": SyntheticCohort}


def _cohort_source(data: Any) -> str:
    source = data.get("source", "table") if isinstance(data, dict) else getattr(data, "source", "table")
    return str(source)


Cohort = Annotated[
    Annotated[TableCohort, Tag("table")] | Annotated[SyntheticCohort, Tag("synthetic")],
    Discriminator(_cohort_source),
]
