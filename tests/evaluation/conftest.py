"""Made-up studies: predictions of several folds, with ties, censoring and the follow-up of training cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milsurv.config.run import Evaluation
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.strata import Stratum, TrainingFollowUp, strata_of_seed
from milsurv.evaluation.times import EvaluationTimes, evaluation_times, survival_column


@dataclass(frozen=True)
class Study:
    """Everything that :func:`milsurv.evaluation.evaluate` takes."""

    predictions: pd.DataFrame
    training: dict[int, TrainingFollowUp]
    times: EvaluationTimes
    settings: Evaluation

    @property
    def strata(self) -> list[Stratum]:
        return strata_of_seed(self.predictions, self.training, self.times.all, self.settings)

    def with_predictions(self, **columns: Any) -> Study:
        return replace(self, predictions=self.predictions.assign(**columns))

    def evaluated(self) -> Any:
        return evaluate(self.predictions, self.training, self.times, self.settings)


def make_study(
    seed: int = 0,
    cases: int = 60,
    folds: int = 1,
    bootstraps: int = 0,
    ties: bool = True,
    times: tuple[float, ...] | None = None,
) -> Study:
    """About 60 % censored; with ``ties``, times are whole and risks have one decimal. Training lives on to 1000."""
    rng = np.random.default_rng(seed)

    def follow_up(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hidden = rng.normal(size=n)
        death, censoring = rng.exponential(20 * np.exp(-hidden)), rng.exponential(9, n)
        time = np.minimum(death, censoring)
        return (np.ceil(time) if ties else time), (death <= censoring).astype(int), hidden

    time, event, hidden = follow_up(cases)
    risk = hidden + rng.normal(size=cases)
    settings = Evaluation(bootstraps=bootstraps, times=times)
    evaluated_at = evaluation_times(time, event, settings)
    predictions = pd.DataFrame(
        {
            "case_id": [f"case-{i:04d}" for i in rng.permutation(cases)],
            "fold": np.arange(cases) % folds,
            "seed": 7,
            "time": time,
            "event": event,
            "risk": risk.round(1) if ties else risk,
            "high_risk": (risk > 0).astype(int),
            "standardized_risk": risk,
            **{survival_column(t): np.exp(-t / 15 * np.exp(risk / 2)) for t in evaluated_at.all},
        }
    )
    training = {}
    for fold in range(folds):
        train_time, train_event, _ = follow_up(80)
        training[fold] = TrainingFollowUp(np.append(train_time, 1000.0), np.append(train_event, 1))
    return Study(predictions, training, evaluated_at, settings)


@pytest.fixture(scope="session")
def study() -> Callable[..., Study]:
    return make_study


@pytest.fixture(scope="session")
def structured() -> Callable[[Any, Any], Any]:
    """Event and time as scikit-survival takes them."""
    from sksurv.util import Surv

    return lambda event, time: Surv.from_arrays(np.asarray(event) == 1, np.asarray(time, dtype=float))
