"""The state of a fold in training, saved in one file, so that it is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milsurv.errors import MilsurvError, first_line
from milsurv.training.model import load_tensors, save_tensors, under


@dataclass
class Best:
    """The best epoch so far in the eyes of those who choose."""

    epoch: int
    score: float
    """Lower is better."""
    weights: dict[str, Tensor]


@dataclass
class FoldState:
    """What happened so far, between two optimiser steps."""

    epoch: int = 0
    """Epochs that are finished."""
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Best] = field(default_factory=dict)
    """Who chooses -> their best epoch."""
    outputs: list[Tensor] = field(default_factory=list)
    """Of the epoch under way: ``(batch, n_outputs)`` of each step."""
    losses: list[float] = field(default_factory=list)
    """Of the epoch under way: each step's loss times the rows in it."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the loss scaling; empty without."""

    def record(self, row: dict[str, float], model: nn.Module, scores: Mapping[str, float]) -> None:
        """Finish an epoch. It is the best for whoever gives it a lower score than any before."""
        self.epoch = int(row["epoch"])
        self.history.append(row)
        self.outputs, self.losses = [], []
        for chooser, score in scores.items():
            if chooser not in self.best or score < self.best[chooser].score:
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                self.best[chooser] = Best(self.epoch, score, weights)


def save_state(path: Path, state: FoldState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for chooser, best in state.best.items():
        tensors |= {f"best.{chooser}.{name}": value for name, value in best.weights.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    tensors |= {f"outputs.{step}": output for step, output in enumerate(state.outputs)}
    about = {
        "epoch": state.epoch,
        "history": state.history,
        "best": {chooser: (best.epoch, best.score) for chooser, best in state.best.items()},
        "losses": state.losses,
        "scaler": state.scaler,
    }
    save_tensors(path, tensors, about)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> FoldState | None:
    """Take up a saved state: fills ``model`` and ``optimizer``; None when there is none.

    Raises MilsurvError when it is damaged, or the state of another model.
    """
    if not path.is_file():
        return None
    tensors, about = load_tensors(path)
    try:
        return _take_up(tensors, about, model, optimizer)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise MilsurvError(
            f"{path} is no state of this training ({first_line(error)}); delete it and run again"
        ) from error


def _take_up(
    tensors: dict[str, Tensor], about: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> FoldState:
    model.load_state_dict(under("model.", tensors))
    _load_optimizer(optimizer, under("optimizer.", tensors))
    outputs = under("outputs.", tensors)
    return FoldState(
        epoch=about["epoch"],
        history=about["history"],
        best={
            chooser: Best(epoch, score, under(f"best.{chooser}.", tensors))
            for chooser, (epoch, score) in about["best"].items()
        },
        outputs=[outputs[str(step)] for step in range(len(outputs))],
        losses=about["losses"],
        scaler=about["scaler"],
    )


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
