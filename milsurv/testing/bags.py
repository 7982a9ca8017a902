"""Bags of random features for checks and for tests of plugins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from milsurv.features.bag import Bag

PATCH_LEVEL0 = 256
"""Side in level-0 pixels of a patch at the finest magnification."""


def make_bag(n: int, *, magnifications: Sequence[int] = (20, 10, 5), dim: int = 32, seed: int = 0) -> Bag:
    """A bag with ``n`` patches at the finest magnification and the coarser patches that they lie in.

    Features are standard normal float32, ``(n, dim)``; the grids are aligned, in row-major order, and have gaps as
    tissue has. The same arguments give the same bag.
    """
    generator = torch.Generator().manual_seed(seed)
    finest, *coarser = sorted(magnifications, reverse=True)
    side = math.ceil(math.sqrt(1.5 * n))
    cells = torch.randperm(side * side, generator=generator)[:n].sort().values
    grid = {finest: torch.stack([cells % side, cells // side], dim=1)}
    for magnification in coarser:
        rows_first = (grid[finest] // (finest // magnification)).flip(1)
        grid[magnification] = torch.unique(rows_first, dim=0).flip(1)
    return Bag(
        features={m: torch.randn(len(places), dim, generator=generator) for m, places in grid.items()},
        coords={m: places * PATCH_LEVEL0 * (finest // m) for m, places in grid.items()},
        grid={m: places.int() for m, places in grid.items()},
    )


def shuffled(bag: Bag, seed: int = 0) -> Bag:
    """The bag with the patches of each magnification in random order."""
    generator = torch.Generator().manual_seed(seed)
    order = {m: torch.randperm(n, generator=generator) for m, n in bag.sizes.items()}
    features, coords, grid = (
        {m: rows[order[m]] for m, rows in (tensors or {}).items()}
        for tensors in (bag.features, bag.coords, bag.grid)
    )
    return Bag(features, coords or None, grid or None)
