"""a training step of CrossFusion in dense mode, beside plain modules that hold the attention matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.measure import Row, fresh, in_turn, rows_of
from benchmarks.plain_crossfusion import PlainCrossFusion
from milsurv.aggregators.crossfusion import CrossFusion, CrossFusionConfig
from milsurv.features.bag import Bag

FEATURES = 2048
SIDE = 100
"""Patches along a side of the square at 20x: 10,000, 2,500 and 625 patches."""


def rows(quick: bool) -> Iterator[Row]:
    """Forward, backward and Adam for one bag; 512 wide, 4 heads, 1 layer, with the released dropouts and without."""
    side = 16 if quick else SIDE
    for dropout, name in ((1.0, "released dropouts"), (0.0, "no dropout")):
        measured = {"ours": fresh(ours, side, dropout), "plain": fresh(plain, side, dropout)}
        usage = in_turn(1 if quick else 3, measured)
        yield from rows_of(
            f"{side**2} patches at 20x, {name}", usage["ours"], usage["plain"], ("wall", "cpu", "peak")
        )


def ours(side: int, dropout: float) -> Callable[[], object]:
    """``dropout``: 1 for the released dropouts, 0 for none."""
    settings = CrossFusionConfig(dropout=0.3 * dropout, attention_dropout=0.2 * dropout)
    return training_step(CrossFusion(settings, dict.fromkeys((20, 10, 5), FEATURES), 4), side)


def plain(side: int, dropout: float) -> Callable[[], object]:
    model = PlainCrossFusion(FEATURES, dropout=0.3 * dropout, attention_dropout=0.2 * dropout)
    return training_step(model, side)


def training_step(model: nn.Module, side: int) -> Callable[[], object]:
    """A step on a bag of ``side``² patches at 20x that fill a square, with its 10x and 5x patches."""
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    sides = {20: side, 10: side // 2, 5: side // 4}
    features = {m: torch.randn(s * s, FEATURES) for m, s in sides.items()}
    bag = Bag(features, grid={m: _square(s) for m, s in sides.items()})

    def work() -> None:
        model(bag).square().sum().backward()
        optimizer.step()

    return work


def _square(side: int) -> torch.Tensor:
    columns, rows = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
    return torch.stack([columns.flatten(), rows.flatten()], dim=1).int()
