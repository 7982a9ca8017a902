"""Compares the predictions of several runs for the same cases in the same folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from milsurv.config.run import Evaluation
from milsurv.evaluation.intervals import (
    FloatArray,
    Metric,
    difference,
    metric,
    once,
    too_few_for_intervals,
    with_interval,
    without_interval,
)
from milsurv.evaluation.metrics import METRICS, MetricSpec, definitions
from milsurv.evaluation.schema import ComparedPair, Comparison
from milsurv.evaluation.strata import TrainingFollowUp, strata_of_seed

NO_TRAINING = TrainingFollowUp(np.empty(0), np.empty(0))


def compare(
    predictions: Mapping[str, pd.DataFrame],
    bootstraps: int,
    seed: int,
    metrics: Sequence[MetricSpec] = METRICS,
) -> Comparison:
    """Each run's value of the metrics that are shown in comparisons, and the paired difference of each two runs.

    ``predictions`` maps a run's name to ``case_id``, ``fold``, ``time``, ``event`` and ``risk``, a row per case and
    fold, equal in all runs but for the risk. A compared metric can use nothing else: predicted survival and the
    follow-up of training cases are not available. Every bootstrap resample draws the same cases, within folds, for all
    runs, so the interval of a difference reflects models and not cases. Intervals are 95 % percentile intervals. The
    p-value, ``2 · (1 + min(#{d ≤ 0}, #{d ≥ 0})) / (1 + resamples)`` and at most 1, is the level at which such an
    interval would just include 0; ``holm_p_value`` is corrected for the number of pairs. There are neither intervals
    nor p-values below five events.
    """
    first = next(iter(predictions.values()))
    events = int((first["event"] == 1).sum())
    too_few = too_few_for_intervals(events)
    settings = Evaluation(bootstraps=bootstraps, seed=seed)
    runs: list[dict[str, Any]] = [{"name": name} for name in predictions]
    pairs: list[ComparedPair] = []
    compared = [spec for spec in metrics if "compare" in spec.shown and spec.over == "follow_up"]
    for spec in compared:
        values = {name: once(partial(_values, spec, rows, settings)) for name, rows in predictions.items()}
        for run in runs:
            run[spec.name] = _estimate(values[run["name"]], too_few)
        pairs += _pairs(spec.name, values, too_few)
    return {
        "cases": len(first),
        "events": events,
        "bootstraps": bootstraps,
        "definitions": definitions(compared, ()),
        "runs": runs,
        "pairs": pairs,
    }


def _values(spec: MetricSpec, rows: pd.DataFrame, settings: Evaluation) -> FloatArray:
    training = dict.fromkeys((int(fold) for fold in rows["fold"].unique()), NO_TRAINING)
    return spec.function(strata_of_seed(rows, training, (), settings))


def _estimate(values: Callable[[], FloatArray], too_few: str | None) -> Metric:
    found = with_interval(values)
    return found if too_few is None else without_interval(found, too_few)


def _pairs(
    name: str, values: Mapping[str, Callable[[], FloatArray]], too_few: str | None
) -> list[ComparedPair]:
    """The difference of each two runs in the metric ``name``, with p-values corrected for their number."""
    pairs: list[ComparedPair] = []
    for first, second in combinations(values, 2):
        resampled = difference(values[first], values[second])
        found = _estimate(resampled, too_few)
        p = _p_value(resampled()[1:]) if found["interval"] else metric(None, reason=found["reason"])
        pairs.append(
            {
                "metric": name,
                "first": first,
                "second": second,
                "difference": found,
                "p_value": p,
                "holm_p_value": p,
            }
        )
    known = [pair for pair in pairs if pair["p_value"]["value"] is not None]
    corrected = holm([pair["p_value"]["value"] or 0.0 for pair in known])
    for pair, holm_p_value in zip(known, corrected, strict=True):
        pair["holm_p_value"] = metric(holm_p_value)
    return pairs


def _p_value(differences: FloatArray) -> Metric:
    usable = differences[np.isfinite(differences)]
    beyond = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    return metric(min(1.0, 2 * (1 + beyond) / (1 + len(usable))))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down method, in the same order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(p) for p in corrected]
