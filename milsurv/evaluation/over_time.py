"""AUC and Brier score along the whole follow-up: the curves of which the stated times are points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from milsurv.config.run import Evaluation
from milsurv.evaluation.brier import brier_score, brier_score_kaplan_meier
from milsurv.evaluation.concordance import area_under_roc
from milsurv.evaluation.metric import FloatArray, NotComputableError
from milsurv.evaluation.strata import Stratum, TrainingFollowUp, strata_of_seed

SCORES: dict[str, Callable[[Sequence[Stratum], float], FloatArray]] = {
    "area_under_roc": area_under_roc,
    "brier_score": brier_score,
    "brier_score_kaplan_meier": brier_score_kaplan_meier,
}


def over_time(
    predictions: pd.DataFrame,
    training: Mapping[int, TrainingFollowUp],
    times: Sequence[float],
    settings: Evaluation,
) -> list[dict[str, Any]]:
    """One seed's scores at each of ``times``, pooled over folds: ``{"time", "area_under_roc", "brier_score", …}``.

    Each score is ``{"value", "reason"}``, the value None with its reason where it cannot be computed. There are no
    intervals: those of the stated times are among the metrics.
    """
    strata = strata_of_seed(predictions, training, times, settings.model_copy(update={"bootstraps": 0}))
    return [{"time": t, **{name: _value(score, strata, t) for name, score in SCORES.items()}} for t in times]


def _value(
    score: Callable[[Sequence[Stratum], float], FloatArray], strata: Sequence[Stratum], t: float
) -> dict[str, Any]:
    try:
        return {"value": float(score(strata, t)[0]), "reason": None}
    except NotComputableError as reason:
        return {"value": None, "reason": str(reason)}
