from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from numpy.typing import NDArray

from milsurv.explain.heatmap_figure import (
    IN_ROW,
    Heatmap,
    PatchMap,
    Shading,
    extremes,
    gallery_figure,
    heatmap_figure,
    map_picture,
    maps_of,
    patch_colours,
)
from milsurv.explain.importance import Blocks, Importance, Kind
from milsurv.explain.pictures import OPACITY

GREY = 200
COORDS = np.array([[0, 0], [100, 0], [0, 100], [300, 200]])


def make_heatmap(values: list[float], kind: Kind = "attention") -> Heatmap:
    """A grey slide of 800 × 400 level-0 pixels with four patches of 100."""
    a_map = PatchMap("20x", "20x: 4 patches", COORDS, 100.0, np.array(values))
    thumbnail = np.full((40, 80, 3), GREY, np.uint8)
    return Heatmap("a $slide$ <1>", kind, "mean of 3 models", thumbnail, 10.0, 0.5, (a_map,))


def texts(figure: object) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


def over_grey(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return 255 * ((1 - OPACITY) * GREY / 255 + OPACITY * colour)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60))
def test_extremes_are_the_ends_of_the_order(values: list[float]) -> None:
    high, low = extremes(np.array(values))
    assert not set(high.tolist()) & set(low.tolist())
    assert len(high) + len(low) == min(2 * IN_ROW, len(values))
    ranked = sorted(values)
    assert [values[row] for row in high] == ranked[::-1][: len(high)]
    assert [values[row] for row in low] == ranked[: len(low)]


def test_a_patch_has_its_colour_where_it_lies() -> None:
    heatmap = make_heatmap([0.5, 1.0, 1.0, 1.5])
    picture = map_picture(heatmap, heatmap.maps[0]).astype(float)
    shades = Shading.of("attention", heatmap.maps[0].values).shades(np.array([0.5, 1.5]))
    assert picture[5, 5] == pytest.approx(over_grey(shades[0]), abs=1)
    assert picture[25, 35] == pytest.approx(over_grey(shades[1]), abs=1)
    assert picture[35, 75].tolist() == [GREY] * 3


def test_attention_within_a_tenth_of_uniform_is_named_and_hardly_coloured() -> None:
    heatmap = make_heatmap([0.9, 1.0, 1.0, 1.1])
    assert "20x: 4 patches (nearly uniform)" in texts(heatmap_figure(heatmap))
    shading = Shading.of("attention", heatmap.maps[0].values)
    assert (shading.low, shading.high, shading.extend) == (0.5, 2.0, "neither")
    assert "nearly uniform" not in texts(heatmap_figure(make_heatmap([0.9, 1.0, 1.0, 1.11])))
    assert "nearly uniform" not in texts(heatmap_figure(make_heatmap([0.9, 1.0, 1.0, 1.1], "occlusion")))


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


def test_occlusion_is_white_at_zero_and_alike_on_both_sides() -> None:
    shading = Shading.of("occlusion", np.array([-0.1, 0.0, 0.3]))
    assert (shading.low, shading.high) == (-0.3, 0.3)
    zero, raises, lowers = shading.shades(np.array([0.0, 0.3, -0.3]))
    assert zero.min() > 0.95
    assert raises[0] > raises[2]
    assert lowers[2] > lowers[0]
    assert Shading.of("occlusion", np.zeros(3)).high > 0


def test_the_figure_says_whose_opinion_it_is() -> None:
    figure = heatmap_figure(make_heatmap([0.5, 1.0, 1.0, 1.5]))
    said = texts(figure)
    for part in (
        "a $slide$ <1>: attention",
        "mean of 3 models",
        "multiples of uniform",
        "100 µm",
        "20x: 4 patches",
    ):
        assert part in said
    assert "fall of the risk" in texts(heatmap_figure(make_heatmap([-0.1, 0.0, 0.0, 0.2], "occlusion")))


def test_the_gallery_shows_each_patch_with_value_and_place() -> None:
    heatmap = make_heatmap([0.5, 1.0, 1.0, 1.5])
    pictures = [np.full((8, 8, 3), shade, np.uint8) for shade in (10, 20, 30, 40)]
    figure = gallery_figure(heatmap, {"20x": pictures})
    shown = [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes]  # type: ignore[index]
    assert shown == [10, 20, 30, 40]
    captions = [axes.texts[0].get_text() for axes in figure.axes]
    assert captions[0] == "1.5 × uniform\n300, 200"
    assert captions[2] == "0.5 × uniform\n0, 0"


def test_a_map_for_each_magnification_and_their_fusion() -> None:
    coords, sides = {20: COORDS, 10: COORDS[:1]}, {20: 100.0, 10: 200.0}
    values = {20: np.ones(4), 10: np.ones(1)}
    maps = maps_of(Importance("attention", values, fused=np.full(4, 2.0)), coords, sides)
    assert [(a_map.name, a_map.side, a_map.values[0]) for a_map in maps] == [
        ("20x", 100.0, 1.0),
        ("10x", 200.0, 1.0),
        ("fused", 100.0, 2.0),
    ]
    alone = maps_of(Importance("attention", {20: np.ones(4)}, fused=np.ones(4)), coords, sides)
    assert [a_map.name for a_map in alone] == ["20x"]
    blocks = Blocks({20: np.zeros(4, int), 10: np.zeros(1, int)}, 1, 3)
    (occluded,) = maps_of(Importance("occlusion", values, blocks=(blocks,)), coords, sides)
    assert occluded.name == "10x"
    assert occluded.title == "left out: squares of 3 × 3 10x patches, with all in them"
