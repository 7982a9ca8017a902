"""reading a 40x slide's 20x, 10x and 5x patches, beside one read_region and one PIL resize for each patch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import openslide
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import Row, fresh, in_turn
from milsurv.config.run import Tiling
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.jpeg_tiles import JpegTilesConfig, JpegTilesReader
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import OpenSlideSlide, Slide
from milsurv.slides.tissue import TissueMask
from tests.slides.make_slides import write_jpeg_slide

TILING = Tiling()
MASK_PX = 64
SIDES = {"whole": (20000, 16000), "part": (12288, 12288)}
"""Pixels of level 0: of the slide, and of its middle, where the speeds are measured."""


def rows(quick: bool) -> Iterator[Row]:
    """A slide of 20000×16000 px at 0.25 µm/px, levels 1, 4 and 16 in JPEG tiles, page cache warm.

    Tiles of 240 px, as Aperio's scanners store them, and of 256 px, on which all patches begin with a tile.
    """
    size = (2560, 2048) if quick else SIDES["whole"]
    for tile_px in (240,) if quick else (240, 256):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "slide.svs")
            write_jpeg_slide(Path(path), _picture(size), mpp=0.25, downsamples=(1, 4, 16), tile_px=tile_px)
            yield from _speeds(path, f"{tile_px} px tiles", repeats=1 if quick else 3)
            yield from _memory(path, f"{tile_px} px tiles")


def _speeds(path: str, name_of_slide: str, repeats: int) -> Iterator[Row]:
    usage = in_turn(
        repeats,
        {
            "ours": fresh(ours, path, "full", 1),
            "ours, half": fresh(ours, path, "half", 1),
            "ours, two threads": fresh(ours, path, "full", 2),
            "plain": fresh(plain, path),
            "tiles": fresh(tiles, path),
        },
    )
    with OpenSlideSlide(Path(path)) as slide:
        count = sum(len(places) for places in _grid(slide, "part").grid.values())
    rate = {name: count / used.cpu for name, used in usage.items()}
    for who, other, what in (
        ("ours", "plain", "patches per CPU second"),
        ("ours, half", "plain", "the same with decode: half"),
        ("ours", "tiles", "plain decodes each tile once, no more"),
    ):
        yield Row(f"{name_of_slide}: {what}", "/s", rate[who], rate[other], more_is_better=True)
    two, one = (count / usage[name].wall for name in ("ours, two threads", "ours"))
    yield Row(f"{name_of_slide}: two threads, plain is ours with one", "/s", two, one, more_is_better=True)


def _memory(path: str, name_of_slide: str) -> Iterator[Row]:
    imports = fresh(nothing)().peak
    for area in ("part", "whole"):
        peak = fresh(ours, path, "full", 2, area)().peak
        yield Row(f"{name_of_slide}: memory above the imports, {area} of it", "MB", peak - imports, None)


def ours(path: str, decode: str, threads: int, area: str = "part") -> Callable[[], object]:
    cv2.setNumThreads(1)
    slide = JpegTilesReader(JpegTilesConfig.model_validate({"decode": decode})).open(Path(path))
    assert slide.read_by.startswith("JPEG tiles")
    grid = _grid(slide, area)

    def work() -> None:
        for _ in read_grid(slide, grid, TILING, threads):
            pass

    return work


def nothing() -> Callable[[], object]:
    return lambda: None


def plain(path: str) -> Callable[[], object]:
    """Each patch is read from the nearest stored level, which saves it most of the work."""
    with OpenSlideSlide(Path(path)) as opened:
        grid = _grid(opened, "part")
    slide, size = openslide.OpenSlide(path), (TILING.patch_px, TILING.patch_px)

    def work() -> None:
        for m, magnification in grid.magnifications.items():
            stored = slide.get_best_level_for_downsample(magnification.factor)
            side = round(magnification.patch_level0 / slide.level_downsamples[stored])
            for x, y in grid.coords[m].tolist():
                region = slide.read_region((x, y), stored, (side, side)).convert("RGB")
                np.asarray(region.resize(size, Image.Resampling.BOX))

    return work


def tiles(path: str) -> Callable[[], object]:
    """The limit: the tiles under the patches decoded, nothing else."""
    with OpenSlideSlide(Path(path)) as opened:
        grid = _grid(opened, "part")
    side = grid.magnifications[TILING.magnifications[-1]].patch_level0
    coarsest = grid.coords[TILING.magnifications[-1]]
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offsets, sizes, tile_px = page.dataoffsets, page.databytecounts, page.tilewidth
        columns = -(-page.imagewidth // tile_px)
        rows_stored = -(-page.imagelength // tile_px)
    needed = {
        (row * columns + column)
        for x, y in coarsest.tolist()
        for row in range(y // tile_px, min(-(-int(y + side) // tile_px), rows_stored))
        for column in range(x // tile_px, min(-(-int(x + side) // tile_px), columns))
    }

    def work() -> None:
        with Path(path).open("rb") as file:
            for tile in sorted(needed):
                file.seek(offsets[tile])
                simplejpeg.decode_jpeg(file.read(sizes[tile]), "RGB")

    return work


def _grid(slide: Slide, area: str) -> PatchGrid:
    """All patches of the slide, or those in its middle."""
    mask = np.zeros((slide.dimensions[1] // MASK_PX, slide.dimensions[0] // MASK_PX), bool)
    wanted = (min(side // MASK_PX, most) for side, most in zip(SIDES[area], mask.shape[::-1], strict=True))
    left, top = ((most - side) // 2 for most, side in zip(mask.shape[::-1], wanted, strict=True))
    mask[top : mask.shape[0] - top, left : mask.shape[1] - left] = True
    return make_grid(slide.dimensions, slide.mpp, TissueMask(mask, float(MASK_PX)), TILING)


def _picture(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Blotches with some grain, which compress about as tissue does, repeated."""
    rng = np.random.default_rng(0)
    side = 4000
    blotches = rng.integers(60, 240, (side // 16, side // 16, 3), np.uint8)
    smooth = cv2.resize(blotches, (side, side), interpolation=cv2.INTER_CUBIC)
    grainy = np.asarray(cv2.add(smooth, rng.integers(0, 12, smooth.shape, np.uint8)), np.uint8)
    repeats = (-(-size[1] // side), -(-size[0] // side), 1)
    return np.tile(grainy, repeats)[: size[1], : size[0]]
