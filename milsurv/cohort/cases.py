"""Who is studied: cases, their slides, and who stands on which side of a split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SlideRef:
    """A slide of the cohort table. ``path`` is None when there is not one file for it; ``reason`` then says so."""

    slide_id: str
    path: Path | None
    mpp: float | None = None
    """µm per level-0 pixel from the table, if it has such a column."""
    reason: str | None = None


@dataclass(frozen=True)
class Case:
    """A patient: the unit of every statistic."""

    case_id: str
    time: float
    """Follow-up in the cohort's unit, > 0."""
    event: int
    """1 observed, 0 censored."""
    slides: tuple[SlideRef, ...]
    true_risk: float | None = None
    """Known for synthetic cohorts alone."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Column of the table -> its text, empty when missing; of the columns that the evaluation asks for."""


@dataclass(frozen=True)
class Cohort:
    """Cases in the table's order, and what was left out of it."""

    cases: tuple[Case, ...]
    time_unit: str
    endpoint: str
    synthetic: bool = False
    dropped: tuple[str, ...] = ()
    """A line for each row or case left out under ``on_invalid: drop``."""
    warnings: tuple[str, ...] = ()
    """Oddities that stop nothing."""
    missing: tuple[str, ...] = ()
    """A line for each column in use with missing values: how many, and which words of the table say so."""


@dataclass(frozen=True)
class Split:
    """Case ids of one fold. ``test`` is what is reported; ``validation`` chooses the epoch; no id stands twice."""

    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        """Role -> its case ids."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
