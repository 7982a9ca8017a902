"""How much each patch of a slide counts for a model: its attention, or what leaving it out does to the risk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.losses.base import Loss
from milsurv.training.model import SurvivalModel
from milsurv.training.seeds import seed_draws

Kind = Literal["attention", "occlusion"]
Values = dict[int, NDArray[np.float64]]
"""Magnification -> ``(n,)``, a value for each patch."""


@dataclass(frozen=True)
class Blocks:
    """Patches that are left out together."""

    numbers: Mapping[int, NDArray[np.int64]]
    """Magnification -> ``(n,)`` block of each patch, from 0 on; patches of the others are never left out."""
    count: int
    side: int
    """Of the squares, in patches of the coarsest of these magnifications."""


@dataclass(frozen=True)
class Importance:
    """How much each patch counts, mean over models.

    Attributes:
        values: attention in multiples of uniform, or the fall of the standardised risk.
        fused: of attention, for the finest magnification that has some; None when the places are in no grid.
        blocks: what occlusion left out.
    """

    kind: Kind
    values: Values
    fused: NDArray[np.float64] | None = None
    blocks: tuple[Blocks, ...] = ()


def make_blocks(bag: Bag, sides: Mapping[int, float], most: int) -> list[Blocks]:
    """Squares of patches, as small as ``most`` of them in all allow.

    With a grid a block is a square of the coarsest grid with all patches that lie in it, at every magnification, so
    that none loses what it covers or lies in. Without one each magnification has blocks of its own, cut by
    ``bag.coords`` and the ``sides`` of its patches in level-0 pixels; a magnification with a single patch has none.
    """
    if bag.grid is not None:
        coarsest = min(bag.grid)
        cells = {m: places.cpu().numpy() // (m // coarsest) for m, places in bag.grid.items()}
        return [_squares(cells, most)]
    assert bag.coords is not None
    several = {m: coords.cpu().numpy() for m, coords in bag.coords.items() if len(coords) > 1}
    return [
        _squares({m: ((coords - coords.min(0)) // sides[m]).astype(np.int64)}, max(2, most // len(several)))
        for m, coords in several.items()
    ]


def _squares(cells: Mapping[int, NDArray[np.integer]], most: int) -> Blocks:
    """``cells``: magnification -> ``(n, 2)`` (column, row) in one common grid."""
    together = np.concatenate(list(cells.values()))
    side, count = 0, most + 1
    while count > most:
        side += 1
        found, numbers = np.unique(together // side, axis=0, return_inverse=True)
        count = len(found)
    ends = np.cumsum([len(places) for places in cells.values()])[:-1]
    parts = np.split(numbers.reshape(-1), ends)
    return Blocks(dict(zip(cells, parts, strict=True)), count, side)


@torch.no_grad()
def attention(model: SurvivalModel, bag: Bag, *drawn: object) -> Values:
    """The model's attention in multiples of uniform: weight · n, so 1 is what each patch has if all count alike.

    Empty when the aggregator has none. What it draws at random follows from ``drawn``.
    """
    seed_draws(_device(model), *drawn)
    return {m: (weights.double() * len(weights)).cpu().numpy() for m, weights in model.attention(bag).items()}


@torch.no_grad()
def occlusion(
    model: SurvivalModel,
    loss: Loss,
    bag: Bag,
    blocks: list[Blocks],
    on_pass: Callable[[], None],
    *drawn: object,
) -> Values:
    """How much the risk falls when a patch's block is left out of the bag; above 0: the block raises it.

    Every bag goes through the model by itself: one pass for the whole bag, and one for each block. What the model
    draws at random follows from ``drawn``, alike for all of them. Raises MilsurvError when a block is all there is.
    """

    def risk(seen: Bag) -> float:
        seed_draws(_device(model), *drawn)
        value = float(loss.risk(model(seen).float().cpu().unsqueeze(0)))
        on_pass()
        return value

    whole = risk(bag)
    values: Values = {}
    for some in blocks:
        falls = np.array([whole - risk(_without(bag, some, number)) for number in range(some.count)])
        values |= {m: falls[numbers] for m, numbers in some.numbers.items()}
    return values


def _without(bag: Bag, blocks: Blocks, number: int) -> Bag:
    device = next(iter(bag.features.values())).device
    kept = {m: torch.from_numpy(np.flatnonzero(of_m != number)) for m, of_m in blocks.numbers.items()}
    if not all(len(rows) for rows in kept.values()):
        empty = ", ".join(f"{m}x" for m, rows in kept.items() if not len(rows))
        raise MilsurvError(
            f"occlusion leaves out squares of patches, but all at {empty} lie in one; take a slide with more "
            "tissue, or an aggregator with attention"
        )

    def cut(parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {m: part[kept[m].to(device)] if m in kept else part for m, part in parts.items()}

    return Bag(
        cut(bag.features),
        None if bag.coords is None else cut(bag.coords),
        None if bag.grid is None else cut(bag.grid),
    )


def fuse(relative: Mapping[int, NDArray[np.float64]], grid: Mapping[int, Tensor]) -> NDArray[np.float64]:
    """``(n,)`` for the finest of the magnifications: the mean of ``relative`` over those whose patches cover it.

    The finest patch (c, r) is covered at magnification m, k times coarser, by (c // k, r // k).
    """
    finest = max(relative)
    places = grid[finest].cpu().numpy().astype(np.int64)
    total, covering = np.zeros(len(places)), np.zeros(len(places))
    for m, values in relative.items():
        index, found = _covering(places // (finest // m), grid[m].cpu().numpy().astype(np.int64))
        total[found] += values[index[found]]
        covering += found
    return np.asarray(total / covering)


def _covering(
    places: NDArray[np.int64], of_grid: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Row of ``of_grid`` that holds each of ``places``, and whether one does."""
    width = int(max(places[:, 0].max(), of_grid[:, 0].max())) + 1
    wanted, there = (rows[:, 1] * width + rows[:, 0] for rows in (places, of_grid))
    order = np.argsort(there, kind="stable")
    index = order[np.searchsorted(there[order], wanted).clip(0, len(there) - 1)]
    return index, there[index] == wanted


def _device(model: SurvivalModel) -> torch.device:
    return next(model.parameters()).device
