"""Computes everything in ``metrics.json`` from a run's predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from milsurv.config.run import Evaluation
from milsurv.evaluation.baselines import Baseline, compare_with_baseline
from milsurv.evaluation.calibration import calibration_at
from milsurv.evaluation.clinical import ClinicalData, compare_with_clinical
from milsurv.evaluation.d_calibration import d_calibration
from milsurv.evaluation.ensemble import ensemble
from milsurv.evaluation.intervals import (
    FloatArray,
    Metric,
    NotComputableError,
    with_interval,
    without_interval,
)
from milsurv.evaluation.metrics import HARRELL, METRICS, MetricSpec, compute_metrics, definitions
from milsurv.evaluation.risk_groups import compare_risk_groups, risk_groups
from milsurv.evaluation.schema import (
    Account,
    BaselineComparison,
    EvaluationResults,
    FoldAccount,
    PooledAccount,
    SubgroupAccount,
    Summary,
    TrueRisk,
)
from milsurv.evaluation.strata import TrainingFollowUp, strata_of_seed, why_no_interval
from milsurv.evaluation.subgroups import Subgroups, members
from milsurv.evaluation.times import EvaluationTimes

TRUE_RISK_NOTE = "upper bound known because the cohort is synthetic"


def evaluate(
    predictions: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    times: EvaluationTimes,
    settings: Evaluation,
    groups: Subgroups | None = None,
    clinical: ClinicalData | None = None,
    metrics: Sequence[MetricSpec] = METRICS,
    baselines: Sequence[Baseline] = (),
) -> EvaluationResults:
    """All metrics by fold, pooled over folds and summarised, for each seed.

    Args:
        predictions: a row per test case and seed: ``case_id``, ``fold``, ``seed``, ``time``, ``event`` (1 or 0),
            ``risk``, ``high_risk`` (1 when the risk is above the median of the fold's training cases, else 0), a
            :func:`survival_column` for each of ``times.all``, ``standardized_risk`` for the ensemble of several
            seeds, and ``true_risk`` where it is known.
        training: fold -> follow-up of its training cases, to which censoring weights are fitted.
        groups: those of :func:`subgroups`, each evaluated like the whole.
        clinical: clinical variables with which the image risk is compared (:func:`compare_with_clinical`).
        metrics: the metrics to compute.
        baselines: simple models with which the ensemble of the seeds, or the only seed, is compared.

    A metric that cannot be computed has the value None and a reason, never NaN. Intervals are 95 % percentile
    bootstrap intervals over the test cases, within folds. Models and censoring weights are kept fixed, so the
    intervals do not include the variation between trainings; the standard deviations of ``summary`` do. Below five
    events there are no intervals. A case that is tested in several folds counts in each of them in pooled metrics,
    which then have no intervals, and once in calibration and risk groups.

    Raises ``ValueError`` when a case occurs twice in a fold under one seed, ``KeyError`` when a column or fold is
    missing.
    """
    evaluator = _Evaluator(training, times, settings, metrics)
    seeds = sorted(int(seed) for seed in predictions["seed"].unique())
    together = ensemble(predictions) if len(seeds) > 1 else predictions
    results: EvaluationResults = {
        "definitions": definitions(metrics),
        "seeds": seeds,
        "times": list(times.times),
        "integration_times": list(times.integration),
        "truncation": settings.truncation,
        "folds": [],
        "pooled": [],
        "subgroups": [],
        "clinical": [],
        "ensemble": evaluator.pooled(together) if len(seeds) > 1 else None,
        "baselines": [evaluator.compared(together, baseline) for baseline in baselines],
        "summary": {},
        "true_risk": _true_risk(predictions, training, settings),
    }
    for seed in seeds:
        rows = predictions[predictions["seed"] == seed]
        results["folds"] += evaluator.folds(rows)
        results["pooled"].append({"seed": seed, **evaluator.pooled(rows)})
        results["subgroups"] += evaluator.subgroups(rows, groups or {})
        if clinical is not None:
            results["clinical"].append(compare_with_clinical(_first_fold(rows), training, clinical, settings))
    names = results["folds"][0]["metrics"] if seeds else ()
    results["summary"] = {name: _over_folds([f["metrics"][name] for f in results["folds"]]) for name in names}
    return results


@dataclass(frozen=True)
class _Evaluator:
    training: Mapping[int, TrainingFollowUp]
    times: EvaluationTimes
    settings: Evaluation
    metrics: Sequence[MetricSpec]

    def account(self, rows: pd.DataFrame) -> Account:
        """The metrics of one seed's rows."""
        strata = strata_of_seed(rows, self.training, self.times.all, self.settings)
        metrics = compute_metrics(self.metrics, strata, self.times)
        once = _first_fold(rows)
        if len(once) < len(rows):
            strata = strata_of_seed(once, self.training, self.times.all, self.settings)
        if no_interval := why_no_interval(rows):
            metrics = {name: without_interval(found, no_interval) for name, found in metrics.items()}
        return {
            "cases": len(once),
            "events": int((once["event"] == 1).sum()),
            "metrics": metrics,
            "calibration": {
                "d_calibration": d_calibration(strata),
                "at": [calibration_at(strata, t) for t in self.times.times],
            },
            "high_against_low": compare_risk_groups(once),
        }

    def pooled(self, rows: pd.DataFrame) -> PooledAccount:
        """The account of all folds of a seed, or of the ensemble, with its curves over time and risk groups."""
        return {
            **self.account(rows),
            "over_time": self.over_time(rows),
            "risk_groups": risk_groups(_first_fold(rows)),
        }

    def folds(self, rows: pd.DataFrame) -> list[FoldAccount]:
        """The account of each fold of one seed's rows."""
        seed = int(rows["seed"].iloc[0])
        return [
            {"seed": seed, "fold": fold, **self.account(rows[rows["fold"] == fold])}
            for fold in sorted(int(fold) for fold in rows["fold"].unique())
        ]

    def subgroups(self, rows: pd.DataFrame, groups: Subgroups) -> list[SubgroupAccount]:
        """The account of each subgroup of one seed's rows."""
        seed = int(rows["seed"].iloc[0])
        return [
            {"seed": seed, "column": column, "value": value, **self.account(of_group)}
            for column, value, of_group in members(rows, groups)
        ]

    def compared(self, rows: pd.DataFrame, baseline: Baseline) -> BaselineComparison:
        """The comparison of the rows of one seed, or of the ensemble, with a baseline."""
        return compare_with_baseline(rows, baseline, self.training, self.times, self.settings, self.metrics)

    def over_time(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """Each curve's value at each of the integration times, pooled over folds, without intervals."""
        settings = self.settings.model_copy(update={"bootstraps": 0})
        strata = strata_of_seed(rows, self.training, self.times.integration, settings)
        curves = [spec for spec in self.metrics if "curve" in spec.shown and spec.over == "times"]
        return [
            {"time": t, **{spec.name: _value(partial(spec.function, strata, t)) for spec in curves}}
            for t in self.times.integration
        ]


def _value(compute: Callable[[], FloatArray]) -> dict[str, Any]:
    try:
        return {"value": float(compute()[0]), "reason": None}
    except NotComputableError as reason:
        return {"value": None, "reason": str(reason)}


def _first_fold(rows: pd.DataFrame) -> pd.DataFrame:
    """Each case from the first fold in which it is tested, in the order of the rows."""
    first = rows.sort_values("fold", kind="stable").drop_duplicates("case_id")
    return rows.loc[rows.index.intersection(first.index, sort=False)]


def _over_folds(metrics: Sequence[Metric]) -> Summary:
    """Mean and standard deviation over the folds in which the metric could be computed."""
    values = [m["value"] for m in metrics if m["value"] is not None]
    reasons = Counter(m["reason"] for m in metrics if m["value"] is None)
    listed = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
    return {
        "mean": float(np.mean(values)) if values else None,
        "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "folds": len(values),
        "note": f"without {len(metrics) - len(values)} of {len(metrics)} folds: {listed}"
        if reasons
        else None,
    }


def _true_risk(
    predictions: pd.DataFrame, training: Mapping[int, TrainingFollowUp], settings: Evaluation
) -> TrueRisk | None:
    """Concordance of the known risk of a synthetic cohort, which is the same for every seed."""
    if "true_risk" not in predictions or predictions["true_risk"].isna().all():
        return None
    rows = predictions.drop_duplicates(["fold", "case_id"])
    strata = strata_of_seed(rows.assign(risk=rows["true_risk"]), training, (), settings)
    by_fold = [with_interval(partial(HARRELL.function, [s])) for s in strata]
    pooled = with_interval(partial(HARRELL.function, strata))
    return {"harrell_c_index": {**_over_folds(by_fold), "pooled": pooled}, "note": TRUE_RISK_NOTE}
