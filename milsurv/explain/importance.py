"""How much each patch contributes to a model's output: attention weights and occlusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.losses.base import Loss
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress
from milsurv.training.model import SurvivalModel, load_model
from milsurv.training.seeds import seed_torch

Kind = Literal["attention", "occlusion"]
Values = dict[int, NDArray[np.float64]]
"""Magnification -> ``(n,)``, a value per patch."""
MAX_PASSES = 400
"""Maximum number of forward passes of occlusion over all models, unless :data:`MIN_BLOCKS` requires more."""
MIN_BLOCKS = 32
"""Minimum number of blocks for occlusion with each model."""


@dataclass(frozen=True)
class Blocks:
    """Square blocks of patches that occlusion leaves out together."""

    index: Mapping[int, NDArray[np.int64]]
    """Magnification -> ``(n,)``, the block of each patch. Patches of other magnifications are always kept."""
    count: int
    side: int
    """Side of a block, in patches of the coarsest of these magnifications."""

    def describe(self) -> str:
        """``squares of 2 × 2 5x patches, with all finer patches in them``."""
        coarsest = min(self.index)
        squares = f"squares of {self.side} × {self.side}" if self.side > 1 else "single"
        finer = ", with all finer patches in them" if len(self.index) > 1 else ""
        return f"{squares} {coarsest}x patches{finer}"


@dataclass(frozen=True)
class Importance:
    """Importance of each patch, averaged over models.

    Attributes:
        values: attention in multiples of uniform, or the decrease of the standardised risk without the patch.
        fused: attention averaged over magnifications, for the finest magnification in ``values``; None without a grid.
        blocks: the blocks that occlusion left out.
    """

    kind: Kind
    values: Values
    fused: NDArray[np.float64] | None = None
    blocks: tuple[Blocks, ...] = ()


@dataclass(frozen=True)
class Explainer:
    """Models whose mean attention or occlusion is shown."""

    models: tuple[tuple[Path, int], ...]
    """Model files, each with the seed of its training."""
    registry: Registry
    device: str
    description: str = ""
    """The aggregator, its run, and which of the run's models these are."""
    seen_in_training: bool = False
    """Whether every model was trained on the slide's case."""
    use_occlusion: bool = False
    """If not set, occlusion is only used for aggregators without attention."""

    def importance(
        self, slide_id: str, bag: Bag, sides: Mapping[int, float], progress: RunProgress
    ) -> Importance:
        """Attention or occlusion. ``sides``: magnification -> side of its patches in level-0 pixels.

        Raises MilsurvError when occlusion is impossible because there is only one patch or block.
        """
        values = {} if self.use_occlusion else self.attention(slide_id, bag)
        if not values:
            return self._occlusion(slide_id, bag, sides, progress)
        if bag.grid is not None:
            return Importance("attention", values, fuse(values, bag.grid))
        return Importance("attention", values, values[max(values)] if len(values) == 1 else None)

    def attention(self, slide_id: str, bag: Bag) -> Values:
        """Mean attention in multiples of uniform; empty when the aggregator has no attention."""
        moved, values = bag.to(self.device), []
        for path, seed in self.models:
            network = load_model(path, self.registry, self.device).model
            values.append(attention(network, moved, seed, 0, slide_id))
        return _mean(values)

    def _occlusion(
        self, slide_id: str, bag: Bag, sides: Mapping[int, float], progress: RunProgress
    ) -> Importance:
        blocks = make_blocks(bag, sides, max(MIN_BLOCKS, MAX_PASSES // len(self.models) - 1))
        if not blocks:
            raise MilsurvError(f"slide {slide_id}: it has a single patch, and occlusion needs at least two")
        moved, values = bag.to(self.device), []
        passes = len(self.models) * (1 + sum(part.count for part in blocks))
        with progress.stage("occlusion", passes, "bags") as stage:
            for path, seed in self.models:
                network, loss, about, _ = load_model(path, self.registry, self.device)
                decrease = occlusion(network, loss, moved, blocks, stage.advance, seed, 0, slide_id)
                deviation = about["risk_deviation"] or 1.0
                values.append({m: of_m / deviation for m, of_m in decrease.items()})
        return Importance("occlusion", _mean(values), blocks=tuple(blocks))


def _mean(of_models: Sequence[Values]) -> Values:
    return {m: np.mean([values[m] for values in of_models], axis=0) for m in of_models[0]}


@torch.no_grad()
def attention(model: SurvivalModel, bag: Bag, *seed: object) -> Values:
    """Attention of ``model`` in multiples of uniform, i.e. weight · n; empty when the aggregator has none.

    Random numbers drawn by the aggregator are determined by ``seed``.
    """
    seed_torch(_device(model), *seed)
    return {m: (weights.double() * len(weights)).cpu().numpy() for m, weights in model.attention(bag).items()}


@torch.no_grad()
def occlusion(
    model: SurvivalModel,
    loss: Loss,
    bag: Bag,
    blocks: Sequence[Blocks],
    on_pass: Callable[[], None],
    *seed: object,
) -> Values:
    """Decrease of the risk when a patch's block is left out of the bag; positive where the block raises the risk.

    One forward pass for the whole bag and one for each block; ``on_pass`` is called after each. Random numbers drawn
    by the aggregator are determined by ``seed``, the same for every pass. Raises MilsurvError when one block contains
    all patches of a magnification.
    """

    def risk(part: Bag) -> float:
        seed_torch(_device(model), *seed)
        value = float(loss.risk(model(part).float().cpu().unsqueeze(0)))
        on_pass()
        return value

    whole = risk(bag)
    values: Values = {}
    for part in blocks:
        decreases = np.array([whole - risk(_without(bag, part, number)) for number in range(part.count)])
        values |= {m: decreases[index] for m, index in part.index.items()}
    return values


def make_blocks(bag: Bag, sides: Mapping[int, float], max_blocks: int) -> list[Blocks]:
    """The smallest square blocks such that there are at most ``max_blocks`` in total.

    With a grid, a block is a square of the coarsest grid with all patches that lie in it, at every magnification.
    Without one, each magnification is cut into its own blocks by ``bag.coords`` and the ``sides`` of its patches in
    level-0 pixels; a magnification with a single patch gets none.
    """
    if bag.grid is not None:
        coarsest = min(bag.grid)
        return [
            _squares({m: grid.cpu().numpy() // (m // coarsest) for m, grid in bag.grid.items()}, max_blocks)
        ]
    assert bag.coords is not None
    several = {m: coords.cpu().numpy() for m, coords in bag.coords.items() if len(coords) > 1}
    cells = {m: ((coords - coords.min(0)) // sides[m]).astype(np.int64) for m, coords in several.items()}
    return [_squares({m: of_m}, max(2, max_blocks // len(cells))) for m, of_m in cells.items()]


def _squares(cells: Mapping[int, NDArray[np.integer]], max_blocks: int) -> Blocks:
    """``cells``: magnification -> ``(n, 2)`` (column, row) in one common grid."""
    together = np.concatenate(list(cells.values()))
    side, count = 0, max_blocks + 1
    while count > max_blocks:
        side += 1
        found, index = np.unique(together // side, axis=0, return_inverse=True)
        count = len(found)
    ends = np.cumsum([len(of_m) for of_m in cells.values()])[:-1]
    return Blocks(dict(zip(cells, np.split(index.reshape(-1), ends), strict=True)), count, side)


def _without(bag: Bag, blocks: Blocks, number: int) -> Bag:
    device = next(iter(bag.features.values())).device
    kept = {
        m: torch.from_numpy(np.flatnonzero(index != number)).to(device) for m, index in blocks.index.items()
    }
    if empty := ", ".join(f"{m}x" for m, rows in kept.items() if not len(rows)):
        raise MilsurvError(
            f"occlusion leaves out blocks of patches, but all patches at {empty} lie in one block; use a slide with "
            "more tissue, or an aggregator with attention"
        )

    def cut(tensors: Mapping[int, Tensor] | None) -> dict[int, Tensor] | None:
        return (
            None
            if tensors is None
            else {m: tensor[kept[m]] if m in kept else tensor for m, tensor in tensors.items()}
        )

    return Bag(cut(bag.features) or {}, cut(bag.coords), cut(bag.grid))


def fuse(relative: Values, grid: Mapping[int, Tensor]) -> NDArray[np.float64]:
    """``(n,)`` for the finest magnification: the mean of ``relative`` over the patches that cover each finest patch.

    The finest patch (c, r) is covered at magnification m, k times coarser, by (c // k, r // k).
    """
    finest = max(relative)
    cells = grid[finest].cpu().numpy()
    covering = []
    for m, values in relative.items():
        by_cell = pd.Series(values, _index(grid[m].cpu().numpy()))
        covering.append(by_cell.reindex(_index(cells // (finest // m))).to_numpy())
    return np.asarray(np.nanmean(covering, axis=0))


def _index(cells: NDArray[np.integer]) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(pd.DataFrame(cells))


def _device(model: SurvivalModel) -> torch.device:
    return next(model.buffers()).device
