"""Baselines: simple models that every run's model is compared with, on the same folds and cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from milsurv.config.run import Evaluation
from milsurv.evaluation.intervals import (
    FloatArray,
    Metric,
    difference,
    not_computable,
    once,
    with_interval,
    without_interval,
)
from milsurv.evaluation.metrics import MetricSpec, bind_metrics
from milsurv.evaluation.schema import BaselineComparison
from milsurv.evaluation.strata import TrainingFollowUp, strata_of_seed, why_no_interval
from milsurv.evaluation.times import EvaluationTimes, survival_column
from milsurv.losses.cox import Cox, CoxConfig

Values = dict[str, Callable[[], FloatArray]]
"""Metric -> its value and resamples, or its NotComputableError."""


@dataclass(frozen=True)
class Baseline:
    """The predictions of a baseline, or the reason why there are none."""

    name: str
    predictions: pd.DataFrame | None
    """A row per test case and fold: ``case_id, fold, time, event, risk`` and a :func:`survival_column` for each of
    ``EvaluationTimes.all``."""
    reason: str | None = None


def predict_survival(risks: pd.DataFrame, times: Sequence[float]) -> pd.DataFrame:
    """The predictions of a fold from ``case_id, role, time, event, risk`` of its training and test cases.

    The risk is a log-hazard; the baseline hazard is Breslow's, of the cases with the role ``train``.
    """
    train, test = (risks[risks["role"] == role] for role in ("train", "test"))
    outputs, time, event = (
        torch.from_numpy(train[column].to_numpy(dtype=float)) for column in ("risk", "time", "event")
    )
    cox = Cox(CoxConfig())
    cox.fit_baseline(outputs[:, None], time, event)
    outputs = torch.from_numpy(test["risk"].to_numpy(dtype=float))[:, None]
    survival = cox.survival(outputs, torch.tensor(times, dtype=torch.float64)).numpy()
    columns = {survival_column(t): survival[:, i] for i, t in enumerate(times)}
    return pd.concat([test.drop(columns="role"), pd.DataFrame(columns, index=test.index)], axis=1)


def compare_with_baseline(
    predictions: pd.DataFrame,
    baseline: Baseline,
    training: Mapping[int, TrainingFollowUp],
    times: EvaluationTimes,
    settings: Evaluation,
    metrics: Sequence[MetricSpec],
) -> BaselineComparison:
    """The metrics of a baseline and of the model, and their differences, on the cases that the baseline predicts.

    ``predictions`` are those of one seed or of the ensemble. Every bootstrap resample draws the same cases for both.
    """
    keys = ["fold", "case_id"]
    rows = predictions.iloc[:0] if baseline.predictions is None else baseline.predictions
    known = predictions.merge(rows[keys], on=keys, validate="one_to_one")
    cases, events = known["case_id"].nunique(), known.drop_duplicates("case_id")["event"].sum()
    no_interval = why_no_interval(known)

    def values(of: pd.DataFrame) -> Values:
        strata = strata_of_seed(of, training, times.all, settings) if cases else []
        bound = {name: compute for name, _, compute in bind_metrics(metrics, strata, times)}
        if cases:
            return {name: once(compute) for name, compute in bound.items()}
        return dict.fromkeys(bound, not_computable(baseline.reason or "it predicts no test case"))

    def account(of: Values) -> dict[str, Metric]:
        found = {name: with_interval(compute) for name, compute in of.items()}
        if no_interval is None:
            return found
        return {name: without_interval(metric, no_interval) for name, metric in found.items()}

    simple, model = values(rows.merge(known[keys], on=keys)), values(known)
    better = [name for name, spec, _ in bind_metrics(metrics, [], times) if spec.direction is not None]
    return {
        "name": baseline.name,
        "seed": int(predictions["seed"].iloc[0]) if "seed" in predictions else None,
        "cases": cases,
        "events": int(events),
        "excluded": predictions["case_id"].nunique() - cases,
        "baseline": account(simple),
        "model": account(model),
        "differences": account({name: difference(model[name], simple[name]) for name in better}),
    }
