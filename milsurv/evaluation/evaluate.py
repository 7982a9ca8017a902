"""Everything that ``metrics.json`` says about a run's predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from milsurv.config.run import Evaluation
from milsurv.evaluation.brier import (
    brier_score,
    brier_score_kaplan_meier,
    index_of_prediction_accuracy,
    integrated_brier_score,
    integrated_brier_score_kaplan_meier,
)
from milsurv.evaluation.calibration import calibration_at
from milsurv.evaluation.clinical import ClinicalData, against_clinical
from milsurv.evaluation.concordance import (
    area_under_roc,
    harrell_c_index,
    integrated_area_under_roc,
    truncation,
    uno_c_index,
)
from milsurv.evaluation.d_calibration import d_calibration
from milsurv.evaluation.ensemble import ensemble
from milsurv.evaluation.high_against_low import high_against_low
from milsurv.evaluation.metric import (
    Metric,
    NotComputableError,
    measured,
    metric,
    too_few_for_intervals,
    without_interval,
)
from milsurv.evaluation.over_time import over_time
from milsurv.evaluation.risk_groups import risk_groups
from milsurv.evaluation.strata import Stratum, TrainingFollowUp, strata_of_seed
from milsurv.evaluation.subgroups import Subgroups, members
from milsurv.evaluation.times import EvaluationTimes, time_text

IN_SEVERAL_FOLDS = "no interval: some cases are reported in several folds, which are then not independent"
FEWEST_EVENTS = 5
"""Resamples of fewer repeat or miss them, so that their spread says nothing."""
TOO_FEW_EVENTS = (
    f"no interval: with {{events}} events, where a bootstrap takes {FEWEST_EVENTS}, it would say nothing"
)
TRUE_RISK_NOTE = "upper bound known because the cohort is synthetic"


def evaluate(
    predictions: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    times: EvaluationTimes,
    settings: Evaluation,
    groups: Subgroups | None = None,
    clinical: ClinicalData | None = None,
) -> dict[str, Any]:
    """What the predictions are worth, fold by fold and pooled over folds, for each seed; ready for JSON.

    ``predictions`` has a row per case and seed: ``case_id``, ``fold``, ``seed``, ``time``, ``event`` (1 or
    0), ``risk``, ``high_risk`` (1 when the risk is above the median of the fold's training cases, else 0),
    a :func:`survival_column` for each of ``times.all``, ``standardized_risk`` for the ensemble of several seeds,
    and ``true_risk`` where it is known. ``training`` has the follow-up of each fold's training cases, to which the
    censoring weights are fitted.
    ``groups`` are those of :func:`subgroups`, each measured over folds like the whole; with ``clinical`` data
    the image risk is compared with clinical variables (:func:`against_clinical`).

    A metric is ``{"value", "interval", "reason"}``; what cannot be computed is None with the reason, never
    NaN. ``metrics`` are the scores that the summary averages; ``calibration`` and ``high_against_low``
    stand beside them, and beside what is pooled :func:`over_time`. The interval of a metric is a 95 % percentile
    bootstrap over the reported cases, within folds; models and censoring weights stay as they are, so it does not
    speak of the variation between trainings: the standard deviations of the summary do. A case that several folds
    report counts in each of them in pooled metrics, which then have no interval, and once in calibration and risk
    groups. Of fewer than five events there is no interval. Raises ``ValueError`` when a case stands twice in a fold
    under one seed, ``KeyError`` when a column or fold is missing.
    """
    of: dict[str, list[dict[str, Any]]] = {name: [] for name in ("folds", "pooled", "subgroups", "clinical")}
    seeds = sorted(int(seed) for seed in predictions["seed"].unique())
    account, measured_whole = (
        partial(measure, training=training, times=times, settings=settings) for measure in (_account, _whole)
    )
    for seed in seeds:
        rows = predictions[predictions["seed"] == seed]
        of["folds"] += [
            {"seed": seed, "fold": fold, **account(rows[rows["fold"] == fold])}
            for fold in sorted(int(fold) for fold in rows["fold"].unique())
        ]
        of["pooled"].append({"seed": seed, **measured_whole(rows)})
        of["subgroups"] += [
            {"seed": seed, **group, **account(of_group)} for group, of_group in members(rows, groups or {})
        ]
        if clinical is not None:
            of["clinical"].append(
                {"seed": seed, **against_clinical(_each_once(rows), training, clinical, settings)}
            )
    return {
        "seeds": seeds,
        "times": list(times.times),
        "integration_times": list(times.integration),
        "truncation": settings.truncation,
        **of,
        "ensemble": measured_whole(ensemble(predictions)) if len(seeds) > 1 else None,
        "summary": _summary([fold["metrics"] for fold in of["folds"]]),
        "true_risk": _true_risk(predictions, training, settings),
    }


def _account(
    rows: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    times: EvaluationTimes,
    settings: Evaluation,
) -> dict[str, Any]:
    """One seed's rows, measured. Where cases are reported in several folds, calibration takes each case once."""
    strata = strata_of_seed(rows, training, times.all, settings)
    metrics = _metrics(strata, times)
    once = _each_once(rows)
    events = int((once["event"] == 1).sum())
    why_none = too_few_for_intervals(events)
    if len(once) < len(rows):
        why_none = IN_SEVERAL_FOLDS
        strata = strata_of_seed(once, training, times.all, settings)
    if why_none is not None:
        metrics = {name: without_interval(found, why_none) for name, found in metrics.items()}
    return {
        "cases": len(once),
        "events": events,
        "metrics": metrics,
        "calibration": {
            "d_calibration": d_calibration(strata),
            "at": [calibration_at(strata, t) for t in times.times],
        },
        "high_against_low": high_against_low(once),
    }


def _whole(
    rows: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    times: EvaluationTimes,
    settings: Evaluation,
) -> dict[str, Any]:
    """The account of all folds of a seed, or of the ensemble, with what is drawn of it."""
    return {
        **_account(rows, training, times, settings),
        "over_time": over_time(rows, training, times.integration, settings),
        "risk_groups": risk_groups(_each_once(rows)),
    }


def _each_once(rows: pd.DataFrame) -> pd.DataFrame:
    """Each case from the first fold that reports it, in the rows' order."""
    first = rows.sort_values("fold", kind="stable").drop_duplicates("case_id")
    return rows.loc[rows.index.intersection(first.index, sort=False)]


def _metrics(strata: Sequence[Stratum], times: EvaluationTimes) -> dict[str, Metric]:
    grid = times.integration
    metrics = {
        "harrell_c_index": measured(partial(harrell_c_index, strata)),
        "uno_c_index": measured(partial(uno_c_index, strata), **_truncations(strata)),
    }
    for name, score in (
        ("integrated_area_under_roc", integrated_area_under_roc),
        ("integrated_brier_score", integrated_brier_score),
        ("integrated_brier_score_kaplan_meier", integrated_brier_score_kaplan_meier),
        ("integrated_index_of_prediction_accuracy", index_of_prediction_accuracy),
    ):
        metrics[name] = measured(partial(score, strata, grid)) if grid else metric(None, reason=times.reason)
    for t in times.times:
        at = time_text(t)
        metrics[f"area_under_roc_at_{at}"] = measured(partial(area_under_roc, strata, t))
        metrics[f"brier_score_at_{at}"] = measured(partial(brier_score, strata, t))
        metrics[f"brier_score_kaplan_meier_at_{at}"] = measured(partial(brier_score_kaplan_meier, strata, t))
        metrics[f"index_of_prediction_accuracy_at_{at}"] = measured(
            partial(index_of_prediction_accuracy, strata, [t])
        )
    return metrics


def _truncations(strata: Sequence[Stratum]) -> dict[str, Any]:
    """The truncation time of Uno's C, or one for each fold, by its number, when there are several."""

    def time_or_none(s: Stratum) -> float | None:
        try:
            return truncation(s)
        except NotComputableError:
            return None

    by_fold = {str(s.fold): time_or_none(s) for s in strata}
    if len(strata) == 1:
        return {"truncated_at": by_fold[str(strata[0].fold)]}
    return {"truncated_at_by_fold": by_fold}


def _summary(folds: Sequence[Mapping[str, Metric]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation of each metric over the folds of all seeds in which it exists."""
    names = list(folds[0]) if folds else []
    return {name: _mean_over_folds([fold[name] for fold in folds]) for name in names}


def _mean_over_folds(metrics: Sequence[Metric]) -> dict[str, Any]:
    values = [m["value"] for m in metrics if m["value"] is not None]
    reasons = Counter(m["reason"] for m in metrics if m["value"] is None)
    listed = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
    left_out = f"left out {len(metrics) - len(values)} of {len(metrics)} folds: {listed}"
    return {
        "mean": float(np.mean(values)) if values else None,
        "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "folds": len(values),
        "note": left_out if reasons else None,
    }


def _true_risk(
    predictions: pd.DataFrame, training: Mapping[int, TrainingFollowUp], settings: Evaluation
) -> dict[str, Any] | None:
    """How well the known risk itself ranks the cases; it is the same under every seed."""
    if "true_risk" not in predictions or predictions["true_risk"].isna().all():
        return None
    rows = predictions.drop_duplicates(["fold", "case_id"])
    strata = strata_of_seed(rows.assign(risk=rows["true_risk"]), training, (), settings)
    by_fold = [measured(partial(harrell_c_index, [s])) for s in strata]
    pooled = measured(partial(harrell_c_index, strata))
    return {"harrell_c_index": {**_mean_over_folds(by_fold), "pooled": pooled}, "note": TRUE_RISK_NOTE}
