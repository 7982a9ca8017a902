"""Cases as the loop sees them: their follow-up, and how their slides make rows and bags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from milsurv.features.bag import Bag
from milsurv.losses.discrete import cut_bins

SlideFiles = tuple[tuple[str, Path], ...]
"""Slide id and feature file of each slide."""


@dataclass(frozen=True)
class FoldId:
    """A fold and its seed, which name a model of a run."""

    seed: int
    fold: int

    def __str__(self) -> str:
        return f"seed {self.seed}, fold {self.fold}"


@dataclass(frozen=True)
class TrainingCase:
    """A case as the loop sees it."""

    case_id: str
    time: float
    event: int
    slides: SlideFiles

    def bags(self, of: Literal["slide", "case"]) -> list[SlideFiles]:
        """The slides of each of its bags."""
        return [self.slides] if of == "case" else [(slide,) for slide in self.slides]


def rows_of(cases: Iterable[TrainingCase], rows: Literal["case", "slide"]) -> tuple[TrainingCase, ...]:
    """What the loss sees as rows: the cases, or each of their slides as if it were a case."""
    if rows == "case":
        return tuple(cases)
    return tuple(replace(case, slides=(slide,)) for case in cases for slide in case.slides)


def files_of(cases: Iterable[TrainingCase]) -> list[Path]:
    """Feature files in the order in which the cases' bags are read."""
    return [path for case in cases for _, path in case.slides]


def one_bag(bags: Sequence[Bag]) -> Bag:
    """All patches of several slides, by magnification, without their places, which are each slide's own."""
    return Bag({m: torch.cat([bag.features[m] for bag in bags]) for m in bags[0].features})


def sample_patches(bag: Bag, most: int, generator: torch.Generator) -> Bag:
    """About ``most`` patches of the finest magnification, never more but for the first, and those that belong to them.

    A bag with a grid keeps whole patches of the coarsest magnification with all that lies in them, drawn at random,
    so that no patch loses what it covers or lies in; without a grid each magnification keeps the same share. Patches
    stay in their order. A bag that has no more than ``most`` comes back as it is.
    """
    n = bag.sizes[max(bag.sizes)]
    if n <= most:
        return bag
    if bag.grid is None:
        shares = {m: max(1, round(size * most / n)) for m, size in bag.sizes.items()}
        kept = {
            m: torch.randperm(size, generator=generator)[: shares[m]].sort().values
            for m, size in bag.sizes.items()
        }
    else:
        kept = _whole_areas(bag.grid, most, generator)
    device = next(iter(bag.features.values())).device
    index = {m: rows.to(device) for m, rows in kept.items()}
    return Bag(
        {m: features[index[m]] for m, features in bag.features.items()},
        None if bag.coords is None else {m: coords[index[m]] for m, coords in bag.coords.items()},
        None if bag.grid is None else {m: grid[index[m]] for m, grid in bag.grid.items()},
    )


def _whole_areas(grid: Mapping[int, Tensor], most: int, generator: torch.Generator) -> dict[int, Tensor]:
    """Magnification -> indices of the patches in areas of the coarsest grid that are drawn until ``most`` are had."""
    coarsest, finest = min(grid), max(grid)
    areas = torch.cat([places.cpu() // (m // coarsest) for m, places in grid.items()])
    area = torch.unique(areas, dim=0, return_inverse=True)[1].split([len(places) for places in grid.values()])
    by_magnification = dict(zip(grid, area, strict=True))
    count = int(torch.cat(area).max()) + 1
    order = torch.randperm(count, generator=generator)
    sizes = torch.bincount(by_magnification[finest], minlength=count)[order]
    drawn = torch.zeros(count, dtype=torch.bool)
    drawn[order[sizes.cumsum(0) <= most]] = True
    drawn[order[0]] = True
    return {m: drawn[cells].nonzero().squeeze(-1) for m, cells in by_magnification.items()}


def balancing_weights(time: Tensor, event: Tensor) -> Tensor:
    """``(n,)`` float64: 1 / number of cases in the same quarter of event times that had, or had not, an event.

    The sampling weights of the released CrossFusion code, whose four bins are cut at the quartiles of the event times.
    """
    event_times = time[event == 1].double()
    edges = cut_bins(time.double(), event_times, min(4, len(torch.unique(event_times))))
    stratum = 2 * torch.bucketize(time.double(), edges[1:-1].contiguous(), right=True) + event.long()
    return 1 / torch.bincount(stratum)[stratum].double()


def follow_up(cases: Sequence[TrainingCase]) -> tuple[Tensor, Tensor]:
    """Times and events of cases, both ``(n,)`` float32."""
    time = torch.tensor([case.time for case in cases], dtype=torch.float32)
    return time, torch.tensor([case.event for case in cases], dtype=torch.float32)
