from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from milsurv.executors.base import Context
from milsurv.slides.ink import find_ink, straight_edges
from milsurv.slides.reader import OpenSlideSlide
from milsurv.slides.tissue import OtsuConfig, OtsuTissue, TissueMask
from milsurv.synthetic.cohort import draw, plan_cohort
from tests.slides.make_slides import glass, with_tissue, write_slide
from tests.slides.test_reader import REAL_SLIDE

PENS = {
    "blue": (40, 60, 170),
    "light blue": (60, 130, 210),
    "pale green": (160, 215, 190),
    "green": (30, 140, 80),
    "yellowish green": (90, 160, 60),
    "black": (40, 38, 45),
}
TISSUE = (200, 200, 600, 700)
SIZE = (1600, 1200)
MPP = 2.0


def segment(path: Path, picture: NDArray[np.uint8], **settings: Any) -> TissueMask:
    write_slide(path, picture, mpp=MPP)
    with OpenSlideSlide(path) as slide:
        return OtsuTissue(OtsuConfig(**settings)).segment(slide)


def stroke(
    picture: NDArray[np.uint8], pen: str, start: tuple[int, int], end: tuple[int, int], um: float = 600
) -> NDArray[np.bool_]:
    """Draw a line with a soft rim, and give where it is darkest."""
    cover = np.zeros(picture.shape[:2], np.float32)
    cv2.line(cover, start, end, 1.0, round(um / MPP))
    solid = cover > 0.5
    cover = cv2.GaussianBlur(cover, (0, 0), 12)[..., None] * 0.9
    picture[:] = (picture * (1 - cover) + np.array(PENS[pen]) * cover).round().astype(np.uint8)
    return solid


def area_of(mask: TissueMask, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    x, y, width, height = (round(side / mask.downsample) for side in box)
    return mask.mask[y : y + height, x : x + width]


@pytest.mark.parametrize("pen", PENS)
def test_a_mark_beside_tissue_is_cut_out_and_the_tissue_is_not(pen: str, tmp_path: Path) -> None:
    clean = segment(tmp_path / "clean.svs", with_tissue(*SIZE, [TISSUE]))
    picture = with_tissue(*SIZE, [TISSUE])
    stroke(picture, pen, (1200, 100), (1300, 1100))
    marked = segment(tmp_path / "marked.svs", picture)
    assert not marked.mask[:, 250:].any()
    assert (marked.mask != clean.mask).sum() <= 0.01 * clean.mask.sum()
    if pen != "black":  # which has hardly a colour
        assert segment(tmp_path / "kept.svs", picture, remove_ink=False).mask[:, 250:].any()


@pytest.mark.parametrize("pen", PENS)
def test_a_mark_over_tissue_is_cut_out_of_it(pen: str, tmp_path: Path) -> None:
    picture = with_tissue(*SIZE, [TISSUE])
    solid = stroke(picture, pen, (100, 500), (1000, 560), um=400)
    mask = segment(tmp_path / "a.svs", picture)
    inked = cv2.resize(solid.astype(np.uint8), mask.mask.shape[::-1], interpolation=cv2.INTER_NEAREST) == 1
    assert not mask.mask[inked].any()
    for box in ((220, 220, 560, 100), (220, 760, 560, 120)):
        assert area_of(mask, box).mean() > 0.97


@pytest.mark.parametrize(
    "tissue", [(105, 105, 165), (100, 105, 165), (95, 100, 165), (150, 155, 190), (185, 190, 215)]
)
def test_a_bluish_stain_is_tissue_but_for_a_strip_along_a_stroke(
    tissue: tuple[int, int, int], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (1200, 1600, 3))
    picture = glass(*SIZE)
    x, y, width, height = TISSUE
    stained = (np.array(tissue) + noise).clip(0, 255).astype(np.uint8)
    picture[y : y + height, x : x + width] = stained[y : y + height, x : x + width]
    assert area_of(segment(tmp_path / "a.svs", picture), TISSUE).mean() > 0.97
    stroke(picture, "blue", (820, 100), (820, 1100), um=200)
    touched = segment(tmp_path / "b.svs", picture)
    assert area_of(touched, (200, 200, 430, 700)).mean() > 0.97
    assert not touched.mask[:, 200:].any()


def test_marks_alone_are_no_tissue(tmp_path: Path) -> None:
    picture = glass(*SIZE)
    for index, pen in enumerate(PENS):
        stroke(picture, pen, (100 + 230 * index, 100), (200 + 230 * index, 1000), um=200)
    assert not segment(tmp_path / "a.svs", picture).mask.any()


@pytest.mark.parametrize(
    ("start", "end"), [((0, 300), (1599, 300)), ((300, 0), (420, 1199)), ((900, 0), (1100, 1199))]
)
def test_the_edge_of_a_coverslip_is_no_tissue(
    start: tuple[int, int], end: tuple[int, int], tmp_path: Path
) -> None:
    picture = with_tissue(*SIZE, [(600, 500, 200, 400)])
    cv2.line(picture, start, end, (190, 160, 190), 40)  # 80 µm
    mask = segment(tmp_path / "a.svs", picture)
    assert area_of(mask, (600, 500, 200, 400)).mean() > 0.97
    assert mask.mask.sum() < 1.1 * 200 * 400 / mask.downsample**2
    assert segment(tmp_path / "b.svs", picture, max_edge_um=0).mask.sum() > 1.3 * mask.mask.sum()


def test_a_dark_border_is_no_tissue(tmp_path: Path) -> None:
    picture = with_tissue(*SIZE, [TISSUE])
    clean = segment(tmp_path / "a.svs", picture)
    picture[:, 1500:] = (30, 28, 33)
    assert (segment(tmp_path / "b.svs", picture).mask != clean.mask).sum() <= 0.01 * clean.mask.sum()


def test_needle_cores_are_tissue(tmp_path: Path) -> None:
    cores = [(100, 200, 1400, 250), (100, 700, 1400, 300)]  # 0.5 and 0.6 mm wide
    mask = segment(tmp_path / "a.svs", with_tissue(*SIZE, cores))
    for core in cores:
        assert area_of(mask, core).mean() > 0.97


def test_stains_are_no_ink() -> None:
    """Mixtures of haematoxylin and eosin by Beer and Lambert, with the optical densities of Ruifrok and Johnston."""
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    amounts = np.linspace(0, 1.5, 64)
    density = amounts[:, None, None] * haematoxylin + amounts[None, :, None] * eosin
    picture = np.kron((245 * 10**-density).round().astype(np.uint8), np.ones((5, 5, 1), np.uint8))
    ink = find_ink(picture, 3)
    assert not ink[picture.max(axis=2) > 90].any()
    mucin = np.full((50, 50, 3), (198, 204, 226), np.uint8)
    assert not find_ink(mucin, 3).any()


def test_only_long_and_narrow_pieces_are_edges() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[10:14, :] = 1
    mask[40:44, 20:50] = 1  # too short
    mask[60:90, :] = 1  # too wide
    cv2.line(mask, (20, 120), (280, 190), 1, 5)
    edges = straight_edges(mask, width=10)
    assert edges[10:14].all()
    assert not edges[30:100].any()
    assert edges[mask.astype(bool)][-200:].all()


def test_clean_slides_have_the_mask_that_saturation_alone_gives(tmp_path: Path) -> None:
    _, slides = plan_cohort(20, seed=5)
    for slide in slides[:2]:
        draw(Context(), slide, tmp_path)
    for path in (REAL_SLIDE, *tmp_path.iterdir()):
        with OpenSlideSlide(path) as opened:
            plain = OtsuTissue(OtsuConfig(remove_ink=False, max_edge_um=0)).segment(opened)
            ours = OtsuTissue(OtsuConfig()).segment(opened)
        np.testing.assert_array_equal(ours.mask, plain.mask)
        assert ours.mask.any()
