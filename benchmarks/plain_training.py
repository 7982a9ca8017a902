"""Training CrossFusion as one would write it down: a DataLoader over the files, a backward pass for each bag."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from milsurv.features.bag import Bag
from milsurv.training.data import TrainingCase

ALPHA = 0.2
BINS = 4


class Bags(Dataset[tuple[dict[int, Tensor], float, int]]):
    """Features by magnification, time and event of each case, whose file is read each time."""

    def __init__(self, cases: Sequence[TrainingCase]):
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[dict[int, Tensor], float, int]:
        case = self.cases[index]
        with h5py.File(case.slides[0][1], "r") as file:
            features = {m: torch.from_numpy(file[f"{m}x/features"][()]).float() for m in (20, 10, 5)}
        return features, case.time, case.event


def bin_edges(cases: Sequence[TrainingCase]) -> Tensor:
    """Quartiles of the event times."""
    times = np.array([case.time for case in cases if case.event])
    return torch.tensor(np.quantile(times, [0.25, 0.5, 0.75]))


def nll(logits: Tensor, label: int, event: int) -> Tensor:
    """Of one case."""
    hazards = torch.sigmoid(logits)
    survival = torch.cat([hazards.new_ones(1), torch.cumprod(1 - hazards, dim=0)]).clamp(min=1e-7)
    censored = -(1 - event) * torch.log(survival[label + 1])
    uncensored = -event * (torch.log(survival[label]) + torch.log(hazards[label].clamp(min=1e-7)))
    return (1 - ALPHA) * (censored + uncensored) + ALPHA * uncensored


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cases: Sequence[TrainingCase],
    edges: Tensor,
    accumulated: int = 32,
    readers: int = 0,
) -> None:
    """Batch 1, its gradients accumulated, cases drawn by the inverse frequency of their bin and event."""
    labels = [int(torch.bucketize(case.time, edges, right=True)) for case in cases]
    stratum = np.array([2 * label + case.event for label, case in zip(labels, cases, strict=True)])
    sampler = WeightedRandomSampler((1 / np.bincount(stratum)[stratum]).tolist(), len(cases))
    loader = DataLoader(Bags(cases), batch_size=None, sampler=sampler, num_workers=readers)
    model.train()
    optimizer.zero_grad()
    for step, (features, time, event) in enumerate(loader, 1):
        label = int(torch.bucketize(time, edges, right=True))
        (nll(model(Bag(features)), label, event) / accumulated).backward()
        if step % accumulated == 0 or step == len(cases):
            optimizer.step()
            optimizer.zero_grad()


def predict(model: nn.Module, cases: Sequence[TrainingCase]) -> Tensor:
    """Risks."""
    bags = Bags(cases)
    model.eval()
    with torch.no_grad():
        logits = torch.stack([model(Bag(bags[index][0])) for index in range(len(bags))])
    return -torch.cumprod(1 - torch.sigmoid(logits), dim=1).sum(dim=1)
