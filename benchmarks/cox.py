"""an optimiser step of Cox over many cases in two passes, beside holding the graphs of all bags at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.generated import on_cpu
from benchmarks.measure import Row, fresh, in_turn, rows_of
from milsurv.config.run import RunConfig
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.training.data import TrainingCase, follow_up
from milsurv.training.job import FoldJob
from milsurv.training.loop import FoldTraining

PATCHES_SIDE, FEATURES = 20, 256


def rows(quick: bool) -> Iterator[Row]:
    """Gated attention MIL on bags of 400 patches, which are read again each time."""
    counts = (2, 4) if quick else (16, 64, 256)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        _write_bag(Path(folder) / "bag.h5")
        for cases in counts:
            measured = {"ours": fresh(two_passes, folder, cases), "plain": fresh(all_graphs, folder, cases)}
            usage = in_turn(1, measured)
            peaks.append({who: used.peak for who, used in usage.items()})
            yield from rows_of(f"{cases} cases", usage["ours"], usage["plain"], ("peak", "cpu"))
    growth = {who: peaks[-1][who] / peaks[0][who] for who in peaks[0]}
    yield Row(f"peak memory, {counts[-1]} over {counts[0]} cases", "", growth["ours"], growth["plain"])


def two_passes(folder: str, cases: int) -> Callable[[], object]:
    training = _training(Path(folder), cases)
    return lambda: next(training.epochs())


def all_graphs(folder: str, cases: int) -> Callable[[], object]:
    training = _training(Path(folder), cases)

    def work() -> None:
        batch = training.job.train
        bags = (training.outputs.bags.read(path) for case in batch for _, path in case.slides)
        outputs = torch.stack([training.model(bag) for bag in bags])
        training.outputs.loss(outputs, *follow_up(batch)).backward()
        training.optimizer.step()

    return work


def _training(folder: Path, cases: int) -> FoldTraining:
    torch.manual_seed(0)
    times = torch.rand(cases).tolist()
    slides = (("slide", folder / "bag.h5"),)
    config = RunConfig.model_validate(
        {
            "name": "benchmark",
            "cohort": {"source": "synthetic"},
            "backbone": {"name": "efficientnet_lite0"},
            "aggregator": {"name": "abmil", "dropout": 0.25},
            "loss": {"name": "cox"},
            "training": {"epochs": 1, "batch_cases": cases, "selection": "last_epoch"},
        }
    )
    job = FoldJob(
        config=config,
        seed=1,
        fold=0,
        folder=Path(tempfile.mkdtemp(dir=folder)),
        train=tuple(TrainingCase(f"case {n}", time, n % 2, slides) for n, time in enumerate(times)),
        validation=(),
        test=(),
        times=(),
    )
    return FoldTraining(on_cpu(), job)


def _write_bag(path: Path) -> None:
    grid = np.argwhere(np.ones((PATCHES_SIDE, PATCHES_SIDE))).astype(np.int32)
    features = np.random.default_rng(0).normal(size=(len(grid), FEATURES)).astype(np.float16)
    write_features(
        path, {20: MagnificationFeatures(features, grid.astype(np.int64) * 256, grid, 0.5, 256.0)}, {}
    )
