"""Cases, their slides, and the splits of a cohort."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MPP_RANGE = (0.05, 20.0)
"""µm per level-0 pixel; values outside are another quantity or in another unit."""
ALLOWED_MPP = f"{MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} µm per pixel"


def is_valid_mpp(mpp: float) -> bool:
    """Whether ``mpp`` (µm per level-0 pixel) is plausible; False for NaN."""
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def parse_mpp(text: str) -> float | None:
    """µm per level-0 pixel in a table cell; None if the cell is empty. Raises ValueError if invalid."""
    try:
        mpp = float(text) if text else None
    except ValueError:
        mpp = float("nan")
    if mpp is not None and not is_valid_mpp(mpp):
        raise ValueError(f"{text!r} is not a valid µm/px; allowed: {ALLOWED_MPP}, or empty")
    return mpp


@dataclass(frozen=True)
class SlideRef:
    """A slide of the cohort table. ``path`` is None if it does not have exactly one file; ``reason`` says why."""

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
    """Known only for synthetic cohorts."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Column -> text, empty if missing, of the table columns that the evaluation uses."""


@dataclass(frozen=True)
class Cohort:
    """Cases in the order of the table, and what was excluded from it."""

    cases: tuple[Case, ...]
    time_unit: str
    endpoint: str
    synthetic: bool = False
    dropped: tuple[str, ...] = ()
    """A line for each row or case excluded under ``on_invalid: drop``."""
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """A line for each column in use with missing values: their number, and the words of the table that mark them."""


@dataclass(frozen=True)
class Split:
    """Case ids of one fold, sorted. ``validation`` selects the epoch, ``test`` is evaluated; the three are disjoint."""

    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    """Empty until validation cases have been assigned."""
    test: tuple[str, ...]

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Role (train, validation, test) -> its case ids."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
