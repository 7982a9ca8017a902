"""Reconstruction of the aligned grid from the positions of patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.floating[Any]]
AGREEMENT = 0.01
"""Relative difference up to which sides of patches are equal except for rounding."""


def rebuild_grid(
    places: Mapping[int, Places], sides: Mapping[int, float | None], slack: float | None = None
) -> dict[int, NDArray[np.int32]] | None:
    """The grid of patches without overlap, or None if they are not on a common lattice.

    At each magnification, patches must be adjacent on a lattice, at distinct positions, such that a coarser patch
    consists of k × k finer ones. As in :class:`milsurv.features.bag.Bag`, the coarser patch (c, r) then covers the
    finer patches (k·c..k·c+k-1, k·r..k·r+k-1). Columns and rows are at least 0, and are counted from the slide's corner
    if the lattice starts there.

    Args:
        places: magnification -> ``(n, 2)`` (x, y) of top-left corners. Each magnification divides the finer ones.
        sides: magnification -> side of its patches in the same unit; None: inferred from the distances of neighbours,
            if these agree.
        slack: maximum distance of a corner from the lattice; None: 1 % of the side of the finest patches.
    """
    finest = max(places)
    known = {m: sides[m] or _neighbour_distance(places[m]) for m in places}
    for step in _steps(places[finest], known[finest]):
        fits = all(
            side is not None and abs(side * m / (step * finest) - 1) <= AGREEMENT for m, side in known.items()
        )
        if fits:
            grid = _on_lattice(places, step, AGREEMENT * step if slack is None else slack)
            if grid is not None:
                return grid
    return None


def _steps(places: Places, side: float | None) -> Iterator[float]:
    """Candidates for the side of a patch: as given, then from the distances of neighbours; either may be rounded."""
    if side is None:
        return
    yield side
    gaps = _gaps(places)
    near = gaps[np.abs(gaps / side - 1) <= AGREEMENT]
    if len(near):
        yield float(np.median(near))


def _gaps(places: Places) -> NDArray[np.float64]:
    """Distances from each patch to the next in its row and in its column."""
    found = []
    for axis in (0, 1):
        across = places[:, 1 - axis].round(3)
        order = np.lexsort((places[:, axis], across))
        same = np.diff(across[order]) == 0
        found.append(np.diff(places[order, axis])[same])
    return np.concatenate(found)


def _neighbour_distance(places: Places) -> float | None:
    """The smallest distance in rows and columns, if at least half of all distances equal it; otherwise None."""
    gaps = _gaps(places)
    if not len(gaps) or gaps.min() <= 0:
        return None
    smallest = float(gaps.min())
    return smallest if (gaps <= smallest * (1 + AGREEMENT)).mean() >= 0.5 else None


def _on_lattice(
    places: Mapping[int, Places], step: float, slack: float
) -> dict[int, NDArray[np.int32]] | None:
    """The grid with ``step`` at the finest magnification, starting at the slide's corner or at an offset; else None."""
    finest, coarsest = max(places), min(places)
    anchor = places[coarsest][0] % (step * (finest // coarsest))
    for origin in (np.zeros(2), anchor):
        grid = {}
        for m, corners in places.items():
            side = step * (finest // m)
            cells = np.rint((corners - origin) / side)
            if np.abs(corners - origin - cells * side).max() > slack or len(np.unique(cells, axis=0)) < len(
                cells
            ):
                break
            grid[m] = cells.astype(np.int64)
        else:
            lowest = np.min([(cells // (m // coarsest)).min(axis=0) for m, cells in grid.items()], axis=0)
            before = np.minimum(lowest, 0)
            return {m: (cells - before * (m // coarsest)).astype(np.int32) for m, cells in grid.items()}
    return None
