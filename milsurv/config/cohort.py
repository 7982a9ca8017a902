"""The ``cohort`` section: a follow-up table, or a synthetic cohort."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from milsurv.config.section import AbsolutePath, Section


def with_one_group(pattern: str) -> str:
    """Return ``pattern``. Raises ValueError unless it is a regular expression with exactly one group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"must have exactly one group in parentheses, has {groups}")
    return pattern


class Columns(Section):
    """Column names of the cohort table."""

    case: str = "case_id"
    """Case (patient) id."""
    slide: str | None = "slide_id"
    """Slide id; null for a table with one row per case, whose slides are then found by applying ``case_pattern`` to the
    slide file names."""
    time: str = "time"
    """Follow-up time, in ``time_unit``."""
    event: str | None = None
    """1 = event observed, 0 = censored. Defaults to ``event`` unless ``censorship`` is given."""
    censorship: str | None = None
    """1 = censored, 0 = event observed. Give this or ``event``, not both."""
    mpp: str | None = None
    """µm per level-0 pixel; takes precedence over the slide's own metadata."""

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
    """Table values as text: YAML parses ``2`` as a number, and ``yes``, ``no`` and ``null`` as booleans and null."""
    if not isinstance(value, list | tuple):
        return value
    of_yaml = {True: ("true", "yes", "on"), False: ("false", "no", "off"), None: ("null",)}
    texts = [of_yaml[word] if word is None or isinstance(word, bool) else (str(word),) for word in value]
    return tuple(word.strip() for words in texts for word in words)


Words = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    WithJsonSchema({"type": "array", "items": {"type": ["string", "number", "boolean", "null"]}}),
]


class EventValues(Section):
    """Meaning of the values in the event or censorship column, if they are not 1 and 0."""

    observed: Words = Field(min_length=1)
    """Values that mean: event observed."""
    censored: Words = Field(min_length=1)
    """Values that mean: censored."""

    @model_validator(mode="after")
    def _each_means_one_thing(self) -> EventValues:
        if both := sorted({plain(word) for word in self.observed} & {plain(word) for word in self.censored}):
            raise ValueError(f"{', '.join(both)} cannot be both observed and censored")
        return self


def plain(value: str) -> str:
    """A table value normalised for comparison: case-folded, and numbers in one notation."""
    value = value.strip().casefold()
    return f"{float(value):.15g}" if re.fullmatch(r"-?\d+(\.\d*)?", value, re.ASCII) else value


def yaml_list(values: Sequence[str]) -> str:
    """Table values as a YAML list, for a setting suggested in an error message; ``[…]`` if there are none."""
    quoted = [v if re.fullmatch(r"\d+", v) else "'" + v.replace("'", "''") + "'" for v in values]
    return f"[{', '.join(quoted) or '…'}]"


class TableCohort(Section):
    """A follow-up table and a folder of slides."""

    synthetic: ClassVar = False
    source: Literal["table"] = "table"
    """Read the cohort from a table."""
    table: AbsolutePath
    """CSV, TSV or Parquet file with one row per slide (or per case, see ``columns.slide``)."""
    slides: AbsolutePath | None = None
    """Folder that is searched recursively for the slides. Leave it out if features are imported."""
    columns: Columns = Columns()
    """Column names of the table."""
    event_values: EventValues | None = None
    """Meaning of the values in the event or censorship column; by default 1 and 0."""
    also_missing: Words = ()
    """Additional markers of a missing value in this table (the default ones are listed in docs/cohort.md)."""
    not_missing: Words = ()
    """Default markers of a missing value that are real values in this table, such as ``None`` for a treatment."""
    time_unit: str = "months"
    """Unit of the follow-up times; used as a label."""
    endpoint: str = "OS"
    """Name of the endpoint, such as OS, DSS or PFI; used as a label."""
    slide_pattern: str | None = None
    """Regular expression with one group that extracts the slide id from a file name or table value."""
    case_pattern: str | None = None
    """Regular expression with one group that extracts the case id from a table value, split file or file name."""
    on_invalid: Literal["error", "drop"] = "error"
    """How to handle invalid rows: reject the table, or drop, count and list them."""

    @field_validator("slide_pattern", "case_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        return None if pattern is None else with_one_group(pattern)

    def __str__(self) -> str:
        return str(self.table) if self.slides is None else f"{self.table}, slides in {self.slides}"


Scenario = Literal["rare", "joint", "spatial", "site"]
PATCHES = 2000
"""Patches of a slide of a scenario, unless configured."""


class SyntheticCohort(Section):
    """A simulated cohort with slides drawn by milsurv. The true risk of each case is known."""

    synthetic: ClassVar = True
    columns: ClassVar = Columns()
    slide_pattern: ClassVar = None
    case_pattern: ClassVar = None
    source: Literal["synthetic"]
    """Simulate the cohort."""
    cases: int = Field(default=110, ge=20, le=100_000)
    """Number of cases."""
    seed: NonNegativeInt = 1
    """Seed of the simulation."""
    scenario: Scenario | None = None
    """What determines the risk: a focus in few patches (``rare``), cells in ordered glands (``joint``), neighbouring
    patches (``spatial``), or cells, with a look of each site (``site``). Slides are arrangements of patches that were
    drawn once. Null: the average of the whole slide; every slide is drawn."""
    patches: int | None = Field(default=None, ge=256, le=100_000)
    """With ``scenario``: patches of a slide at the finest magnification, in blocks within one patch of the coarsest;
    2000 by default."""

    @model_validator(mode="before")
    @classmethod
    def _default_patches(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("scenario") is not None and data.get("patches") is None:
            return {**data, "patches": PATCHES}
        return data

    @model_validator(mode="after")
    def _patches_of_scenario(self) -> SyntheticCohort:
        if self.scenario is None and self.patches is not None:
            raise ValueError("patches applies only to a scenario; remove it, or give a scenario")
        return self

    def __str__(self) -> str:
        scenario = (
            "" if self.scenario is None else f" of scenario {self.scenario}, {self.patches} patches each"
        )
        return f"synthetic: {self.cases} simulated cases{scenario}, seed {self.seed}"


COHORT_SOURCES: dict[str, type[Section]] = {"table": TableCohort, "synthetic": SyntheticCohort}


def _cohort_source(data: Any) -> str:
    source = data.get("source", "table") if isinstance(data, dict) else getattr(data, "source", "table")
    return str(source)


Cohort = Annotated[
    Annotated[TableCohort, Tag("table")] | Annotated[SyntheticCohort, Tag("synthetic")],
    Discriminator(_cohort_source),
]
