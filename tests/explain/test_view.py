from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.explain.importance import Blocks, Importance
from milsurv.explain.view import MissingView, Patches, SlideView, choose_slides, read_patches, views_of_fold
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.plugin.registry import get_registry
from tests.report.make_run import (
    add_model,
    add_slide,
    make_config,
    make_follow_up,
    make_run,
    make_slide_table,
)

SLIDE = Path(__file__).parents[1] / "data" / "slides" / "CMU-1-Small-Region.svs"
SLIDE_SIZE = (2220, 2967)


def predictions_of(risks: list[float]) -> pd.DataFrame:
    """Fold 0 under seed 1, and the same risks upside down in fold 1 and under seed 2."""
    cases = [f"case {i}" for i in range(len(risks))]
    tables = [
        pd.DataFrame({"case_id": cases, "fold": fold, "seed": seed, "risk": np.array(risks) * sign})
        for fold, seed, sign in ((0, 1, 1), (1, 1, -1), (0, 2, -1))
    ]
    return pd.concat(tables, ignore_index=True)


def of(predictions: pd.DataFrame, seed: int = 1, fold: int = 0) -> pd.DataFrame:
    return predictions[(predictions["seed"] == seed) & (predictions["fold"] == fold)]


def slides_of(cases: int) -> pd.DataFrame:
    """Two used slides for each case, after one that was excluded."""
    rows = [
        {"slide_id": f"slide {i}{letter}", "case_id": f"case {i}", "status": status}
        for i in range(cases)
        for letter, status in (("a", "excluded"), ("b", "used"), ("c", "used"))
    ]
    return pd.DataFrame(rows, columns=["slide_id", "case_id", "status"])


def test_highest_median_and_lowest_risk_are_chosen() -> None:
    chosen = choose_slides(of(predictions_of([0.3, 0.9, 0.1, 0.5, 0.4])), slides_of(5), " in fold 0")
    assert chosen == [
        ("slide 1b", "highest risk in fold 0: case case 1"),
        ("slide 4b", "median risk in fold 0: case case 4"),
        ("slide 2b", "lowest risk in fold 0: case case 2"),
    ]


def test_other_folds_and_seeds_do_not_choose() -> None:
    predictions, slides = predictions_of([0.3, 0.9, 0.1]), slides_of(3)
    assert [slide for slide, _ in choose_slides(of(predictions, fold=1), slides)] == [
        "slide 2b",
        "slide 0b",
        "slide 1b",
    ]
    assert choose_slides(of(predictions, seed=2), slides)[0][0] == "slide 2b"


@pytest.mark.parametrize(
    ("risks", "slides"),
    [
        ([], []),
        ([0.5], ["slide 0b"]),
        ([0.5, 0.7], ["slide 1b", "slide 0b"]),
        ([0.5, float("nan"), 0.7], ["slide 2b", "slide 0b"]),
    ],
)
def test_few_cases_give_few_slides(risks: list[float], slides: list[str]) -> None:
    chosen = choose_slides(of(predictions_of(risks)), slides_of(len(risks)))
    assert [slide for slide, _ in chosen] == slides


class Run:
    """A finished run of which the three slides to be shown are the real one."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.folder = config.workspace / "runs" / "made-up"
        follow_up = make_follow_up(12, 2)
        slides = make_slide_table(follow_up)
        self.predictions = make_run(self.folder, config, follow_up, slides)
        self.chosen = [slide for slide, _ in choose_slides(of(self.predictions, config.seeds[0]), slides)]
        for slide in self.chosen:
            slides = add_slide(slides, config, slide.removesuffix("-S1"), SLIDE)
        self.slides = slides
        add_model(self.folder, config, 0)

    def views(self, slides: pd.DataFrame | None = None) -> list[SlideView | MissingView]:
        table = self.slides if slides is None else slides
        return views_of_fold(self.config, get_registry(), self.folder, self.predictions, table)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(make_config(tmp_path_factory.mktemp("workspace")))


def test_a_real_slide_is_seen_through_a_real_model(run: Run) -> None:
    views = run.views()
    assert [view.slide_id for view in views] == run.chosen
    for view in views:
        assert isinstance(view, SlideView)
        assert view.caption.endswith(f"risk in fold 0: case {view.slide_id.removesuffix('-S1')}")
        height, width = view.thumbnail.shape[:2]
        assert (round(width * view.downsample), round(height * view.downsample)) == pytest.approx(
            SLIDE_SIZE, abs=2
        )
        assert view.mpp == pytest.approx(0.499)
        assert [shown.name for shown in view.maps] == ["20x", "10x", "5x"]
        for shown in view.maps:
            assert len(shown.values) == len(view.patches[shown.magnification].coords)
            assert shown.values.mean() == pytest.approx(1)
            assert shown.values.min() >= 0
        assert {m: patches.side for m, patches in view.patches.items()} == {20: 128, 10: 256, 5: 512}
        outline = np.concatenate(view.outlines)
        assert outline.min() >= 0
        assert (outline.max(axis=0) <= np.array(SLIDE_SIZE) + view.downsample).all()
        inside = (view.patches[20].coords[:, None] >= outline.min(axis=0) - 128) & (
            view.patches[20].coords[:, None] <= outline.max(axis=0)
        )
        assert inside.all()


def test_an_aggregator_without_attention_gives_a_view_all_the_same(tmp_path: Path) -> None:
    abmil = {"name": "abmil", "magnification": 5, "hidden_dim": 8, "attention_dim": 4}
    views = Run(make_config(tmp_path, aggregator=abmil)).views()
    assert [[shown.name for shown in view.maps] for view in views if isinstance(view, SlideView)] == [
        ["5x"]
    ] * 3


def test_the_tables_resolution_wins_again(run: Run) -> None:
    of_table = run.slides.copy()
    first_row = of_table["slide_id"] == run.chosen[0]
    of_table.loc[first_row, "mpp"] = 0.25
    of_table.loc[first_row, "mpp_source"] = "table"
    first = run.views(of_table)[0]
    assert isinstance(first, SlideView)
    assert first.mpp == 0.25


def test_a_slide_that_is_gone_gives_a_reason(run: Run) -> None:
    moved = run.slides.copy()
    moved.loc[moved["slide_id"] == run.chosen[1], "path"] = "/moved/away.svs"
    first, second, third = run.views(moved)
    assert isinstance(first, SlideView)
    assert isinstance(third, SlideView)
    assert isinstance(second, MissingView)
    assert second.caption.startswith("median risk in fold 0")
    assert "No such file or directory" in second.reason


def test_features_that_are_gone_give_a_reason(run: Run) -> None:
    gone = run.slides.copy()
    gone.loc[gone["slide_id"] == run.chosen[0], "features"] = "features/none.h5"
    first = run.views(gone)[0]
    assert isinstance(first, MissingView)
    assert "none.h5 cannot be read" in first.reason


COORDS = np.array([[0, 0], [100, 0], [0, 100], [300, 200]])


def view_of(
    downsample: float = 10.0, mpp: float = 0.5, width: int = 80, importance: Importance | None = None
) -> SlideView:
    patches = {20: Patches(COORDS, 100.0), 10: Patches(COORDS[:1], 200.0)}
    thumbnail = np.full((40, width, 3), 200, np.uint8)
    return SlideView("a", "", thumbnail, downsample, mpp, patches, importance=importance)


def test_a_map_for_each_magnification_and_their_fusion() -> None:
    values = {20: np.ones(4), 10: np.ones(1)}
    maps = view_of(importance=Importance("attention", values, fused=np.full(4, 2.0))).maps
    assert [(shown.name, shown.magnification, shown.values[0]) for shown in maps] == [
        ("20x", 20, 1.0),
        ("10x", 10, 1.0),
        ("fused", 20, 2.0),
    ]
    alone = view_of(importance=Importance("attention", {20: np.ones(4)}, fused=np.ones(4))).maps
    assert [shown.name for shown in alone] == ["20x"]
    blocks = Blocks({20: np.zeros(4, int), 10: np.zeros(1, int)}, 1, 3)
    (occluded,) = view_of(importance=Importance("occlusion", values, blocks=(blocks,))).maps
    assert occluded.name == "10x"
    assert occluded.title == "removed: squares of 3 × 3 10x patches, with all finer patches in them"
    assert view_of().maps == ()


def test_titles_and_places_are_in_micrometres_and_millimetres() -> None:
    view = view_of(mpp=0.25)
    assert view.title(20) == "20x: 4 patches of 25 µm"
    assert view.title(10) == "10x: 1 patch of 50 µm"
    assert view.center_mm(20, 3) == pytest.approx((350 * 0.25 / 1000, 250 * 0.25 / 1000))


@given(st.floats(1, 500), st.floats(0.1, 2), st.integers(50, 900))
def test_the_scale_bar_is_a_round_length_and_true(downsample: float, mpp: float, width: int) -> None:
    length, share = view_of(downsample, mpp, width).scale_bar()
    assert f"{length:e}"[0] in "125"
    assert float(f"{length:.0e}") == pytest.approx(length)
    assert share * width * downsample * mpp / 1000 == pytest.approx(length)
    assert 0.1 < share <= 0.3 + 1e-9


def test_features_without_positions_cannot_be_drawn(tmp_path: Path) -> None:
    features = np.zeros((4, 3), np.float16)
    for name, stored in (
        ("places", MagnificationFeatures(features)),
        ("sides", MagnificationFeatures(features, COORDS)),
    ):
        write_features(tmp_path / f"{name}.h5", {20: stored}, {})
        with pytest.raises(
            MilsurvError, match=f"{name}.h5 does not hold the positions and sizes of its patches"
        ):
            read_patches(tmp_path / f"{name}.h5")
