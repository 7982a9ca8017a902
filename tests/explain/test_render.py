from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.explain.importance import Importance
from milsurv.explain.render import (
    ATTENTION_COLOURS,
    OPACITY,
    Shading,
    data_uri,
    map_picture,
    padded,
    patch_colours,
    png,
    tissue_picture,
    visible_grid,
)
from milsurv.explain.view import Patches, PatchMap, SlideView

GREY = 200


def view_of(
    values: list[float], coords: list[tuple[int, int]], side: float = 200.0, width: int = 100
) -> SlideView:
    """A grey slide at a downsample of 10, 20x patches of ``side`` level-0 pixels, and one 10x patch of twice that."""
    return SlideView(
        slide_id="A-1",
        caption="",
        thumbnail=np.full((80, width, 3), GREY, np.uint8),
        downsample=10.0,
        mpp=0.5,
        patches={20: Patches(np.array(coords), side), 10: Patches(np.array([[0, 0]]), 2 * side)},
        outlines=[np.array([[300, 300], [700, 300], [700, 600], [300, 600]])],
        importance=Importance("attention", {20: np.array(values)}),
    )


def picture_of(view: SlideView) -> NDArray[np.uint8]:
    return map_picture(view, view.maps[0])


def over_grey(share: float) -> NDArray[np.float64]:
    return 255 * ((1 - OPACITY) * GREY / 255 + OPACITY * np.array(ATTENTION_COLOURS(share)[:3]))


def test_attention_is_coloured_where_its_patch_lies() -> None:
    picture = picture_of(view_of([0.5, 2.0], [(0, 0), (400, 200)]))
    expected = np.full((80, 100, 3), float(GREY))
    expected[0:20, 0:20] = over_grey(0.0)
    expected[20:40, 40:60] = over_grey(1.0)
    np.testing.assert_allclose(picture, expected, atol=0.51)


def test_a_patch_over_the_edge_is_cut_off() -> None:
    picture = picture_of(view_of([1.0], [(900, 700)]))
    assert (picture[70:, 90:] != GREY).any(axis=2).all()
    assert (picture[:70] == GREY).all()
    assert (picture[:, :90] == GREY).all()


def test_a_margin_shows_patches_over_the_edge() -> None:
    view = view_of([1.0], [(900, 700)])
    wide = padded(view)
    assert wide.thumbnail.shape == (90, 110, 3)
    assert (wide.thumbnail[:80, :100] == GREY).all()
    assert (wide.thumbnail[80:] == 255).all()
    assert (picture_of(wide)[80:, 100:] != 255).any(axis=2).all()
    inside = view_of([1.0], [(0, 0)])
    assert padded(inside).thumbnail.shape == inside.thumbnail.shape


def test_neighbours_leave_no_gap() -> None:
    side = 33.3
    picture = picture_of(view_of([1.0] * 20, [(round(i * side), 0) for i in range(20)], side=side))
    assert (picture[:3, :66] != GREY).any(axis=2).all()


def test_the_highest_attention_does_not_hide_the_rest() -> None:
    values = np.append(np.linspace(0.5, 1.5, 999), 5000.0)
    shading = Shading.of("attention", values * 1000 / values.sum())
    assert shading.extend == "max"
    assert (shading.low, shading.high) == (0.0, 2.0) or shading.high < 3


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=300))
def test_the_colours_cover_uniform_and_nearly_all_patches(values: list[float]) -> None:
    relative = np.array(values) / np.mean(values)
    shading = Shading.of("attention", relative)
    assert shading.low <= relative.min()
    assert shading.low <= 0.5
    assert shading.high >= 2
    assert np.mean(relative > shading.high) <= 0.01
    assert (shading.extend == "max") == (relative.max() > shading.high)


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=200))
def test_attention_within_a_tenth_of_uniform_looks_uniform(values: list[float]) -> None:
    view = view_of(values, [(200 * i, 0) for i in range(len(values))], width=600)
    drawn = picture_of(view)[:20, : 20 * min(len(values), 30)].reshape(-1, 3).astype(int)
    ends = np.abs(over_grey(0.0) - over_grey(1.0)).max()
    assert np.abs(drawn.max(axis=0) - drawn.min(axis=0)).max() < 0.25 * ends
    assert view.maps[0].nearly_uniform


@pytest.mark.parametrize("values", [[1.0, 0.89], [1.0, 1.12], [0.2, 1.8], [0.0, 2.0]])
def test_attention_that_varies_is_not_called_uniform(values: list[float]) -> None:
    assert not view_of(values, [(0, 0), (200, 0)]).maps[0].nearly_uniform


def test_occlusion_is_never_called_uniform() -> None:
    assert not PatchMap("20x", "", "occlusion", 20, np.ones(2)).nearly_uniform


def test_ranges_of_attention() -> None:
    for values, low, high in (([1.0], 0.5, 2.0), ([0.1, 1.9], 0.1, 2.0), ([0.6, 0.6, 3.0], 0.5, 3.0)):
        shading = Shading.of("attention", np.array(values))
        assert (shading.low, shading.high, shading.extend) == (low, high, "neither")


def test_occlusion_is_white_at_zero_and_symmetric() -> None:
    shading = Shading.of("occlusion", np.array([-0.1, 0.0, 0.3]))
    assert (shading.low, shading.high) == (-0.3, 0.3)
    zero, raises, lowers = shading.shades(np.array([0.0, 0.3, -0.3]))
    assert zero.min() > 0.95
    assert raises[0] > raises[2]
    assert lowers[2] > lowers[0]
    assert Shading.of("occlusion", np.zeros(3)).high > 0


def test_colours_for_other_programs_are_those_of_the_maps() -> None:
    values = {20: np.array([0.95, 1.0, 1.0, 1.05]), 10: np.array([1.0])}
    colours = patch_colours(Importance("attention", values))
    assert colours.shape == (5, 3)
    shades = Shading.of("attention", values[20]).shades(values[20])
    np.testing.assert_array_equal(colours[:4], (255 * shades).round())
    assert np.ptp(colours.astype(int), axis=0).max() < 25
    occlusion = patch_colours(Importance("occlusion", {20: np.array([-1.0, 0.0, 1.0])}))
    assert occlusion[0, 2] > occlusion[0, 0]
    assert occlusion[2, 0] > occlusion[2, 2]


def test_the_outline_and_the_grid_are_drawn_on_a_copy() -> None:
    view = view_of([1.0], [(0, 0)])
    picture = tissue_picture(view, 20)
    assert picture[30, 50].tolist() == [0, 0, 0]
    assert picture[20, 10].tolist() == [0, 60, 200]
    assert picture[75, 95].tolist() == [GREY] * 3
    assert (tissue_picture(view, None)[20, 10] == GREY).all()
    assert (view.thumbnail == GREY).all()


@pytest.mark.parametrize(("side", "drawn"), [(200.0, 20), (30.0, 10), (10.0, None)])
def test_a_grid_too_fine_to_see_is_not_drawn(side: float, drawn: int | None) -> None:
    assert visible_grid(view_of([1.0], [(0, 0)], side=side)) == drawn


def test_the_picture_survives_its_address() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[..., 0] = 220
    encoded = base64.b64decode(data_uri(picture).removeprefix("data:image/jpeg;base64,"))
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_allclose(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), picture, atol=4)


def test_a_png_keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), picture)
