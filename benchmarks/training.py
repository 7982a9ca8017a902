"""training and evaluation of CrossFusion by the released protocol, beside a plain loop with whole attention weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from benchmarks.generated import COHORT_SIZES, follow_up, make_job, on_cpu, write_cases
from benchmarks.measure import Row, fresh, in_turn
from benchmarks.plain_crossfusion import PlainCrossFusion
from benchmarks.plain_training import bin_edges, predict, train_epoch
from milsurv.evaluation.pairs import c_index
from milsurv.executors.devices import cpu_has_bfloat16
from milsurv.training import outputs
from milsurv.training.data import TrainingCase
from milsurv.training.loop import FoldTraining

SIDE, DIM, BAGS = 64, 1024, 8
"""4,096, 1,024 and 256 patches."""
QUICK_SIDE, QUICK_DIM = 8, 16
SMALL_SIDE, SMALL_DIM, SMALL_WIDTH, SMALL_CASES, EPOCHS, FOLDS = 8, 64, 32, 120, 16, 5
SMALL_RATE, SMALL_BATCH = 1e-3, 8
"""Small enough to train to the end on a CPU."""


def rows(quick: bool) -> Iterator[Row]:
    """One thread each. The plain loop reads its files as it goes; ours reads ahead and keeps the bags."""
    precisions = ["float32", *(["bfloat16"] if cpu_has_bfloat16() else [])]
    with tempfile.TemporaryDirectory() as folder:
        small = "small" if quick else "large"
        for what, ours, plain in (
            ("training", our_epoch, plain_epoch),
            ("evaluation", our_evaluation, plain_evaluation),
        ):
            measured = {precision: fresh(ours, folder, small, precision) for precision in precisions}
            usage = in_turn(1 if quick else 3, {**measured, "plain": fresh(plain, folder, small)})
            for precision in precisions:
                used, beside = usage[precision], usage["plain"]
                name = f"{what} in {precision}, plain in float32"
                yield Row(f"{name}, bags by wall time", "/s", BAGS / used.wall, BAGS / beside.wall, True)
                yield Row(f"{name}, bags by CPU time", "/s", BAGS / used.cpu, BAGS / beside.cpu, True)
                yield Row(f"{name}, peak memory", "MB", used.peak, beside.peak)
        usage = in_turn(
            1 if quick else 3,
            {name: fresh(small_bags_epoch, folder, name) for name in ("at once", "one by one")},
        )
        at_once, alone = usage["at once"], usage["one by one"]
        yield Row("small bags at once, plain one by one, CPU time", "s", at_once.cpu, alone.cpu)
    for cohort in COHORT_SIZES:
        yield _c_indices(cohort, quick)


def _bags(folder: str, size: str) -> tuple[TrainingCase, ...]:
    table, _ = follow_up("blca")
    side, dim = (QUICK_SIDE, QUICK_DIM) if size == "small" else (SIDE, DIM)
    return write_cases(Path(folder), _some(table.sort_values("time"), BAGS), side, dim)


def _some(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """As many with an event as without, over the whole range of times."""
    halves = [table[table["event"] == event] for event in (0, 1)]
    return pd.concat([half.iloc[np.linspace(0, len(half) - 1, count // 2).astype(int)] for half in halves])


def _our_fold(folder: str, size: str, precision: str) -> FoldTraining:
    cases = _bags(folder, size)
    fold = tempfile.mkdtemp(dir=folder)
    return FoldTraining(
        on_cpu(), make_job(Path(fold), cases, cases, {"name": "crossfusion"}, epochs=1, precision=precision)
    )


def our_epoch(folder: str, size: str, precision: str) -> Callable[[], object]:
    """Without saving the state, which takes 2 % of a long training and most of one as short as this."""
    training = _our_fold(folder, size, precision)

    def work() -> None:
        with patch.object(FoldTraining, "_save"):
            next(training.epochs())

    return work


def small_bags_epoch(folder: str, how: str) -> Callable[[], object]:
    """Bags of 64, 16 and 4 patches, as of the demo."""
    table, _ = follow_up("blca")
    cases = write_cases(Path(folder), _some(table.sort_values("time"), SMALL_CASES), SMALL_SIDE, SMALL_DIM)
    aggregator: dict[str, object] = {"name": "crossfusion", "embed_dim": 2 * SMALL_WIDTH}
    job = make_job(Path(tempfile.mkdtemp(dir=folder)), cases, cases, aggregator, epochs=1, batch_cases=16)
    training = FoldTraining(on_cpu(), job)
    most = outputs.MAX_PAIRS if how == "at once" else 0

    def work() -> None:
        with patch.object(FoldTraining, "_save"), patch.object(outputs, "MAX_PAIRS", most):
            next(training.epochs())

    return work


def our_evaluation(folder: str, size: str, precision: str) -> Callable[[], object]:
    training = _our_fold(folder, size, precision)
    return lambda: training.outputs.risk(training.outputs.of_cases(training.job.test))


def _plain_model(
    dim: int, width: int = 512, rate: float = 1e-4
) -> tuple[PlainCrossFusion, torch.optim.Optimizer]:
    model = PlainCrossFusion(dim, width)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.trunc_normal_(module.weight, std=0.02)
            torch.nn.init.zeros_(module.bias)
    return model, torch.optim.Adam(model.parameters(), lr=rate, weight_decay=4e-6)


def plain_epoch(folder: str, size: str) -> Callable[[], object]:
    cases = _bags(folder, size)
    model, optimizer = _plain_model(QUICK_DIM if size == "small" else DIM)
    return lambda: train_epoch(model, optimizer, cases, bin_edges(cases), readers=1)


def plain_evaluation(folder: str, size: str) -> Callable[[], object]:
    cases = _bags(folder, size)
    model, _ = _plain_model(QUICK_DIM if size == "small" else DIM)
    return lambda: predict(model, cases)


def _c_indices(cohort: str, quick: bool) -> Row:
    """C-index of both over the same folds of small bags, trained to the end."""
    torch.set_num_threads(1)
    table, whence = follow_up(cohort)
    count, epochs = (20, 2) if quick else (SMALL_CASES, EPOCHS)
    table = _some(table.sort_values("time"), count)
    with tempfile.TemporaryDirectory() as folder:
        cases = write_cases(Path(folder), table, SMALL_SIDE, SMALL_DIM)
        order = np.random.default_rng(0).permutation(len(cases))
        ours, plain = [], []
        for fold in range(FOLDS):
            test = [cases[i] for i in order[fold::FOLDS]]
            train = [cases[i] for i in order if cases[i] not in test]
            ours.append(_our_c_index(Path(folder) / f"{fold}", train, test, fold, epochs))
            plain.append(_plain_c_index(train, test, fold, epochs))
    differences = [a - b for a, b in zip(ours, plain, strict=True)]
    error = stdev(differences) / FOLDS**0.5
    what = (
        f"C-index over {FOLDS} folds of {count} cases with small bags, {whence}; they differ by "
        f"{fmean(differences):+.3f} ± {error:.3f}"
    )
    return Row(what, "", fmean(ours), fmean(plain), True)


def _c_index(cases: list[TrainingCase], risk: torch.Tensor) -> float:
    return c_index([case.time for case in cases], [case.event for case in cases], risk)


def _our_c_index(
    folder: Path, train: list[TrainingCase], test: list[TrainingCase], seed: int, epochs: int
) -> float:
    aggregator: dict[str, object] = {"name": "crossfusion", "embed_dim": SMALL_WIDTH}
    job = make_job(
        folder,
        train,
        test,
        aggregator,
        seed=seed,
        epochs=epochs,
        schedule="constant",
        learning_rate=SMALL_RATE,
        batch_cases=SMALL_BATCH,
    )
    training = FoldTraining(on_cpu(), job)
    for _ in training.epochs():
        pass
    return _c_index(test, training.outputs.risk(training.outputs.of_cases(test)))


def _plain_c_index(train: list[TrainingCase], test: list[TrainingCase], seed: int, epochs: int) -> float:
    torch.manual_seed(seed)
    model, optimizer = _plain_model(SMALL_DIM, SMALL_WIDTH, SMALL_RATE)
    edges = bin_edges(train)
    for _ in range(epochs):
        train_epoch(model, optimizer, train, edges, SMALL_BATCH)
    return _c_index(test, predict(model, test))
