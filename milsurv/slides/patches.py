"""Pixels of a grid's patches: every area of the slide is read once, for all magnifications."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from milsurv.slides.grid import Level, PatchGrid
from milsurv.slides.reader import Slide

MAX_READ_PX = 4096
"""Side in level-0 pixels up to which patches are read together; bounds the memory of a read."""


def read_patches(
    slide: Slide, grid: PatchGrid, patch_px: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
    """Every patch of ``grid`` once: magnification, index ``(k,)``, RGB ``(k, patch_px, patch_px, 3)``.

    ``index`` names the rows of ``grid.grid[magnification]``. For each patch of the coarsest magnification, in
    the grid's order, come the patches within it, those of the finest magnification first. The finest are
    averages of level 0, the coarser ones averages of the finest. Where the factor is no integer, patches lie
    within half a level-0 pixel of their place. Raises SlideError, with the place, where the slide is damaged.
    """
    levels = list(grid.levels.values())
    finest, coarsest = levels[0], levels[-1]
    indices = {magnification: _index_by_place(places) for magnification, places in grid.grid.items()}
    span = finest.magnification // coarsest.magnification
    for column, row in grid.grid[coarsest.magnification].tolist():
        block = _read_block(slide, finest, column * span, row * span, span, patch_px)
        for magnification in grid.levels:
            side = magnification // coarsest.magnification
            tiles = _cut(block, side, patch_px)
            places = [
                (column * side + right, row * side + down) for down in range(side) for right in range(side)
            ]
            kept = [tile for tile, place in enumerate(places) if place in indices[magnification]]
            index = np.array([indices[magnification][places[tile]] for tile in kept], np.int64)
            yield magnification, index, tiles[kept]


def _index_by_place(places: NDArray[np.int32]) -> dict[tuple[int, int], int]:
    return {(column, row): index for index, (column, row) in enumerate(places.tolist())}


def _read_block(
    slide: Slide, finest: Level, column: int, row: int, span: int, patch_px: int
) -> NDArray[np.uint8]:
    """``span`` × ``span`` patches of the finest magnification from (column, row) on, as one picture."""
    block = np.empty((span * patch_px, span * patch_px, 3), np.uint8)
    step = max(1, int(MAX_READ_PX / finest.patch_level0))
    cuts = [*range(0, span, step), span]
    for top, bottom in pairwise(cuts):
        for left, right in pairwise(cuts):
            x, x_end = (round((column + cut) * finest.patch_level0) for cut in (left, right))
            y, y_end = (round((row + cut) * finest.patch_level0) for cut in (top, bottom))
            size = ((right - left) * patch_px, (bottom - top) * patch_px)
            pixels = slide.read(x, y, x_end - x, y_end - y, size)
            block[top * patch_px : bottom * patch_px, left * patch_px : right * patch_px] = pixels
    return block


def _cut(block: NDArray[np.uint8], side: int, patch_px: int) -> NDArray[np.uint8]:
    """``block`` averaged to ``side`` × ``side`` patches: ``(side², patch_px, patch_px, 3)``, row by row."""
    size = (side * patch_px, side * patch_px)
    if block.shape[:2] != size:
        block = np.asarray(cv2.resize(block, size, interpolation=cv2.INTER_AREA), np.uint8)
    tiles = block.reshape(side, patch_px, side, patch_px, 3).swapaxes(1, 2)
    return tiles.reshape(side * side, patch_px, patch_px, 3)
