from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from milsurv.slides.reader import OpenSlideSlide
from milsurv.slides.tissue import OtsuConfig, OtsuTissue, TissueMask, mask_warnings
from tests.slides.make_slides import GLASS, glass, stained, with_tissue, write_slide


def segment(path: Path, picture: NDArray[np.uint8], mpp: float = 2.0, **settings: Any) -> TissueMask:
    write_slide(path, picture, mpp=mpp, downsamples=(1, 2))
    with OpenSlideSlide(path) as slide:
        return OtsuTissue(OtsuConfig(**settings)).segment(slide)


def truth(mask: TissueMask, pieces: Sequence[tuple[int, int, int, int]]) -> NDArray[np.bool_]:
    expected = np.zeros_like(mask.mask)
    for piece in pieces:
        x, y, width, height = (round(side / mask.downsample) for side in piece)
        expected[y : y + height, x : x + width] = True
    return expected


def overlap(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((mask & other).sum() / (mask | other).sum())


@pytest.mark.parametrize("seed", range(3))
def test_bare_glass_has_no_tissue(tmp_path: Path, seed: int) -> None:
    assert not segment(tmp_path / "a.svs", glass(1600, 1200, seed)).mask.any()


@pytest.mark.parametrize("seed", range(3))
def test_a_slide_full_of_tissue_is_all_tissue(tmp_path: Path, seed: int) -> None:
    assert segment(tmp_path / "a.svs", stained(1600, 1200, seed)).mask.all()


def test_pieces_are_found_where_they_are(tmp_path: Path) -> None:
    pieces = [(100, 200, 500, 700), (900, 300, 600, 400)]
    mask = segment(tmp_path / "a.svs", with_tissue(1600, 1200, pieces))
    assert mask.downsample == 4
    assert mask.mask.shape == (300, 400)
    expected = truth(mask, pieces)
    assert overlap(mask.mask, expected) > 0.97
    assert mask.fraction == pytest.approx(expected.mean(), rel=0.03)


def test_one_level_and_a_pyramid_agree(tmp_path: Path) -> None:
    picture = with_tissue(1600, 1200, [(100, 200, 500, 700)])
    pyramid = segment(tmp_path / "a.svs", picture)
    write_slide(tmp_path / "b.svs", picture, mpp=2.0)
    with OpenSlideSlide(tmp_path / "b.svs") as slide:
        flat = OtsuTissue(OtsuConfig()).segment(slide)
    assert overlap(pyramid.mask, flat.mask) > 0.99


def test_small_pieces_are_dropped_and_small_holes_filled(tmp_path: Path) -> None:
    picture = with_tissue(1600, 1200, [(100, 100, 900, 900), (1300, 400, 80, 80)])
    for x, y, side in [(200, 200, 80), (500, 500, 300)]:  # at 2 µm/px: 0.026 and 0.36 mm²
        picture[y : y + side, x : x + side] = glass(side, side)
    mask = segment(tmp_path / "a.svs", picture)
    expected = truth(mask, [(100, 100, 900, 900)]) & ~truth(mask, [(500, 500, 300, 300)])
    assert overlap(mask.mask, expected) > 0.97
    assert mask.mask[60, 60]
    assert not mask.mask[110, 335]
    all_kept = segment(tmp_path / "a.svs", picture, min_area_mm2=0, max_hole_mm2=0)
    assert all_kept.mask[110, 335]
    assert not all_kept.mask[60, 60]


def test_cracks_are_closed(tmp_path: Path) -> None:
    picture = with_tissue(1600, 1200, [(100, 100, 900, 900)])
    picture[:, 500:520] = glass(20, 1200)  # 40 µm
    mask = segment(tmp_path / "a.svs", picture)
    assert mask.mask[40:230, 40:230].all()


def test_a_margin_of_glass_stays_glass_where_tissue_reaches_the_edge_here_and_there(tmp_path: Path) -> None:
    bridges = [(x, 0, 60, 1200) for x in range(100, 1500, 300)] + [
        (0, y, 1600, 60) for y in range(100, 1100, 300)
    ]
    pieces = [(40, 40, 1520, 1120), *bridges]
    mask = segment(tmp_path / "a.svs", with_tissue(1600, 1200, pieces))
    assert overlap(mask.mask, truth(mask, pieces)) > 0.97


def test_scattered_dust_is_no_tissue(tmp_path: Path) -> None:
    dust = np.kron(np.random.default_rng(0).random((300, 400)) < 0.1, np.ones((4, 4), bool))
    picture = glass(1600, 1200)
    picture[dust] = stained(1600, 1200)[dust]
    assert not segment(tmp_path / "a.svs", picture).mask.any()


def test_faint_tissue_beside_dark_tissue_is_kept(tmp_path: Path) -> None:
    pieces = [(100, 200, 500, 700), (900, 300, 600, 400)]
    picture = with_tissue(1600, 1200, pieces)
    pale = picture[300:700, 900:1500].astype(float)
    picture[300:700, 900:1500] = (230 + (pale - pale.mean((0, 1))) / 8 + [5, -35, 0]).clip(0, 255)
    mask = segment(tmp_path / "a.svs", picture)
    assert overlap(mask.mask, truth(mask, pieces)) > 0.95


TINTS = {
    "yellowish": (250, 245, 215),
    "amber": (240, 228, 195),
    "bluish": (200, 216, 240),
    "greenish": (220, 235, 215),
    "pinkish grey": (228, 212, 220),
    "grey": (180, 180, 180),
    "dark grey": (140, 140, 140),
}
PIECES = [(25, 50, 125, 175), (225, 75, 150, 100)]
WHOLE = [(0, 0, 400, 300)]
Colour = tuple[int, int, int]


def tinted(pieces: Sequence[tuple[int, int, int, int]], left: Colour, right: Colour) -> NDArray[np.uint8]:
    """Tissue on glass whose colour goes from ``left`` to ``right``."""
    picture = with_tissue(400, 300, pieces) / np.array(GLASS)
    across = np.linspace(0, 1, 400)[None, :, None]
    colours = np.array(left) * (1 - across) + np.array(right) * across
    return np.asarray((picture * colours).clip(0, 255), np.uint8)


@pytest.mark.parametrize("tint", TINTS)
def test_the_background_is_the_slides_own_glass(tint: str, tmp_path: Path) -> None:
    colour = TINTS[tint]
    found = segment(tmp_path / "a.svs", tinted(PIECES, colour, colour), mpp=8.0)
    assert overlap(found.mask, truth(found, PIECES)) > 0.95
    assert not segment(tmp_path / "bare.svs", tinted([], colour, colour), mpp=8.0).mask.any()
    full = segment(tmp_path / "full.svs", tinted(WHOLE, colour, colour), mpp=8.0)
    assert full.fraction > 0.9


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((243, 243, 243), (245, 238, 205)),
        ((245, 238, 210), (210, 222, 245)),
        ((245, 240, 215), (170, 167, 149)),
    ],
)
def test_glass_whose_colour_changes_over_the_slide(left: Colour, right: Colour, tmp_path: Path) -> None:
    found = segment(tmp_path / "a.svs", tinted(PIECES, left, right), mpp=8.0)
    assert overlap(found.mask, truth(found, PIECES)) > 0.95
    assert not segment(tmp_path / "bare.svs", tinted([], left, right), mpp=8.0).mask.any()


def test_white_and_black_areas_that_were_not_scanned(tmp_path: Path) -> None:
    picture = tinted(PIECES, TINTS["bluish"], TINTS["bluish"])
    picture[250:] = 255
    picture[:, 385:] = 0
    picture[:15] = (30, 28, 33)
    found = segment(tmp_path / "a.svs", picture, mpp=8.0)
    assert overlap(found.mask, truth(found, PIECES)) > 0.95
    mostly_black = np.zeros_like(picture)
    mostly_black[:, :150] = stained(150, 300)
    black = segment(tmp_path / "b.svs", mostly_black, mpp=8.0)
    assert overlap(black.mask, truth(black, [(0, 0, 150, 300)])) > 0.85
    assert black.warnings == (
        "62% of the slide is black: only stained tissue on bright glass is supported, not fluorescence",
    )


def test_faint_tissue_on_overexposed_glass_is_no_glass(tmp_path: Path) -> None:
    picture = np.full((300, 400, 3), 255, np.uint8)
    for x, y, width, height in PIECES:
        picture[y : y + height, x : x + width] = (240, 218, 232)
    found = segment(tmp_path / "a.svs", picture, mpp=8.0)
    assert overlap(found.mask, truth(found, PIECES)) > 0.95


def test_a_pen_on_tinted_glass_is_no_tissue(tmp_path: Path) -> None:
    colour = TINTS["bluish"]
    picture = tinted([PIECES[0]], colour, colour)
    picture[25:275, 275:325] = (40, 60, 170)
    found = segment(tmp_path / "a.svs", picture, mpp=8.0)
    assert overlap(found.mask, truth(found, [PIECES[0]])) > 0.95


@pytest.mark.parametrize(
    ("share", "said"),
    [(1.0, "100% of the scanned area is tissue"), (0.6, None), (0.003, "only 0.30% of the")],
)
def test_nearly_all_and_nearly_nothing_are_doubted(share: float, said: str | None, tmp_path: Path) -> None:
    mask = np.zeros((500, 500), bool)
    mask.ravel()[: round(share * mask.size)] = True
    path = write_slide(tmp_path / "a.svs", glass(500, 500), mpp=0.5)
    with OpenSlideSlide(path) as slide:
        told = mask_warnings(TissueMask(mask, 1.0, ("told before",)), slide)
    assert told[0] == "told before"
    assert len(told) == 1 + (said is not None)
    assert said is None or told[1].startswith(said)


def test_outlines_follow_tissue_and_holes_in_level_0_pixels() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:70] = True
    mask[20:30, 30:40] = False
    outlines = TissueMask(mask, 16.0).outlines()
    boxes = sorted((*outline.min(0), *outline.max(0)) for outline in outlines)
    assert boxes == [(328, 168, 1112, 632), (472, 312, 648, 488)]


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least min_saturation"):
        OtsuConfig(min_saturation=0.3, sure_saturation=0.2)
