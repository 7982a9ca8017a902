"""Checkpoint of a fold in training, saved atomically in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milsurv.errors import MilsurvError, first_line
from milsurv.training.model import load_tensors, save_tensors, with_prefix


@dataclass
class Best:
    """The best epoch so far by one selection set."""

    epoch: int
    score: float
    """Lower is better."""
    weights: dict[str, Tensor]


@dataclass
class FoldState:
    """State of a training between two optimizer steps."""

    epoch: int = 0
    """Number of finished epochs."""
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Best] = field(default_factory=dict)
    """Selection set -> its best epoch."""
    outputs: list[Tensor] = field(default_factory=list)
    """Outputs of each step of the current epoch, ``(batch, n_outputs)``."""
    losses: list[float] = field(default_factory=list)
    """Loss of each step of the current epoch, times its number of rows."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the gradient scaler; empty without one."""

    def record(self, row: dict[str, float], model: nn.Module, scores: Mapping[str, float]) -> None:
        """Finish an epoch with its row of the history and its score by each selection set, lower is better."""
        self.epoch = int(row["epoch"])
        self.history.append(row)
        self.outputs, self.losses = [], []
        for selector, score in scores.items():
            if selector not in self.best or score < self.best[selector].score:
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                self.best[selector] = Best(self.epoch, score, weights)


def save_state(path: Path, state: FoldState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for selector, best in state.best.items():
        tensors |= {f"best.{selector}.{name}": value for name, value in best.weights.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    tensors |= {f"outputs.{step}": output for step, output in enumerate(state.outputs)}
    about = {
        "epoch": state.epoch,
        "history": state.history,
        "best": {selector: (best.epoch, best.score) for selector, best in state.best.items()},
        "losses": state.losses,
        "scaler": state.scaler,
    }
    save_tensors(path, tensors, about)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> FoldState | None:
    """Load a saved state into ``model`` and ``optimizer``; None if there is none.

    Raises MilsurvError if it is damaged or belongs to another model.
    """
    if not path.is_file():
        return None
    tensors, about = load_tensors(path)
    try:
        return _restore(tensors, about, model, optimizer)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise MilsurvError(
            f"{path} is not a state of this training ({first_line(error)}); delete it and run again"
        ) from error


def _restore(
    tensors: dict[str, Tensor], about: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> FoldState:
    model.load_state_dict(with_prefix("model.", tensors))
    _load_optimizer(optimizer, with_prefix("optimizer.", tensors))
    outputs = with_prefix("outputs.", tensors)
    return FoldState(
        epoch=about["epoch"],
        history=about["history"],
        best={
            selector: Best(epoch, score, with_prefix(f"best.{selector}.", tensors))
            for selector, (epoch, score) in about["best"].items()
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
