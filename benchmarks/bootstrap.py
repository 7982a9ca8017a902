"""1,000 bootstraps of Harrell's C, beside lifelines called for 20 resamples and scaled up to as many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from lifelines.utils import concordance_index

from benchmarks.measure import Row, fresh, in_turn
from milsurv.config.run import Evaluation
from milsurv.evaluation.concordance import harrell_c_index
from milsurv.evaluation.strata import TrainingFollowUp, resample_counts, strata_of_seed

LIFELINES_RESAMPLES = 20


def rows(quick: bool) -> Iterator[Row]:
    """Wall and CPU time, drawing the resamples included."""
    cases, resamples = (100, 100) if quick else (1000, 1000)
    usage = in_turn(1 if quick else 5, {"ours": fresh(ours, cases, resamples), "plain": fresh(plain, cases)})
    for kind, name in (("wall", "wall time"), ("cpu", "CPU time")):
        scaled = getattr(usage["plain"], kind) * resamples / LIFELINES_RESAMPLES
        what = f"{resamples} bootstraps of {cases} cases, {name}"
        yield Row(what, "s", getattr(usage["ours"], kind), scaled)


def ours(cases: int, resamples: int) -> Callable[[], object]:
    predictions = _predictions(cases)
    training = TrainingFollowUp(predictions["time"].to_numpy(), predictions["event"].to_numpy())
    (stratum,) = strata_of_seed(predictions, {0: training}, (), Evaluation(bootstraps=0))

    def work() -> None:
        counts = resample_counts(cases, resamples, np.random.default_rng(1))
        harrell_c_index([replace(stratum, counts=counts)])

    return work


def plain(cases: int) -> Callable[[], object]:
    predictions = _predictions(cases)
    time, event, risk = (predictions[name].to_numpy() for name in ("time", "event", "risk"))

    def work() -> None:
        rng = np.random.default_rng(1)
        for _ in range(LIFELINES_RESAMPLES):
            drawn = rng.integers(cases, size=cases)
            concordance_index(time[drawn], -risk[drawn], event[drawn])

    return work


def _predictions(cases: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=cases)
    return pd.DataFrame(
        {
            "case_id": [f"case {number}" for number in range(cases)],
            "fold": 0,
            "time": np.round(rng.exponential(30 / np.exp(risk)), 1) + 0.1,
            "event": (rng.random(cases) < 0.6).astype(int),
            "risk": risk + rng.normal(size=cases),
        }
    )
