"""The resolution of a slide: as given, or from its properties, or from its objective power."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import openslide

from milsurv.cohort.cases import ALLOWED_MPP, is_valid_mpp
from milsurv.errors import ResolutionError

MppSource = Literal["table", "properties", "objective power"]
"""``table`` is a value given by the user, in the cohort table or on the command line."""
SQUARE_PIXEL_TOLERANCE = 0.05
GIVEN_TOLERANCE = 0.1
"""Relative difference between a given µm/px and the slide's own that is warned about."""
CONTRADICTION = 2.5
"""Factor between µm/px and objective power that is warned about; adapters and doublers are below it."""
UM_OF_POWER = 10.0
"""µm/px times objective power: 20x is 0.5 µm/px."""


@dataclass(frozen=True)
class Resolution:
    """µm per level-0 pixel, its source, and warnings about it."""

    mpp: float
    source: MppSource
    warnings: tuple[str, ...] = ()


def find_resolution(properties: Mapping[str, str], given: float | None) -> Resolution:
    """The resolution of a slide with OpenSlide's ``properties``; ``given`` µm/px take precedence.

    An objective power of 20 is 0.5 µm/px. A property that is empty or 0 counts as missing. Raises ResolutionError if
    the value is out of bounds or not a number, if pixels are not square, or if the resolution is unknown.
    """
    if given is not None:
        if not is_valid_mpp(given):
            raise ResolutionError(
                f"invalid resolution: {given:g} µm/px is given; allowed: {ALLOWED_MPP}", "correct it"
            )
        return Resolution(given, "table", _differs_from_own(properties, given))
    own = _own(properties)
    if own is None:
        raise ResolutionError("unknown resolution: the slide has neither µm/px nor objective power")
    return own


def _own(properties: Mapping[str, str]) -> Resolution | None:
    """The resolution in the slide's properties; None if there is none."""
    mpp_x = _number(properties, openslide.PROPERTY_NAME_MPP_X)
    mpp_y = _number(properties, openslide.PROPERTY_NAME_MPP_Y)
    power = _number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    if mpp_x is not None and mpp_y is not None:
        for mpp in (mpp_x, mpp_y):
            _require_valid(mpp, f"{mpp:g} µm/px in its properties")
        if abs(mpp_x / mpp_y - 1) > SQUARE_PIXEL_TOLERANCE:
            raise ResolutionError(f"its pixels are not square ({mpp_x:g} × {mpp_y:g} µm)")
        mpp = (mpp_x + mpp_y) / 2
        return Resolution(mpp, "properties", _contradicts_power(mpp, power))
    if power is not None:
        mpp = UM_OF_POWER / power
        _require_valid(mpp, f"{mpp:g} µm/px by its objective power of {power:g}x")
        return Resolution(mpp, "objective power")
    return None


def _require_valid(mpp: float, description: str) -> None:
    if not is_valid_mpp(mpp):
        raise ResolutionError(f"invalid resolution: {description}; allowed: {ALLOWED_MPP}")


def _contradicts_power(mpp: float, power: float | None) -> tuple[str, ...]:
    if power is None or not math.isfinite(power) or power < 0:
        return ()
    expected = UM_OF_POWER / power
    if 1 / CONTRADICTION <= mpp / expected <= CONTRADICTION:
        return ()
    return (
        f"its properties contain {mpp:.4g} µm/px, which is used, but its objective power of {power:g}x corresponds to "
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
    return (f"the given {given:.4g} µm/px is used, but it is {own.mpp:.4g} by the slide's {own.source}",)


def _number(properties: Mapping[str, str], name: str) -> float | None:
    """A property as a number, with a decimal point or comma; None if it is missing, empty or 0."""
    text = properties.get(name, "").strip().replace(",", ".")
    try:
        return float(text or 0) or None
    except ValueError:
        raise ResolutionError(
            f"unknown resolution: its property {name} is {text[:40]!r}, not a number"
        ) from None
