"""Bags made on the spot, in which the first feature tells the risk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milsurv.config.loading import load_config
from milsurv.config.run import RunConfig
from milsurv.executors.base import Context, Event
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.training.data import TrainingCase
from milsurv.training.job import FoldJob
from tests.contexts import on_cpu


class StoppedError(Exception):
    """In place of a kill."""


class Watch:
    """Hears a training's events, counts them or those of one kind, and stops it after ``most``."""

    def __init__(self, most: float = math.inf, kind: str | None = None):
        self.most = most
        self.kind = kind
        self.seen = 0

    def __call__(self, event: Event) -> None:
        if self.kind in (None, event["event"]):
            self.seen += 1
            if self.seen > self.most:
                raise StoppedError

    @property
    def context(self) -> Context:
        """Where the training runs; each bag counts as an event."""
        return on_cpu(self, lambda: self({"event": "bag"}))


MakeJob = Callable[..., FoldJob]
DIM = 6
CASES = 24


def _magnification(rng: np.random.Generator, side: int, risk: float) -> MagnificationFeatures:
    grid = np.argwhere(np.ones((side, side)))[:, ::-1].astype(np.int32)
    features = rng.normal(size=(side * side, DIM))
    features[:, 0] += 2 * risk
    return MagnificationFeatures(features.astype(np.float16), grid.astype(np.int64) * 64, grid, 0.5, 64.0)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    """24 cases, every fifth with two slides, every fourth censored."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(3)
    made = []
    for number in range(CASES):
        risk = float(rng.normal())
        slides = []
        for slide in range(2 if number % 5 == 0 else 1):
            path = folder / f"{number}-{slide}.h5"
            write_features(
                path,
                {
                    20: _magnification(rng, 4, risk),
                    10: _magnification(rng, 2, risk),
                    5: _magnification(rng, 1, risk),
                },
                {},
            )
            slides.append((path.stem, path))
        time = round(float(rng.exponential(20 / np.exp(risk))) + 0.1, 2)
        made.append(TrainingCase(f"case {number}", time, int(number % 4 != 0), tuple(slides)))
    return made


@pytest.fixture
def make_job(cases: list[TrainingCase], tmp_path: Path) -> MakeJob:
    """A fold's job; keyword arguments are sections or settings of the configuration, as ``--set`` takes them."""

    def make(folder: str = "fold", **overrides: Any) -> FoldJob:
        path = tmp_path / "run.yaml"
        path.write_text(
            "cohort: {source: synthetic}\nbackbone: {name: efficientnet_lite0}\n"
            "aggregator: {name: crossfusion, embed_dim: 8, num_heads: 2}\nloss: {name: nll, bins: 3}\n"
            "training: {epochs: 4, batch_cases: 5, learning_rate: 0.01, standardize: true}\n"
        )
        config: RunConfig = load_config(str(path), [f"{key}={value}" for key, value in overrides.items()])[0]
        return FoldJob(
            config=config,
            seed=7,
            fold=1,
            folder=tmp_path / folder,
            train=tuple(cases[:14]),
            validation=tuple(cases[14:18]),
            test=tuple(cases[18:]),
            times=(5.0, 10.0, 20.0),
        )

    return make
