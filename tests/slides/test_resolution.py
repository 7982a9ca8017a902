import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milsurv.errors import ResolutionError, slide_reason
from milsurv.slides.resolution import find_resolution


def said(mpp: object = "", power: object = "", mpp_y: object = None) -> dict[str, str]:
    """Properties under OpenSlide's names."""
    return {
        "openslide.mpp-x": str(mpp),
        "openslide.mpp-y": str(mpp if mpp_y is None else mpp_y),
        "openslide.objective-power": str(power),
    }


@pytest.mark.parametrize(
    "properties",
    [
        said("0.0000025"),
        said("0.025"),
        said("250"),
        said("-0.25", power=40),
        said("nan", power=40),
        said("inf"),
        said(power=400),
        said(power=0.1),
        said(power="inf"),
    ],
)
def test_a_resolution_that_no_microscope_has_is_refused_whatever_says_it(properties: dict[str, str]) -> None:
    with pytest.raises(ResolutionError, match=r"invalid resolution.*allowed: 0\.05 to 20"):
        find_resolution(properties, None)
    assert find_resolution(properties, 0.25).mpp == 0.25


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        (said("0.25", mpp_y="0.5"), r"not square \(0\.25 × 0\.5"),
        (said("a quarter"), "'a quarter', not a number"),
        (said(), "neither µm/px nor objective power"),
        ({}, "neither µm/px nor objective power"),
        (said("0.25", mpp_y=""), "neither µm/px nor objective power"),
    ],
)
def test_a_resolution_that_cannot_be_told_is_refused(properties: dict[str, str], reason: str) -> None:
    with pytest.raises(ResolutionError, match=reason):
        find_resolution(properties, None)


def test_a_decimal_comma_is_read() -> None:
    assert find_resolution(said("0,25", power="40,0"), None).mpp == 0.25


@pytest.mark.parametrize(
    ("properties", "given_mpp", "warning"),
    [
        (said("0.25", power=40), None, None),
        (said("0.24", power=20), None, None),
        (said("2.5", power=40), None, "objective power of 40x corresponds to about 0.25"),
        (said("0.25", power=4), None, "objective power of 4x"),
        (
            said("0.25", power=40),
            0.5,
            "the given 0.5 µm/px is used, but it is 0.25 by the slide's properties",
        ),
        (said("0.25"), 0.26, None),
        (said(power=20), 0.4, None),
        (said(power=20), 4.0, "it is 0.5 by the slide's objective power"),
        (said("0.0025"), 0.25, None),
    ],
)
def test_a_contradiction_is_told(
    properties: dict[str, str], given_mpp: float | None, warning: str | None
) -> None:
    warnings = find_resolution(properties, given_mpp).warnings
    assert len(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]


@given(st.floats(), st.floats(), st.one_of(st.none(), st.floats()))
def test_whatever_is_said_a_resolution_is_possible_or_refused(
    mpp: float, power: float, given_mpp: float | None
) -> None:
    try:
        found = find_resolution(said(mpp, power), given_mpp)
    except ResolutionError:
        return
    assert 0.05 <= found.mpp <= 20
    assert given_mpp is None or math.isclose(found.mpp, given_mpp)


def test_the_advice_is_that_of_the_command() -> None:
    with pytest.raises(ResolutionError, match=r"cohort\.columns\.mpp") as raised:
        find_resolution({}, None)
    assert slide_reason(raised.value, "give --mpp").endswith("nor objective power; give --mpp")
