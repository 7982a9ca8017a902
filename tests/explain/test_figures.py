from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from milsurv.explain.figures import IN_ROW, extremes, gallery_figure, heatmap_figure, inspect_figure
from milsurv.explain.importance import Blocks, Importance, Kind
from milsurv.explain.view import Patches, SlideView

COORDS = np.array([[0, 0], [100, 0], [0, 100], [300, 200]])


def make_view(values: list[float], kind: Kind = "attention") -> SlideView:
    """A grey slide of 800 × 400 level-0 pixels with four 20x patches of 100."""
    blocks = (Blocks({20: np.arange(4)}, 4, 1),) if kind == "occlusion" else ()
    return SlideView(
        "a $slide$ <1>",
        "mean of 3 models",
        np.full((40, 80, 3), 200, np.uint8),
        10.0,
        0.5,
        {20: Patches(COORDS, 100.0)},
        importance=Importance(kind, {20: np.array(values)}, blocks=blocks),
    )


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60))
def test_extremes_are_the_ends_of_the_order(values: list[float]) -> None:
    high, low = extremes(np.array(values))
    assert not set(high.tolist()) & set(low.tolist())
    assert len(high) + len(low) == min(2 * IN_ROW, len(values))
    ranked = sorted(values)
    assert [values[row] for row in high] == ranked[::-1][: len(high)]
    assert [values[row] for row in low] == ranked[: len(low)]


def test_attention_within_a_tenth_of_uniform_is_named() -> None:
    assert "20x: 4 patches of 50 µm (nearly uniform)" in texts(
        heatmap_figure(make_view([0.9, 1.0, 1.0, 1.1]))
    )
    assert "nearly uniform" not in texts(heatmap_figure(make_view([0.9, 1.0, 1.0, 1.11])))
    assert "nearly uniform" not in texts(heatmap_figure(make_view([0.9, 1.0, 1.0, 1.1], "occlusion")))


def test_the_figure_names_slide_models_and_units() -> None:
    said = texts(heatmap_figure(make_view([0.5, 1.0, 1.0, 1.5])))
    for part in (
        "a $slide$ <1>: attention",
        "mean of 3 models",
        "multiples of uniform",
        "100 µm",
        "20x: 4 patches",
    ):
        assert part in said
    occlusion = texts(heatmap_figure(make_view([-0.1, 0.0, 0.0, 0.2], "occlusion")))
    assert "decrease of the risk" in occlusion
    assert "removed: single 20x patches" in occlusion


def test_the_gallery_shows_each_patch_with_value_and_place() -> None:
    pictures = [np.full((8, 8, 3), shade, np.uint8) for shade in (10, 20, 30, 40)]
    figure = gallery_figure(make_view([0.5, 1.0, 1.0, 1.5]), {"20x": pictures})
    tiles = [axes for axes in figure.axes if axes.images]
    shown = [int(axes.images[0].get_array()[0, 0, 0]) for axes in tiles]  # type: ignore[index]
    assert shown == [10, 20, 30, 40]
    captions = [axes.get_xlabel() for axes in tiles]
    assert captions[0] == "1.5 × uniform\n300, 200"
    assert captions[2] == "0.5 × uniform\n0, 0"
    signed = gallery_figure(make_view([-0.5, 0.0, 0.0, 1.0], "occlusion"), {"20x": pictures})
    assert signed.axes[0].get_xlabel() == "+1 SD\n300, 200"


def test_inspection_has_a_panel_for_each_magnification() -> None:
    view = make_view([1.0] * 4)
    patches = {**view.patches, 10: Patches(COORDS[:1], 200.0)}
    figure = inspect_figure(SlideView("a", "", view.thumbnail, 10.0, 0.5, patches))
    assert [axes.get_title() for axes in figure.axes] == ["20x: 4 patches of 50 µm", "10x: 1 patch of 100 µm"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tissue", "patches"]
    without = inspect_figure(SlideView("a", "", view.thumbnail, 10.0, 0.5, {}))
    assert [axes.get_title() for axes in without.axes] == ["no patches"]
