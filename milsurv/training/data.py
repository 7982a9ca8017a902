"""Cases of a training: their follow-up, and the rows and bags of their slides."""

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
    """Seed and fold of a model of a run."""

    seed: int
    fold: int

    def __str__(self) -> str:
        return f"seed {self.seed}, fold {self.fold}"


@dataclass(frozen=True)
class TrainingCase:
    """A case of a training."""

    case_id: str
    time: float
    event: int
    slides: SlideFiles

    def bags(self, of: Literal["slide", "case"]) -> list[SlideFiles]:
        """The slides of each of its bags."""
        return [self.slides] if of == "case" else [(slide,) for slide in self.slides]


def rows_of(cases: Iterable[TrainingCase], rows: Literal["case", "slide"]) -> tuple[TrainingCase, ...]:
    """Rows of the loss: the cases, or each of their slides as a case of its own."""
    if rows == "case":
        return tuple(cases)
    return tuple(replace(case, slides=(slide,)) for case in cases for slide in case.slides)


def files_of(cases: Iterable[TrainingCase]) -> list[Path]:
    """Feature files of the cases, in the order in which their bags are read."""
    return [path for case in cases for _, path in case.slides]


def merge_bags(bags: Sequence[Bag]) -> Bag:
    """All patches of several slides, without coordinates and grid, which differ between slides."""
    return Bag({m: torch.cat([bag.features[m] for bag in bags]) for m in bags[0].features})


def sample_patches(bag: Bag, most: int, generator: torch.Generator) -> Bag:
    """A random sample of about ``most`` patches of the finest magnification, with the corresponding coarser patches.

    A bag with a grid keeps randomly chosen patches of the coarsest magnification and all finer patches in them, at
    most ``most`` unless the first alone has more. Without a grid each magnification keeps the same share. The order
    of patches is kept. A bag with at most ``most`` patches is returned unchanged.
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
    """Magnification -> indices of the patches in randomly chosen areas of the coarsest grid, up to ``most``."""
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


def balanced_weights(time: Tensor, event: Tensor) -> Tensor:
    """Sampling weights ``(n,)`` float64: 1 / number of cases with the same event in the same quartile of event times.

    As in the released CrossFusion code.
    """
    event_times = time[event == 1].double()
    edges = cut_bins(time.double(), event_times, min(4, len(torch.unique(event_times))))
    stratum = 2 * torch.bucketize(time.double(), edges[1:-1].contiguous(), right=True) + event.long()
    return 1 / torch.bincount(stratum)[stratum].double()


def follow_up(cases: Sequence[TrainingCase]) -> tuple[Tensor, Tensor]:
    """Times and events of cases, both ``(n,)`` float32."""
    time = torch.tensor([case.time for case in cases], dtype=torch.float32)
    return time, torch.tensor([case.event for case in cases], dtype=torch.float32)


def exact_follow_up(cases: Sequence[TrainingCase]) -> tuple[Tensor, Tensor]:
    """:func:`follow_up` in float64, in which times equal those of the cohort table."""
    time = torch.tensor([case.time for case in cases], dtype=torch.float64)
    return time, torch.tensor([case.event for case in cases], dtype=torch.float64)
