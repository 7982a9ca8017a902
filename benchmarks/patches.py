"""reading a slide's 20x, 10x and 5x patches, beside one read_region and one PIL resize for each patch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import Row, fresh, in_turn
from milsurv.cohort.pyramid import write_pyramid
from milsurv.config import Tiling
from milsurv.plugin.base import PluginConfig
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.patches import read_patches
from milsurv.slides.reader import OpenSlideReader, Slide
from milsurv.slides.tissue import TissueMask

TILING = Tiling()


def rows(quick: bool) -> Iterator[Row]:
    """Patches per second of a slide that is tissue from edge to edge, at 0.5 µm/px with levels 1, 1/2 and 1/4."""
    side = 1024 if quick else 8192
    with tempfile.TemporaryDirectory() as folder:
        path = str(write_pyramid(_picture(side), Path(folder) / "slide.svs"))
        usage = in_turn(
            1 if quick else 5,
            {
                "ours": fresh(ours, path),
                "level 0": fresh(plain, path, "level 0"),
                "nearest level": fresh(plain, path, "nearest level"),
            },
        )
        with OpenSlideReader(PluginConfig()).open(Path(path)) as slide:
            count = sum(len(places) for places in _grid(slide).grid.values())
    for source in ("level 0", "nearest level"):
        for kind, second in (("wall", "second"), ("cpu", "CPU second")):
            ours_rate, plain_rate = (count / getattr(usage[who], kind) for who in ("ours", source))
            what = f"patches per {second}, {count} patches, plain from {source}"
            yield Row(what, "/s", ours_rate, plain_rate, more_is_better=True)


def ours(path: str) -> Callable[[], object]:
    slide = OpenSlideReader(PluginConfig()).open(Path(path))
    grid = _grid(slide)

    def work() -> None:
        for _ in read_patches(slide, grid, TILING.patch_px):
            pass

    return work


def plain(path: str, source: str) -> Callable[[], object]:
    """``source``: ``level 0``, as ours reads, or the ``nearest level`` that is stored."""
    with OpenSlideReader(PluginConfig()).open(Path(path)) as opened:
        grid = _grid(opened)
    slide, size = openslide.OpenSlide(path), (TILING.patch_px, TILING.patch_px)

    def work() -> None:
        for magnification, level in grid.levels.items():
            stored = 0 if source == "level 0" else slide.get_best_level_for_downsample(level.factor)
            side = round(level.patch_level0 / slide.level_downsamples[stored])
            for x, y in grid.coords[magnification].tolist():
                region = slide.read_region((x, y), stored, (side, side)).convert("RGB")
                np.asarray(region.resize(size, Image.Resampling.BOX))

    return work


def _grid(slide: Slide) -> PatchGrid:
    everything = TissueMask(np.ones((slide.dimensions[1] // 64, slide.dimensions[0] // 64), bool), 64.0)
    return make_grid(slide.dimensions, slide.mpp, everything, TILING)


def _picture(side: int) -> NDArray[np.uint8]:
    """Blotches with some grain, which compress about as tissue does."""
    rng = np.random.default_rng(0)
    blotches = rng.integers(60, 240, (side // 16, side // 16, 3), np.uint8)
    smooth = cv2.resize(blotches, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.add(smooth, rng.integers(0, 12, smooth.shape, np.uint8)), np.uint8)
