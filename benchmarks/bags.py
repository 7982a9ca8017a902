"""what the training loop takes beside forward, backward and optimiser, of an epoch over bags of 10,000 patches."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks.generated import make_job, on_cpu, write_cases
from benchmarks.measure import Row, fresh, in_turn
from milsurv.training.data import TrainingCase
from milsurv.training.loop import FoldTraining
from milsurv.training.model import SurvivalModel

SIDE, DIM, FILES = 100, 1024, 6
"""10,000, 2,500 and 625 patches: 27 MB."""
CASES = {"abmil": 40, "crossfusion": 8}
AGGREGATORS: dict[str, dict[str, object]] = {
    "abmil": {"name": "abmil", "attention_dim": 256},
    "crossfusion": {"name": "crossfusion"},
}


def rows(quick: bool) -> Iterator[Row]:
    """The second epoch: the first has read all bags, where they are kept."""
    for aggregator in AGGREGATORS:
        for cache in ("host", "none"):
            with tempfile.TemporaryDirectory() as folder:
                measured = fresh(epoch, folder, aggregator, cache, int(quick))
                used = in_turn(1, {"ours": measured})["ours"]
                inside = json.loads((Path(folder) / "inside.json").read_text())
            yield Row(f"{aggregator}, bags {_kept(cache)}: epoch", "s", used.wall, None)
            share = 100 * max(1e-9, 1 - inside / used.wall)
            yield Row(f"{aggregator}, bags {_kept(cache)}: share outside", "%", share, None)


def _kept(cache: str) -> str:
    return "kept in memory" if cache == "host" else "read each time"


def epoch(folder: str, aggregator: str, cache: Literal["host", "none"], quick: int) -> Callable[[], object]:
    """Leaves the seconds that forward, backward and optimiser took in ``inside.json``."""
    cases = _cases(Path(folder), aggregator, 12 if quick else SIDE, 16 if quick else DIM)
    job = make_job(Path(folder), cases, cases, AGGREGATORS[aggregator], epochs=2, batch_cases=32)
    training = FoldTraining(on_cpu(cache), job)
    epochs = training.epochs()
    with patch.object(FoldTraining, "_save"):
        next(epochs)
    inside = 0.0

    def timed(work: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            nonlocal inside
            started = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                inside += time.perf_counter() - started

        return run

    def work() -> None:
        with ExitStack() as stack:
            for owner, name in (
                (SurvivalModel, "forward"),
                (torch.Tensor, "backward"),
                (type(training.optimizer), "step"),
            ):
                stack.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
            stack.enter_context(patch.object(FoldTraining, "_save"))
            next(epochs)
        (Path(folder) / "inside.json").write_text(json.dumps(inside))

    return work


def _cases(folder: Path, aggregator: str, side: int, dim: int) -> list[TrainingCase]:
    """Few files under many names: each is read as if it were its own."""
    table = pd.DataFrame({"case": range(FILES), "time": range(1, FILES + 1), "event": 1})
    files = [case.slides[0][1] for case in write_cases(folder, table, side, dim)]
    cases = []
    for number in range(CASES[aggregator]):
        path = folder / f"slide {number}.h5"
        path.hardlink_to(files[number % FILES])
        cases.append(TrainingCase(f"case {number}", number + 1.0, number % 2, ((path.stem, path),)))
    return cases
