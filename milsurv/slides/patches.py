"""Reading the patches of a grid: every area of the slide is read once, for all magnifications."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from milsurv.config.run import Tiling
from milsurv.slides.grid import Magnification, PatchGrid
from milsurv.slides.opening import slide_faults
from milsurv.slides.reader import Slide

MAX_READ_PX = 4096
"""Largest side in level-0 pixels of an area that is read at once; bounds the memory of a read."""
WHITE, BLACK = 220, 40
"""Smallest grey level of the channels of a white pixel, and largest of a black one."""


Batch = tuple[int, NDArray[np.int64], NDArray[np.uint8]]
"""Magnification, index ``(k,)`` into that magnification's grid, RGB ``(k, patch_px, patch_px, 3)``."""


def read_grid(slide: Slide, grid: PatchGrid, tiling: Tiling, threads: int = 1) -> Iterator[Batch]:
    """Yield every patch of ``grid`` once, in a deterministic order, except those of low quality.

    Patches of the finest magnification outside ``tiling``'s bounds on quality are skipped, as are coarser patches
    that contain no remaining patch.

    For each patch of the coarsest magnification, in the grid's order, the patches within it follow, those of the
    finest magnification first. The finest are averages of level 0, coarser ones averages of the next finer. If the
    factor is not an integer, positions are rounded to level-0 pixels. ``threads`` coarsest patches are read at the same
    time. Raises SlideError, with the position, where the slide is damaged.
    """
    finest, *coarser = grid.magnifications
    coarsest = min(grid.magnifications)
    indices = {magnification: _index_by_place(places) for magnification, places in grid.grid.items()}
    span, patch_px = finest // coarsest, tiling.patch_px

    def index(kept: list[tuple[int, int]], magnification: int, place: list[int]) -> NDArray[np.int64]:
        column, row = (magnification // coarsest * at for at in place)
        return np.array(
            [indices[magnification][column + right, row + down] for down, right in kept], np.int64
        )

    def read(place: list[int]) -> list[Batch]:
        with slide_faults():
            return batches_at(place)

    def batches_at(place: list[int]) -> list[Batch]:
        column, row = (span * at for at in place)
        block = _read_block(slide, grid.magnifications[finest], column, row, span, patch_px)
        within = [(down, right) for down in range(span) for right in range(span)]
        kept = [(down, right) for down, right in within if (column + right, row + down) in indices[finest]]
        patches = _cut(block, span, kept)
        good = is_usable(patches, tiling)
        if not good.all():
            kept, patches = [kept[at] for at in np.flatnonzero(good)], patches[good]
        batches = [(finest, index(kept, finest, place), patches)]
        side = span
        for magnification in coarser:
            ratio = side // (magnification // coarsest)
            side //= ratio
            kept = sorted({(down // ratio, right // ratio) for down, right in kept})
            block = _shrink(block, side * patch_px)
            batches.append((magnification, index(kept, magnification, place), _cut(block, side, kept)))
        return batches

    for batches in _in_order(read, grid.grid[coarsest].tolist(), threads):
        yield from batches


def _in_order(
    read: Callable[[list[int]], list[Batch]], places: Sequence[list[int]], threads: int
) -> Iterator[list[Batch]]:
    """``map(read, places)`` in ``threads``, with at most twice as many results in progress or waiting."""
    if threads == 1:
        yield from map(read, places)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[Batch]]] = deque()
        try:
            for place in places:
                waiting.append(pool.submit(read, place))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _index_by_place(places: NDArray[np.int32]) -> dict[tuple[int, int], int]:
    return {(column, row): index for index, (column, row) in enumerate(places.tolist())}


def _read_block(
    slide: Slide, finest: Magnification, column: int, row: int, span: int, patch_px: int
) -> NDArray[np.uint8]:
    """``span`` × ``span`` patches of the finest magnification from (column, row), as one picture."""
    step = max(1, int(MAX_READ_PX / finest.patch_level0))
    cuts = [*range(0, span, step), span]
    strips = []
    for top, bottom in pairwise(cuts):
        parts = []
        for left, right in pairwise(cuts):
            x, x_end = (round((column + cut) * finest.patch_level0) for cut in (left, right))
            y, y_end = (round((row + cut) * finest.patch_level0) for cut in (top, bottom))
            size = ((right - left) * patch_px, (bottom - top) * patch_px)
            parts.append(slide.read(x, y, x_end - x, y_end - y, size))
        strips.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
    return strips[0] if len(strips) == 1 else np.concatenate(strips)


def _shrink(block: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """``block`` averaged to ``px`` × ``px``."""
    if len(block) == px:
        return block
    return np.asarray(cv2.resize(block, (px, px), interpolation=cv2.INTER_AREA), np.uint8)


def _cut(block: NDArray[np.uint8], side: int, kept: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """The ``kept`` (row, column) of ``block``'s ``side`` × ``side`` patches: ``(k, patch_px, patch_px, 3)``."""
    patch_px = len(block) // side
    tiles = block.reshape(side, patch_px, side, patch_px, 3).swapaxes(1, 2)
    rows, columns = np.array(kept, np.intp).reshape(-1, 2).T
    return np.ascontiguousarray(tiles[rows, columns])


def is_usable(patches: NDArray[np.uint8], tiling: Tiling) -> NDArray[np.bool_]:
    """Whether RGB ``patches (n, h, w, 3)`` are within ``tiling``'s bounds on sharpness, white and black: ``(n,)``."""
    kept = np.ones(len(patches), bool)
    if tiling.min_sharpness is not None:
        kept &= np.array([sharpness(patch) >= tiling.min_sharpness for patch in patches], bool)
    if tiling.max_white is not None:
        kept &= (patches.min(axis=3) >= WHITE).mean(axis=(1, 2)) <= tiling.max_white
    if tiling.max_black is not None:
        kept &= (patches.max(axis=3) <= BLACK).mean(axis=(1, 2)) <= tiling.max_black
    return kept


def sharpness(patch: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an RGB patch in grey (Pech-Pacheco et al., ICPR 2000)."""
    return float(cv2.Laplacian(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
