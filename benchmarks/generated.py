"""Cohorts of generated features for benchmarks of training, with a signal that two magnifications share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from milsurv.config.run import RunConfig
from milsurv.executors.base import Context, ExecutorConfig, Placement
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.training.data import TrainingCase
from milsurv.training.job import FoldJob

COHORTS = "MILSURV_COHORTS"
"""Environment variable that names a folder with ``tcga_<cohort>.csv``."""
COHORT_SIZES = {"blca": (373, 0.45), "ucec": (480, 0.16)}
"""Cases, and share of them with an event, of cohorts that are made when the tables are not there."""
PROTOCOL = {
    "batch_cases": 32,
    "sampling": "balanced",
    "learning_rate": 1e-4,
    "weight_decay": 4e-6,
    "selection": "last_epoch",
    "output_offset": False,
}
"""The released protocol: batch 1 with 32 accumulation steps, Adam, balanced sampling."""


def follow_up(cohort: str) -> tuple[pd.DataFrame, str]:
    """Columns case, time, event of a cohort, and where they are from."""
    folder = os.environ.get(COHORTS)
    if folder is not None:
        table = pd.read_csv(Path(folder) / f"tcga_{cohort}.csv").drop_duplicates("case_id")
        columns = {
            "case": table["case_id"],
            "time": table["survival_months"],
            "event": 1 - table["censorship"],
        }
        found = pd.DataFrame(columns)
        return found[found["time"] > 0].reset_index(drop=True), f"TCGA-{cohort.upper()}'s follow-up"
    cases, share = COHORT_SIZES[cohort]
    rng = np.random.default_rng(0)
    death, end = rng.exponential(40, cases), rng.exponential(40 * share / (1 - share), cases)
    made = {
        "case": [str(n) for n in range(cases)],
        "time": np.minimum(death, end),
        "event": (death <= end) * 1,
    }
    return pd.DataFrame(made), f"made follow-up of {cohort.upper()}'s size ({COHORTS} names no folder)"


def write_cases(folder: Path, table: pd.DataFrame, side: int, dim: int) -> tuple[TrainingCase, ...]:
    """A bag for each row: ``side``² patches at 20x with their 10x and 5x patches, which tell who dies early.

    Some places carry a mark at 20x and others one at 5x; the earlier a case's time, the more often both are one. A few
    features of all patches shift with it as well: a part that is soon learned, lest models that learned nothing be
    compared.
    """
    rng = np.random.default_rng(0)
    rank = table["time"].rank(pct=True).to_numpy()
    cases = []
    for (case, time, event), early in zip(table[["case", "time", "event"]].to_numpy(), 1 - rank, strict=True):
        path = folder / f"{case}.h5"
        write_features(path, _by_magnification(rng, side, dim, float(early)), {})
        cases.append(TrainingCase(str(case), float(time), int(event), ((path.stem, path),)))
    return tuple(cases)


def _by_magnification(
    rng: np.random.Generator, side: int, dim: int, early: float
) -> dict[int, MagnificationFeatures]:
    by_magnification = {}
    coarse = rng.random((side // 4, side // 4)) < 0.5
    for m in (20, 10, 5):
        k = 20 // m
        grid = np.argwhere(np.ones((side // k, side // k)))
        features = rng.normal(size=(len(grid), dim)).astype(np.float32)
        features[:, 2:10] += 4 * early - 2
        under = coarse[tuple((grid * k // 4).T)]
        if m == 5:
            features[:, 0] += 3 * under
        if m == 20:
            together = rng.random(len(grid)) < early
            features[:, 1] += 3 * np.where(together, under, ~under)
        by_magnification[m] = MagnificationFeatures(
            features.astype(np.float16), grid * 256 * k, grid.astype(np.int32), 0.5 * k, 256.0 * k
        )
    return by_magnification


def on_cpu(cache: Literal["host", "none"] = "host") -> Context:
    """A context that keeps all bags in memory, or none."""
    return Context(Placement(ExecutorConfig(cache=cache, cache_gb=16), "cpu"))


def make_job(
    folder: Path,
    train: Sequence[TrainingCase],
    test: Sequence[TrainingCase],
    aggregator: dict[str, object],
    seed: int = 1,
    **training: object,
) -> FoldJob:
    """A fold of the released protocol."""
    config = RunConfig.model_validate(
        {
            "name": "benchmark",
            "cohort": {"source": "synthetic"},
            "backbone": {"name": "efficientnet_lite0"},
            "aggregator": aggregator,
            "loss": {"name": "nll"},
            "training": PROTOCOL | training,
        }
    )
    return FoldJob(
        config=config,
        seed=seed,
        fold=0,
        folder=folder,
        train=tuple(train),
        validation=(),
        test=tuple(test),
        times=(12.0, 36.0),
    )
