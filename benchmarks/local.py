"""a training step of CrossFusion in local mode as bags grow, beside plain modules where their matrices fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import dense
from benchmarks.measure import Row, Usage, fresh, in_turn, rows_of
from milsurv.aggregators.crossfusion import CrossFusion, CrossFusionConfig

SIDES = (100, 180, 316)
"""Patches along a side of the square at 20x: 10,000, 32,400 and 99,856 patches."""


def rows(quick: bool) -> Iterator[Row]:
    """Forward, backward and Adam for one bag with the released dropouts.

    At 32,400 patches the plain modules would hold attention matrices of some 30 GB.
    """
    sides = (8, 16, 32) if quick else SIDES
    usages: list[Usage] = []
    for side in sides:
        measured = {"ours": fresh(ours, side)}
        if side == sides[0]:
            measured["plain"] = fresh(dense.plain, side, 1.0)
        usage = in_turn(1, measured)
        usages.append(usage["ours"])
        yield from rows_of(
            f"{side**2} patches at 20x", usage["ours"], usage.get("plain"), ("wall", "cpu", "peak")
        )
    more = (sides[-1] / sides[0]) ** 2
    for kind, name in (("wall", "wall time"), ("cpu", "CPU time"), ("peak", "peak memory")):
        growth = getattr(usages[-1], kind) / getattr(usages[0], kind)
        yield Row(f"{name}, growth with {more:.3g} times the patches", "", growth, None)


def ours(side: int) -> Callable[[], object]:
    model = CrossFusion(CrossFusionConfig(attention="local"), dict.fromkeys((20, 10, 5), dense.FEATURES), 4)
    return dense.training_step(model, side)
