from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.explain.pictures import (
    COLOUR_MAP,
    OPACITY,
    ColourRange,
    attention_picture,
    data_uri,
    drawn_grid,
    nearly_uniform,
    relative_attention,
    scale_bar,
    tissue_picture,
)
from milsurv.explain.views import SlideView
from milsurv.report.wording import describe_attention

GREY = 200


def view_of(
    weights: list[float],
    coords: list[tuple[int, int]],
    side: float = 200.0,
    downsample: float = 10.0,
    mpp: float = 0.5,
    width: int = 100,
) -> SlideView:
    """A grey slide, 20x patches of ``side`` level-0 pixels, and one 10x patch of twice that."""
    return SlideView(
        slide_id="A-1",
        case_id="A",
        label="",
        thumbnail=np.full((80, width, 3), GREY, np.uint8),
        downsample=downsample,
        mpp=mpp,
        outlines=[np.array([[300, 300], [700, 300], [700, 600], [300, 600]])],
        coords={20: np.array(coords), 10: np.array([[0, 0]])},
        patch_level0={20: side, 10: 2 * side},
        attention={20: np.array(weights)},
    )


def shade(share: float) -> NDArray[np.float64]:
    return 255 * ((1 - OPACITY) * GREY / 255 + OPACITY * np.array(COLOUR_MAP(share)[:3]))


def test_attention_is_coloured_where_its_patch_lies() -> None:
    view = view_of([0.25, 0.75], [(0, 0), (400, 200)])
    colours = ColourRange(0.5, 1.5, False)
    picture = attention_picture(view, 20, colours)
    expected = np.full((80, 100, 3), float(GREY))
    expected[0:20, 0:20] = shade(0.0)
    expected[20:40, 40:60] = shade(1.0)
    np.testing.assert_allclose(picture, expected, atol=0.51)


def test_a_patch_over_the_edge_is_cut_off() -> None:
    view = view_of([1.0], [(900, 700)])
    picture = attention_picture(view, 20, ColourRange(0.0, 2.0, False))
    assert (picture[70:, 90:] != GREY).any(axis=2).all()
    assert (picture[:70] == GREY).all()
    assert (picture[:, :90] == GREY).all()


def test_neighbours_leave_no_gap() -> None:
    side = 33.3
    view = view_of([1 / 20] * 20, [(round(i * side), 0) for i in range(20)], side=side)
    picture = attention_picture(view, 20, ColourRange(0.0, 2.0, False))
    assert (picture[:3, :66] != GREY).any(axis=2).all()


def test_the_highest_attention_does_not_hide_the_rest() -> None:
    weights = np.append(np.linspace(0.5, 1.5, 999), 5000.0)
    colours = ColourRange.of(relative_attention(weights / weights.sum()))
    assert colours.clipped
    assert (colours.low, colours.high) == (0.0, 2.0) or colours.high < 3


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=300))
def test_the_colour_range_holds_uniform_and_nearly_all_patches(values: list[float]) -> None:
    weights = np.array(values) / np.sum(values)
    relative = relative_attention(weights)
    colours = ColourRange.of(relative)
    assert relative.mean() == pytest.approx(1)
    assert colours.low <= relative.min()
    assert colours.low <= 0.5
    assert colours.high >= 2
    assert np.mean(relative > colours.high) <= 0.01
    assert colours.clipped == (relative.max() > colours.high)


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=200))
def test_attention_within_a_tenth_of_uniform_looks_uniform(values: list[float]) -> None:
    relative = np.array(values)
    picture = attention_picture(
        view_of((relative / len(relative)).tolist(), [(200 * i, 0) for i in range(len(values))], width=600),
        20,
        ColourRange.of(relative),
    )
    drawn = picture[:20, : 20 * min(len(values), 30)].reshape(-1, 3).astype(int)
    ends = np.abs(shade(0.0) - shade(1.0)).max()
    assert np.abs(drawn.max(axis=0) - drawn.min(axis=0)).max() < 0.25 * ends
    assert nearly_uniform(relative)


@pytest.mark.parametrize("values", [[1.0, 0.89], [1.0, 1.12], [0.2, 1.8], [0.0, 2.0]])
def test_attention_that_varies_is_not_called_uniform(values: list[float]) -> None:
    assert not nearly_uniform(np.array(values))
    view = view_of([value / 2 for value in values], [(0, 0), (200, 0)])
    colours = ColourRange.of(np.array(values))
    assert "niform, so" not in describe_attention(view, 20, colours)
    assert describe_attention(view_of([0.49, 0.51], [(0, 0), (200, 0)]), 20, colours).startswith(
        "Nearly uniform"
    )


def test_ranges_of_attention() -> None:
    for values, low, high in (([1.0], 0.5, 2.0), ([0.1, 1.9], 0.1, 2.0), ([0.6, 0.6, 3.0], 0.5, 3.0)):
        colours = ColourRange.of(np.array(values))
        assert (colours.low, colours.high, colours.clipped) == (low, high, False)


def test_the_outline_and_the_grid_are_drawn_on_a_copy() -> None:
    view = view_of([1.0], [(0, 0)])
    picture = tissue_picture(view)
    assert picture[30, 50].tolist() == [0, 0, 0]
    assert picture[20, 10].tolist() == [0, 60, 200]
    assert picture[75, 95].tolist() == [GREY] * 3
    assert (view.thumbnail == GREY).all()


@pytest.mark.parametrize(("side", "drawn"), [(200.0, 20), (30.0, 10), (10.0, None)])
def test_a_grid_too_fine_to_see_is_not_drawn(side: float, drawn: int | None) -> None:
    assert drawn_grid(view_of([1.0], [(0, 0)], side=side)) == drawn


@given(st.floats(1, 500), st.floats(0.1, 2), st.integers(50, 900))
def test_the_scale_bar_is_a_round_length_and_true(downsample: float, mpp: float, width: int) -> None:
    view = view_of([1.0], [(0, 0)], downsample=downsample, mpp=mpp, width=width)
    length, share = scale_bar(view)
    assert f"{length:e}"[0] in "125"
    assert float(f"{length:.0e}") == pytest.approx(length)
    assert share * width * downsample * mpp / 1000 == pytest.approx(length)
    assert 0.1 < share <= 0.3 + 1e-9


def test_the_picture_survives_its_address() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[..., 0] = 220
    encoded = base64.b64decode(data_uri(picture).removeprefix("data:image/jpeg;base64,"))
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_allclose(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), picture, atol=4)
