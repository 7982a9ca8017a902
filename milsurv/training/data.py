"""Bags for the loop: read from disk once while they fit in memory, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from milsurv.features.bag import Bag
from milsurv.features.store import read_bag
from milsurv.losses.discrete import cut_bins


@dataclass(frozen=True)
class TrainingCase:
    """A case as the loop sees it."""

    case_id: str
    time: float
    event: int
    slides: tuple[tuple[str, Path], ...]
    """Slide id and feature file of each of its slides."""


class BagCache:
    """Reads bags, keeping them on the host until ``budget`` bytes are full; the rest is read again each time."""

    def __init__(self, device: torch.device, budget: int):
        self.device = device
        self.budget = budget
        self._bags: dict[Path, Bag] = {}

    def read(self, path: Path) -> Bag:
        """The bag of a feature file, on the device, in the type that is stored."""
        bag = self._bags.get(path)
        if bag is None:
            bag = read_bag(path)
            size = sum(features.nbytes for features in bag.features.values())
            if size <= self.budget:
                self.budget -= size
                self._bags[path] = bag
        return bag.to(self.device)


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
