"""The aligned grid of patches that are used, at every magnification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milsurv.config.run import Tiling
from milsurv.errors import ResolutionError, SlideError
from milsurv.slides.tissue import TissueMask

ROUNDING = 1e-9
"""Tolerance for comparisons of quotients of floats."""


@dataclass(frozen=True)
class Magnification:
    """One magnification of a slide's grid."""

    value: int
    mpp: float
    """Actual µm per patch pixel."""
    factor: float
    """Level-0 pixels per patch pixel."""
    patch_level0: float
    """Side of a patch in level-0 pixels."""


@dataclass(frozen=True)
class PatchGrid:
    """The patches of a slide by magnification, finest first, each in row-major order.

    Attributes:
        magnifications: magnification -> its resolution.
        grid: magnification -> ``(n, 2)`` int32, (column, row) in units of that magnification's patches. With
            ``k`` the ratio of two magnifications, the coarser patch (c, r) covers the finer patches
            (k·c..k·c+k-1, k·r..k·r+k-1).
        coords: magnification -> ``(n, 2)`` int64, (x, y) of a patch's top-left corner in level-0 pixels:
            ``grid * patch_level0``, rounded.
    """

    magnifications: dict[int, Magnification]
    grid: dict[int, NDArray[np.int32]]
    coords: dict[int, NDArray[np.int64]]

    @property
    def counts(self) -> dict[int, int]:
        """Magnification -> number of patches."""
        return {m: len(places) for m, places in self.grid.items()}

    def only(self, kept: Mapping[int, NDArray[np.bool_]]) -> PatchGrid:
        """The grid with the patches that are ``kept`` (magnification -> ``(n,)``)."""
        return PatchGrid(
            self.magnifications,
            {m: places[kept[m]] for m, places in self.grid.items()},
            {m: corners[kept[m]] for m, corners in self.coords.items()},
        )


def make_grid(dimensions: tuple[int, int], mpp: float, mask: TissueMask, tiling: Tiling) -> PatchGrid:
    """The tissue patches of a slide with ``dimensions`` (width, height) in level-0 pixels of ``mpp`` µm.

    A patch of the finest magnification is kept if it is entirely on the slide and at least ``tiling.min_tissue``
    of it is tissue. A coarser patch, which may extend beyond the slide, is kept if one of its finer patches is. Raises
    SlideError if the slide is too coarse for the finest magnification, has no tissue, or keeps no patch.
    """
    magnifications = make_magnifications(mpp, tiling)
    finest = magnifications[tiling.magnifications[0]]
    columns, rows = (int(side / finest.patch_level0 + ROUNDING) for side in dimensions)
    if not (columns and rows):
        raise SlideError(
            f"too small: {dimensions[0]}×{dimensions[1]} px contain no {finest.value}x patch "
            f"of {finest.patch_level0:g} px"
        )
    if not mask.mask.any():
        why = "".join(f"; {warning}" for warning in mask.warnings)
        raise SlideError(f"no tissue was found on the slide; check the settings under tissue{why}")
    share = _tissue_share(mask, _edges(columns, finest), _edges(rows, finest))
    kept = share >= tiling.min_tissue - ROUNDING
    if not kept.any():
        raise SlideError(
            f"no tissue: no {finest.value}x patch is at least {tiling.min_tissue:.0%} tissue (tiling.min_tissue); the "
            f"largest share is {share.max():.1%}"
        )
    grid, coords = {}, {}
    for magnification in magnifications:
        ratio = finest.value // magnification
        places = np.argwhere(_any_of(kept, ratio))[:, ::-1]
        grid[magnification] = places.astype(np.int32)
        coords[magnification] = np.rint(places * ratio * finest.patch_level0).astype(np.int64)
    return PatchGrid(magnifications, grid, coords)


def make_magnifications(mpp: float, tiling: Tiling) -> dict[int, Magnification]:
    """The resolution of each magnification, finest first, on a slide of ``mpp`` µm per level-0 pixel.

    Magnification m has 10 / m µm/px. The finest has an integer number of level-0 pixels per patch pixel if that
    is within ``tiling.resolution_tolerance``, else the exact factor; the others are integer multiples of it. Raises
    ResolutionError if the slide is too coarse.
    """
    finest = tiling.magnifications[0]
    factor = 10 / finest / mpp
    integer = max(1, round(factor))
    if abs(integer / factor - 1) <= tiling.resolution_tolerance + ROUNDING:
        factor = float(integer)
    elif factor < 1:
        raise ResolutionError(_too_coarse(mpp, tiling))
    magnifications = {}
    for magnification in tiling.magnifications:
        its_factor = factor * (finest // magnification)
        magnifications[magnification] = Magnification(
            magnification, mpp * its_factor, its_factor, its_factor * tiling.patch_px
        )
    return magnifications


def _too_coarse(mpp: float, tiling: Tiling) -> str:
    finest = tiling.magnifications[0]
    limit = 10 / mpp * (1 + tiling.resolution_tolerance)
    allowed = [magnification for magnification in tiling.magnifications if magnification <= limit + ROUNDING]
    names = ", ".join(f"{magnification}x" for magnification in allowed) or "none of tiling.magnifications"
    return (
        f"too coarse for {finest}x: it has {mpp:.4g} µm/px, but {finest}x needs {10 / finest:g}; it allows "
        f"{names} (at most {limit:.3g}x): change tiling.magnifications, or correct the µm/px if it is wrong"
    )


def _edges(count: int, magnification: Magnification) -> NDArray[np.float64]:
    """``(count + 1,)`` borders of a row of patches in level-0 pixels."""
    return np.asarray(np.rint(np.arange(count + 1) * magnification.patch_level0))


def _tissue_share(mask: TissueMask, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of tissue ``(len(y) - 1, len(x) - 1)`` between the borders ``x`` and ``y`` (level-0 pixels)."""
    to_edge = np.pad(mask.mask, ((0, 1), (0, 1)), mode="edge")  # the mask's size is rounded to whole pixels
    integral = np.pad(to_edge.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    at_borders = _interpolate(_interpolate(integral, y / mask.downsample).T, x / mask.downsample).T
    tissue = np.diff(np.diff(at_borders, axis=0), axis=1) * mask.downsample**2
    return np.asarray(tissue / np.outer(np.diff(y), np.diff(x)))


def _interpolate(values: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``values`` at fractional positions; exact for the integral of a mask, which is linear within pixels."""
    places = places.clip(0, len(values) - 1)
    below = np.minimum(places.astype(np.int64), len(values) - 2)
    weight = (places - below)[:, None]
    return np.asarray(values[below] * (1 - weight) + values[below + 1] * weight)


def _any_of(kept: NDArray[np.bool_], ratio: int) -> NDArray[np.bool_]:
    """Whether any patch of each ``ratio`` × ``ratio`` block is kept."""
    rows, columns = kept.shape
    padded = np.pad(kept, ((0, -rows % ratio), (0, -columns % ratio)))
    blocks = padded.reshape(padded.shape[0] // ratio, ratio, padded.shape[1] // ratio, ratio)
    return np.asarray(blocks.any(axis=(1, 3)))
