"""The state of a fold in training, saved after each epoch in one file, so that it is whole or not there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milsurv.training.model import load_tensors, save_tensors


@dataclass
class FoldState:
    """What happened so far, and the weights of the epoch that is best so far."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = math.inf
    """Of ``best_epoch``; lower is better."""
    best: dict[str, Tensor] = field(default_factory=dict)

    def record(self, row: dict[str, float], model: nn.Module, score: float | None) -> None:
        """Add an epoch; it is the best when its score is the lowest so far, or when there is no score."""
        self.epoch = int(row["epoch"])
        self.history.append(row)
        if score is None or not self.best or score < self.best_score:
            self.best_epoch = self.epoch
            self.best_score = math.inf if score is None else score
            self.best = {name: value.detach().clone() for name, value in model.state_dict().items()}


def save_state(path: Path, state: FoldState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    about = {"epoch": state.epoch, "history": state.history, "best_epoch": state.best_epoch}
    save_tensors(path, tensors, {**about, "best_score": state.best_score})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> FoldState | None:
    """Take up a saved state: fills ``model`` and ``optimizer``; None when there is none."""
    if not path.is_file():
        return None
    tensors, about = load_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    _load_optimizer(optimizer, parts["optimizer"])
    return FoldState(**about, best=parts["best"])


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
