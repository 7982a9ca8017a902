from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.errors import SlideError
from milsurv.slides.jpeg_tiles import JpegTilesConfig, JpegTilesReader, JpegTilesSlide
from milsurv.slides.reader import OpenSlideSlide, Slide
from tests.slides.make_slides import damage_tile, stained, write_jpeg_slide, write_slide
from tests.slides.test_reader import REAL_SLIDE

BY_TILES = "JPEG tiles at full scale"

READ_BY_TILES: dict[str, dict[str, Any]] = {
    "aperio": {"downsamples": (1, 2, 4)},
    "generic pyramid": {"mpp": None, "downsamples": (1, 2, 4)},
    "one level": {},
    "tiles of 240 px, shared tables": {"tile_px": 240, "shared_tables": True},
    "tiles missing": {"missing": [(1, 1), (3, 0)]},
    "downsamples like 4.0001": {"downsamples": (1, 4.0001, 16.01)},
    "20x": {"mpp": 0.499},
    "40x": {"mpp": 0.2527},
    "0.46 µm/px": {"mpp": 0.46},
    "rgb without marker": {"colours": "rgb"},
    "rgb with marker": {"colours": "rgb", "adobe": True},
    "ycbcr with marker": {"adobe": True},
    "rgb without marker, shared tables": {"colours": "rgb", "shared_tables": True, "tile_px": 240},
    "bigtiff": {"bigtiff": True},
}
SIZE = (1100, 900)


def areas(shrink: float, seed: int) -> list[tuple[int, int, int, int, tuple[int, int]]]:
    """Areas within, over the edge and beyond it, some of which begin on a multiple of ``shrink``."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(12):
        x, y = (int(rng.integers(-200, side)) for side in SIZE)
        if index % 2:
            x, y = (int(place // shrink * shrink) for place in (x, y))
        size = (int(rng.integers(8, 300)), int(rng.integers(8, 300)))
        found.append((x, y, round(size[0] * shrink), round(size[1] * shrink), size))
    return found


def assert_same_pixels(ours: Slide, theirs: Slide) -> None:
    for seed, shrink in enumerate((1, 2, 3, 4, 2.17, 1.09)):
        for area in areas(shrink, seed):
            np.testing.assert_array_equal(ours.read(*area), theirs.read(*area), str((shrink, area)))


@pytest.mark.parametrize("name", READ_BY_TILES)
def test_pixels_are_openslides(name: str, tmp_path: Path) -> None:
    picture = stained(*SIZE)
    path = write_jpeg_slide(tmp_path / "slide.svs", picture, **READ_BY_TILES[name])
    mpp = None if READ_BY_TILES[name].get("mpp", 0.5) else 0.5
    with JpegTilesReader(JpegTilesConfig()).open(path, mpp) as ours, OpenSlideSlide(path, mpp) as theirs:
        assert ours.read_by == BY_TILES
        assert (ours.mpp, ours.mpp_source, ours.dimensions) == (
            theirs.mpp,
            theirs.mpp_source,
            theirs.dimensions,
        )
        assert_same_pixels(ours, theirs)
        shown = ours.read(100, 600, 64, 64, (64, 64)).astype(int)
        assert (
            np.abs(shown - picture[600:664, 100:164]).mean() < 20
        )  # JPEG's loss; wrong colours differ by over 40
        np.testing.assert_array_equal(ours.thumbnail(300)[0], theirs.thumbnail(300)[0])


def test_a_real_scanners_tiles_are_openslides() -> None:
    with JpegTilesSlide(REAL_SLIDE) as ours, OpenSlideSlide(REAL_SLIDE) as theirs:
        assert ours.read_by == BY_TILES
        assert_same_pixels(ours, theirs)


@given(
    x=st.integers(-300, 2300),
    y=st.integers(-300, 3000),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    shrink=st.integers(1, 6),
)
@settings(max_examples=100, deadline=None)
def test_any_area_is_openslides(x: int, y: int, width: int, height: int, shrink: int) -> None:
    with JpegTilesSlide(REAL_SLIDE) as ours, OpenSlideSlide(REAL_SLIDE) as theirs:
        area = (x, y, width * shrink, height * shrink, (width, height))
        np.testing.assert_array_equal(ours.read(*area), theirs.read(*area))


def _jpeg2000(path: Path, picture: NDArray[np.uint8]) -> Path:
    return write_jpeg_slide(path, picture, jpeg2000=True)


def _lossless(path: Path, picture: NDArray[np.uint8]) -> Path:
    return write_slide(path, picture, mpp=0.5)


def _damaged_probe(path: Path, picture: NDArray[np.uint8]) -> Path:
    write_jpeg_slide(path, picture)
    damage_tile(path, 0, 0)
    return path


def _rgb_said_to_be_ycbcr(path: Path, picture: NDArray[np.uint8]) -> Path:
    """A marker that contradicts the TIFF: OpenSlide believes the TIFF."""
    write_jpeg_slide(path, picture, adobe=True)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"Adobe\x00\x64\x00\x00\x00\x00\x01", b"Adobe\x00\x64\x00\x00\x00\x00\x00")
    )
    return path


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_jpeg2000, "level 0 is stored as APERIO_JP2000_RGB, not as JPEG"),
        (_lossless, "level 0 is stored as ADOBE_DEFLATE, not as JPEG"),
        (_damaged_probe, "the tile in column 0, row 0 is damaged"),
        (_rgb_said_to_be_ycbcr, "the tile in column 0, row 0 has other pixels than OpenSlide's"),
    ],
)
def test_what_is_not_openslides_is_left_to_it(write: Any, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.svs", stained(*SIZE))
    with JpegTilesSlide(path) as ours, OpenSlideSlide(path) as theirs:
        assert ours.read_by == "OpenSlide"
        assert ours.read_by_reason.startswith(reason)
        area = (300, 300, 400, 300, (200, 150))
        np.testing.assert_array_equal(ours.read(*area), theirs.read(*area))


def test_a_damaged_tile_is_named_when_it_is_needed_and_harms_nothing_else(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "slide.svs", stained(1600, 1400))
    damage_tile(path, 0, 8)  # no probe
    with JpegTilesSlide(path) as ours:
        assert ours.read_by == BY_TILES
        ours.read(512, 512, 512, 512, (256, 256))
        with pytest.raises(
            SlideError, match=r"cannot read 256×256 px at level-0 pixel \(256, 256\), level 0"
        ):
            ours.read(0, 0, 512, 512, (256, 256))


def test_half_scale_is_near_and_used_only_where_it_may_be() -> None:
    reader = JpegTilesReader(JpegTilesConfig(decode="half"))
    with reader.open(REAL_SLIDE) as half, JpegTilesSlide(REAL_SLIDE) as full:
        assert half.read_by == "JPEG tiles at half scale"
        for shrink in (2, 4):
            area = (240, 240, 480 * shrink, 600 * shrink, (480, 600))
            difference = np.abs(half.read(*area).astype(int) - full.read(*area))
            assert 0 < difference.mean() < 0.2
        for shrink in (1, 3):
            area = (240, 240, 480 * shrink, 600 * shrink, (480, 600))
            np.testing.assert_array_equal(half.read(*area), full.read(*area))
