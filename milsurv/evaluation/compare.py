"""Compare the predictions of several runs for the same cases in the same folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from milsurv.evaluation.metric import (
    FloatArray,
    Metric,
    NotComputableError,
    measured,
    metric,
    too_few_for_intervals,
    without_interval,
)
from milsurv.evaluation.pairs import concordance_sums, exit_order
from milsurv.evaluation.strata import resample_counts


def compare(predictions: Mapping[str, pd.DataFrame], bootstraps: int, seed: int) -> dict[str, Any]:
    """Harrell's C of each run within folds, and the paired difference of each two of them; ready for JSON.

    ``predictions`` maps a run's name to its ``case_id``, ``fold``, ``time``, ``event`` and ``risk``, a row for each
    case and fold, all but the risk the same in each run. Every bootstrap resample draws cases within folds, the same
    ones for all runs, so that a difference is one of models and not of cases. Its interval is the 95 % percentile
    interval; its p, ``2 · (1 + min(#{d ≤ 0}, #{d ≥ 0})) / (1 + resamples)`` and at most 1, is the level at which such
    an interval would just reach 0; ``holm_p_value`` is corrected for the number of pairs. Fewer than five events have
    neither.
    """
    values = {name: _c_indices(rows, bootstraps, seed) for name, rows in predictions.items()}
    first = next(iter(predictions.values()))
    events = int((first["event"] == 1).sum())
    few = too_few_for_intervals(events)
    pairs = [
        {"first": one, "second": other, **_difference(values[one], values[other], few)}
        for one, other in combinations(values, 2)
    ]
    known = [pair for pair in pairs if pair["p_value"]["value"] is not None]
    corrected = iter(holm([pair["p_value"]["value"] for pair in known]))
    for pair in pairs:
        reason = pair["p_value"]["reason"]
        pair["holm_p_value"] = metric(None if reason else next(corrected), reason=reason)
    return {
        "cases": len(first),
        "events": events,
        "bootstraps": bootstraps,
        "runs": [{"name": name, "harrell_c_index": _measured(found, few)} for name, found in values.items()],
        "pairs": pairs,
    }


def _c_indices(rows: pd.DataFrame, bootstraps: int, seed: int) -> FloatArray:
    """Harrell's C over folds, ``(1 + bootstraps,)``: observed, then of each resample; NaN without comparable pairs."""
    sums = np.zeros((2, 1 + bootstraps))
    for fold, cases in rows.sort_values("case_id").groupby("fold"):
        counts = resample_counts(len(cases), bootstraps, np.random.default_rng([seed, int(str(fold))]))
        event = cases["event"].to_numpy() == 1
        exits = exit_order(cases["time"].to_numpy(dtype=float), event)
        risk = cases["risk"].to_numpy(dtype=float)
        sums += concordance_sums(risk, exits, exits, event.astype(float), counts)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[0] / sums[1])


def _given(values: FloatArray) -> FloatArray:
    if not np.isfinite(values[0]):
        raise NotComputableError("no comparable pairs")
    return values


def _measured(values: FloatArray, few: str | None) -> Metric:
    found = measured(partial(_given, values))
    return found if few is None else without_interval(found, few)


def _difference(one: FloatArray, other: FloatArray, few: str | None) -> dict[str, Any]:
    difference = one - other
    found = _measured(difference, few)
    usable = difference[1:][np.isfinite(difference[1:])]
    if found["interval"] is None:
        return {"difference": found, "p_value": metric(None, reason=found["reason"])}
    beyond = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    return {"difference": found, "p_value": metric(min(1.0, 2 * (1 + beyond) / (1 + len(usable))))}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down method, in their order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(p) for p in corrected]
