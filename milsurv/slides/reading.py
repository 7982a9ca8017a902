"""Reading the patches of a slide, without a configuration or a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milsurv.config.run import Tiling
from milsurv.errors import SlideError, slide_reason
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import get_registry
from milsurv.slides.grid import make_grid
from milsurv.slides.opening import find_tissue, open_slide
from milsurv.slides.patches import read_grid
from milsurv.slides.reader import Slide
from milsurv.slides.tissue import TissueMask

WHOLE_SLIDE_PX = 64
"""Level-0 pixels per pixel of a mask of the whole slide."""


def read_patches(
    path: Path | str,
    magnifications: Sequence[int] = (20, 10, 5),
    patch_px: int = 256,
    tissue: bool | Mapping[str, Any] = True,
    *,
    reader: Mapping[str, Any] | None = None,
    min_tissue: float = 0.5,
    mpp: float | None = None,
    threads: int = 1,
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
    """The patches of a slide at several magnifications, each area of level 0 read once for all of them.

    Yields ``(magnification, coords (n, 2) int64, patches (n, patch_px, patch_px, 3) uint8)``: level-0 pixels (x, y)
    of the patches' top-left corners, and RGB. The order is always the same: by patch of the coarsest magnification,
    row by row, and within it from the finest magnification to the coarsest. Magnification m has 10 / m µm per pixel.

    Args:
        tissue: True for patches of tissue found by ``otsu``; settings of a tissue segmentation, such as
            ``{"name": "otsu", "min_area_mm2": 0.1}``; False for all patches.
        reader: settings of the reader, such as ``{"name": "jpeg_tiles", "decode": "half"}`` (default:
            ``jpeg_tiles``).
        min_tissue: smallest share of tissue in a patch of the finest magnification.
        mpp: µm per level-0 pixel, if that of the slide is missing or wrong.
        threads: number of areas read at the same time.

    Raises SlideError, naming the slide, if it cannot be read, its resolution is unknown or too coarse, or it has no
    tissue.
    """
    path = Path(path)
    tiling = Tiling(magnifications=tuple(magnifications), patch_px=patch_px, min_tissue=min_tissue)
    registry = get_registry()
    opener = PluginSection(**(reader or {"name": "jpeg_tiles"}))
    segmenter = PluginSection(**({"name": "otsu"} if isinstance(tissue, bool) else tissue))
    try:
        with open_slide(registry, opener, path, mpp) as slide:
            mask = _whole_slide(slide) if tissue is False else find_tissue(registry, segmenter, slide)
            grid = make_grid(slide.dimensions, slide.mpp, mask, tiling)
            for magnification, index, patches in read_grid(slide, grid, tiling, threads):
                yield magnification, grid.coords[magnification][index], patches
    except SlideError as error:
        raise SlideError(f"{path}: {slide_reason(error, 'pass the µm per level-0 pixel as mpp')}") from error


def _whole_slide(slide: Slide) -> TissueMask:
    width, height = (-(-side // WHOLE_SLIDE_PX) for side in slide.dimensions)
    return TissueMask(np.ones((height, width), np.bool_), float(WHOLE_SLIDE_PX))
