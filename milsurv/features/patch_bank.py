"""The bank of a scenario: the embedded patches of its pictures, from which the features of slides are gathered.

A bank is one file in the format of feature files, without places: at each magnification the patches of block after
block, within a block row by row. A block is a patch of the coarsest magnification with all finer patches within it.
Features are reduced to their leading principal components, which are fitted to all patches of the bank, without labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.errors import MilsurvError
from milsurv.executors.base import Context
from milsurv.features.store import MagnificationFeatures, read_attributes, read_features, write_features
from milsurv.synthetic.scenarios import places

COMPONENTS = 64
"""Principal components of the patches of one magnification that are kept."""

Features = dict[int, NDArray[np.floating[Any]]]
"""Magnification -> ``(blocks, patches of a block, d)``."""


@dataclass(frozen=True)
class PatchBank:
    """The content of a bank's file."""

    features: Features
    patch_level0: dict[int, float]
    """Magnification -> side of a patch in level-0 pixels."""
    mpp: dict[int, float]
    """Magnification -> µm per patch pixel."""
    blocks_of: dict[str, NDArray[np.int64]]
    """Id of a picture -> its blocks."""

    def gather(self, blocks: pd.DataFrame) -> dict[int, MagnificationFeatures]:
        """The features of a slide that is arranged from ``blocks``, see ``milsurv.synthetic.scenarios``.

        Patches are in row-major order. Raises MilsurvError when a picture is not in the bank.
        """
        finest, coarsest = max(self.features), min(self.features)
        corners = blocks[["column", "row"]].to_numpy()
        taken = {
            kind: self._rows(blocks[f"{kind}_from"], blocks[f"{kind}_part"]) for kind in ("cells", "coarse")
        }
        gathered = {}
        for m, features in self.features.items():
            ratio = m // coarsest
            grid = (corners[:, None] * ratio + places(ratio**2)).reshape(-1, 2)
            order = np.lexsort(grid.T)
            found = features[taken["cells" if m == finest else "coarse"]]
            gathered[m] = MagnificationFeatures(
                found.reshape(-1, found.shape[-1])[order],
                np.rint(grid[order] * self.patch_level0[m]).astype(np.int64),
                grid[order].astype(np.int32),
                self.mpp[m],
                self.patch_level0[m],
            )
        return gathered

    def _rows(self, pictures: pd.Series[str], parts: pd.Series[int]) -> NDArray[np.int64]:
        unknown = set(pictures) - self.blocks_of.keys()
        if unknown:
            raise MilsurvError(
                f"the bank has no picture {min(unknown)}; use the arrangements of its own scenario"
            )
        chosen = ((self.blocks_of[name], part) for name, part in zip(pictures, parts, strict=True))
        return np.array([of_picture[part % len(of_picture)] for of_picture, part in chosen], np.int64)


@lru_cache(maxsize=1)
def read_bank(path: Path) -> PatchBank:
    """Read a bank; the last one is kept in memory. Raises MilsurvError when there is none, or it is damaged."""
    if not path.is_file():
        raise MilsurvError(
            f"{path}: there is no bank of patches; start a run of the scenario in this workspace first"
        )
    stored, pictures = read_features(path), read_attributes(path, ("pictures",))["pictures"]
    blocks = len(pictures)
    return PatchBank(
        {m: of_m.features.reshape(blocks, (m // min(stored)) ** 2, -1) for m, of_m in stored.items()},
        {m: of_m.patch_level0 or 0.0 for m, of_m in stored.items()},
        {m: of_m.mpp or 0.0 for m, of_m in stored.items()},
        {name: np.flatnonzero(np.array(pictures) == name) for name in dict.fromkeys(pictures)},
    )


def make_bank(context: Context, files: Mapping[str, Path], path: Path, settings: Mapping[str, Any]) -> None:
    """Unit of work: make the bank from its pictures' feature files (id -> file), unless it exists.

    Raises MilsurvError when a picture contains no block, or a feature file is damaged.
    """
    if path.exists():
        return
    pictures: list[str] = []
    blocks: dict[int, list[NDArray[np.floating[Any]]]] = {}
    stored: dict[int, MagnificationFeatures] = {}
    for name, file in files.items():
        context.raise_if_stopped()
        stored = read_features(file)
        found = _complete_blocks(stored)
        if not len(found[min(found)]):
            raise MilsurvError(
                f"no patch at {min(found)}x lies within picture {name}; reduce tiling.patch_px, or omit the "
                "coarsest of tiling.magnifications"
            )
        pictures += [name] * len(found[min(found)])
        for m, of_m in found.items():
            blocks.setdefault(m, []).append(of_m)
    reduced, explained = {}, {}
    for m, parts in blocks.items():
        patches = np.concatenate(parts)
        flat, explained[str(m)] = reduce_features(patches.reshape(-1, patches.shape[-1]))
        reduced[m] = MagnificationFeatures(
            flat.astype(stored[m].features.dtype), mpp=stored[m].mpp, patch_level0=stored[m].patch_level0
        )
    attributes = {"pictures": pictures, "explained_variance": explained, "settings": dict(settings)}
    write_features(path, reduced, attributes)


def _complete_blocks(stored: Mapping[int, MagnificationFeatures]) -> Features:
    """The blocks of which every patch has features, in the grid's order."""
    grids = {m: of_m.grid for m, of_m in stored.items() if of_m.grid is not None}
    coarsest = min(grids)
    columns, rows = grids[coarsest].max(axis=0) + 1
    found: Features = {}
    for m, grid in grids.items():
        features, ratio = stored[m].features, m // coarsest
        (column, row), (right, down) = (part.T for part in np.divmod(grid, ratio))
        table = np.full((rows, columns, ratio, ratio, features.shape[1]), np.nan, features.dtype)
        table[row, column, down, right] = features
        found[m] = table.reshape(rows * columns, ratio**2, -1)
    complete = np.logical_and.reduce([~np.isnan(of_m).any(axis=(1, 2)) for of_m in found.values()])
    return {m: of_m[complete] for m, of_m in found.items()}


def reduce_features(features: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], float | None]:
    """Leading principal components ``(n, COMPONENTS)`` of features ``(n, d)``, and the share of variance they have.

    The largest coefficient of each component is positive. There are fewer components if ``d`` is smaller. The share is
    None if all features are equal.
    """
    centred = features.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred)
    kept = vectors[:, ::-1][:, :COMPONENTS]
    largest = kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])]
    total = float(variances.sum())
    share = float(variances[::-1][:COMPONENTS].sum()) / total if total > 0 else None
    return centred @ (kept * np.sign(largest)), share
