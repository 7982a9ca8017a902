"""The µm per level-0 pixel of a slide: as given, else from the slide's properties, else from its objective power."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import openslide

from milsurv.cohort.cases import ALLOWED_MPP, is_valid_mpp
from milsurv.errors import ResolutionError

MppSource = Literal["table", "properties", "objective power"]
"""``table`` is any value that the user gave, in the cohort table or on the command line."""
SQUARE_PIXEL_TOLERANCE = 0.05
GIVEN_TOLERANCE = 0.1
"""Share by which a given µm/px may differ from the slide's own before the difference is told."""
CONTRADICTION = 2.5
"""Factor between µm/px and objective power beyond which one of them is doubted; adapters and doublers stay below."""
UM_OF_POWER = 10.0
"""µm/px times objective power: 20x stands for 0.5 µm/px."""


@dataclass(frozen=True)
class Resolution:
    """µm per level-0 pixel, where it comes from, and what speaks against it."""

    mpp: float
    source: MppSource
    doubts: tuple[str, ...] = ()


def find_resolution(properties: Mapping[str, str], given: float | None) -> Resolution:
    """The resolution of a slide with ``properties`` under OpenSlide's names; ``given`` µm/px win over them.

    An objective power of 20 stands for 0.5 µm/px. A property that is empty or 0 counts as missing. Raises
    ResolutionError when the value is out of bounds or no number, pixels are not square, or nothing is known.
    """
    if given is not None:
        if not is_valid_mpp(given):
            raise ResolutionError(f"{given:g} µm/px is given; allowed are {ALLOWED_MPP}", "correct it")
        return Resolution(given, "table", _differs_from_own(properties, given))
    own = _own(properties)
    if own is None:
        raise ResolutionError("unknown resolution: the slide gives neither µm/px nor objective power")
    return own


def _own(properties: Mapping[str, str]) -> Resolution | None:
    """What the slide says; None when that is nothing."""
    mpp_x = _number(properties, openslide.PROPERTY_NAME_MPP_X)
    mpp_y = _number(properties, openslide.PROPERTY_NAME_MPP_Y)
    power = _number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    if mpp_x is not None and mpp_y is not None:
        for mpp in (mpp_x, mpp_y):
            _require_possible(mpp, f"its properties say {mpp:g} µm/px")
        if abs(mpp_x / mpp_y - 1) > SQUARE_PIXEL_TOLERANCE:
            raise ResolutionError(f"its pixels are not square ({mpp_x:g} × {mpp_y:g} µm)")
        mpp = (mpp_x + mpp_y) / 2
        return Resolution(mpp, "properties", _contradicts_power(mpp, power))
    if power is not None:
        mpp = UM_OF_POWER / power
        _require_possible(mpp, f"its objective power, {power:g}x, stands for {mpp:g} µm/px")
        return Resolution(mpp, "objective power")
    return None


def _require_possible(mpp: float, said: str) -> None:
    if not is_valid_mpp(mpp):
        raise ResolutionError(f"impossible resolution: {said}; allowed are {ALLOWED_MPP}")


def _contradicts_power(mpp: float, power: float | None) -> tuple[str, ...]:
    if power is None or not math.isfinite(power) or power < 0:
        return ()
    expected = UM_OF_POWER / power
    if 1 / CONTRADICTION <= mpp / expected <= CONTRADICTION:
        return ()
    return (
        f"its properties say {mpp:.4g} µm/px, which is used, and an objective power of {power:g}x, which stands for "
        f"about {expected:.3g}: check which is right",
    )


def _differs_from_own(properties: Mapping[str, str], given: float) -> tuple[str, ...]:
    try:
        own = _own(properties)
    except ResolutionError:
        return ()
    if own is None or abs(given / own.mpp - 1) <= GIVEN_TOLERANCE:
        return ()
    if own.source == "objective power" and 1 / CONTRADICTION <= given / own.mpp <= CONTRADICTION:
        return ()
    return (f"{given:.4g} µm/px is given and used; by the slide's {own.source} it is {own.mpp:.4g}",)


def _number(properties: Mapping[str, str], name: str) -> float | None:
    """A property as a number, with a decimal point or comma; None when it is missing, empty or 0."""
    text = properties.get(name, "").strip().replace(",", ".")
    try:
        return float(text or 0) or None
    except ValueError:
        raise ResolutionError(
            f"unknown resolution: its property {name} is {text[:40]!r}, no number"
        ) from None
