"""Predictions of a trained model: mean and spread over the models that were not trained on a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.evaluation.times import survival_column
from milsurv.executors.base import Context, Resources, Unit
from milsurv.features.store import feature_dims
from milsurv.models.new_slides import find_new_slides
from milsurv.models.trained import MPP_ADVICE, FoldModel, TrainedModel
from milsurv.plugin.registry import get_registry
from milsurv.runs.inputs import feature_source, make_features
from milsurv.runs.leakage import TrainingOverlap
from milsurv.runs.session import Session, advance
from milsurv.training.bags import shared_bags
from milsurv.training.data import FoldId, TrainingCase, files_of
from milsurv.training.model import SurvivalModel, load_model
from milsurv.training.outputs import Outputs
from milsurv.training.results import survival_of

CURVE_POINTS = 1000
"""Steps from 0 to the longest follow-up in training on which the median survival is searched."""


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one model for ``n`` cases."""

    case_ids: tuple[str, ...]
    risk: NDArray[np.float64]
    """``(n,)``, standardised by the risks of the model's training cases: 0 is their median."""
    survival: NDArray[np.float64]
    """``(n, times)``."""


@dataclass(frozen=True)
class SlidePrediction:
    """The prediction for a slide, and its feature file."""

    slide: SlideRef
    row: dict[str, Any]
    overlap: TrainingOverlap | None
    """Overlap with the training cases; None when the slide cannot be used."""
    features: Path
    """Its feature file, if the slide can be used."""


def predict_slides(
    session: Session,
    trained: TrainedModel,
    paths: Sequence[Path],
    mpp: float | None = None,
    table: Path | None = None,
) -> list[SlidePrediction]:
    """A prediction for each slide, in the order of ``paths``: files, or folders of slides.

    Slides of training cases are predicted only by models that were not trained on them. A slide that cannot be read,
    or whose case was used to train every model, has a note and no numbers. Raises MilsurvError when features would
    differ from those of training.

    Args:
        mpp: µm per level-0 pixel of all slides.
        table: a file with the µm per pixel and the case of each slide.
    """
    if not trained.config.reads_slides:
        raise MilsurvError(
            f"{trained.folder}: the models were trained on imported features, so there is no backbone to read slides "
            "with; import the slides' features in the same way, and use milsurv evaluate"
        )
    new_slides = find_new_slides(trained, paths, session.progress, mpp, table)
    slides = [new.slide for new in new_slides]
    case_ids = {new.slide.slide_id: new.case_id for new in new_slides}
    source = replace(feature_source(session), mpp_advice=MPP_ADVICE)
    trained.require_same_features(source)
    for slide in slides:
        source.require_own_file(slide)
    outcomes = make_features(session, source, slides)
    overlaps = {
        slide.slide_id: trained.overlap(slide, outcomes[slide.slide_id], case_ids[slide.slide_id])
        for slide in slides
        if outcomes[slide.slide_id].reason is None
    }
    folds = {slide_id: overlap.folds for slide_id, overlap in overlaps.items() if overlap.folds}
    cases = [TrainingCase(name, 0.0, 0, ((name, source.path(name)),)) for name in folds]
    predicted = predict_cases(session, trained, cases, folds, trained.times)
    rows = dict(zip(predicted.pop("case_id"), records(predicted), strict=True))
    nothing = {**dict.fromkeys(predicted.columns), "models": 0}
    return [
        SlidePrediction(
            slide,
            {"slide_id": slide.slide_id, **rows.get(slide.slide_id, nothing), "note": note},
            overlaps.get(slide.slide_id),
            source.path(slide.slide_id),
        )
        for slide in slides
        for note in [
            overlaps[slide.slide_id].note
            if slide.slide_id in overlaps
            else f"excluded: {outcomes[slide.slide_id].reason}"
        ]
    ]


def predict_cases(
    session: Session,
    trained: TrainedModel,
    cases: Sequence[TrainingCase],
    folds: Mapping[str, Sequence[int]],
    times: Sequence[float],
) -> pd.DataFrame:
    """A row per case, predicted by the models of its ``folds`` (case id -> at least one fold).

    Columns: ``case_id``; ``models``, their number; ``risk``, the mean of their standardised risks (above 0: higher
    than half of the training cases), with ``risk_sd``, ``risk_lowest`` and ``risk_highest`` over the models;
    ``high_risk``, 1 or 0; ``median_survival``, where the mean survival falls to one half, in the cohort's unit, NaN
    when it does not within the longest follow-up in training; ``survival_at_T`` for each of ``times``.
    """
    curve = np.linspace(0, float(trained.training_cases.follow_up.time.max()), CURVE_POINTS + 1)
    all_times = (*times, *curve.tolist())
    cases_of = {
        model: tuple(case for case in cases if model.fold in folds[case.case_id]) for model in trained.models
    }
    resources = Resources(gpus=int(session.device.kind == "cuda"))
    units = [
        Unit(
            f"seed {model.seed} fold {model.fold}",
            predict_with_model,
            {"config": session.config, "model": model, "cases": mine, "times": all_times},
            resources=resources,
        )
        for model, mine in cases_of.items()
        if mine
    ]
    with session.progress.stage("predicting", len(units), "models") as stage:
        predictions: list[ModelPredictions] = session.executor.run(
            units, partial(advance, stage, "predicted")
        )
    return combine([case.case_id for case in cases], predictions, times, curve)


_COLUMNS = ("models", "risk", "risk_sd", "risk_lowest", "risk_highest", "high_risk", "median_survival")


def predict_with_model(
    context: Context,
    config: RunConfig,
    model: FoldModel,
    cases: tuple[TrainingCase, ...],
    times: tuple[float, ...],
) -> ModelPredictions:
    """Unit of work: the risk and survival of cases, predicted by one model."""
    registry = get_registry(config.plugins)
    network, loss, about, recalibration = load_model(model.file, registry, context.device)
    _require_dims(network, model, cases[0])
    bags = shared_bags(context, files_of(cases))
    outputs = Outputs(config, FoldId(model.seed, model.fold), network, loss, bags)
    seen = outputs.of_cases(cases)
    risk = (outputs.risk(seen).double() - about["high_risk_above"]) / (about["risk_deviation"] or 1.0)
    survival = survival_of(outputs, seen, times, recalibration)
    context.report({"event": "predicted"})
    return ModelPredictions(tuple(case.case_id for case in cases), risk.numpy(), survival.numpy())


def _require_dims(network: SurvivalModel, model: FoldModel, case: TrainingCase) -> None:
    """Raise MilsurvError when imported features are of another length, and so of another encoder, than in training."""
    slide, path = case.slides[0]
    here, trained = (
        ", ".join(f"{dim} values at {m}x" for m, dim in sorted(dims.items(), reverse=True))
        for dims in (feature_dims(path), network.feature_dims)
    )
    if here != trained:
        raise MilsurvError(
            f"{model.file} was trained on features of {trained}, but those of slide {slide} have {here}; use features "
            "of the same encoder"
        )


def combine(
    case_ids: Sequence[str],
    predictions: Sequence[ModelPredictions],
    times: Sequence[float],
    curve: NDArray[np.float64],
) -> pd.DataFrame:
    """A row per case, see :func:`predict_cases`; ``predictions`` hold survival at ``times``, then along ``curve``."""
    of_case: dict[str, list[tuple[ModelPredictions, int]]] = {case_id: [] for case_id in case_ids}
    for of_model in predictions:
        for row, case_id in enumerate(of_model.case_ids):
            of_case[case_id].append((of_model, row))
    return pd.DataFrame(
        [_row(case_id, of_case[case_id], times, curve) for case_id in case_ids],
        columns=["case_id", *_COLUMNS, *map(survival_column, times)],
    )


def _row(
    case_id: str,
    found: Sequence[tuple[ModelPredictions, int]],
    times: Sequence[float],
    curve: NDArray[np.float64],
) -> dict[str, Any]:
    risks = np.array([of_model.risk[row] for of_model, row in found])
    survival = np.mean([of_model.survival[row] for of_model, row in found], axis=0)
    at_times, along = survival[: len(times)], survival[len(times) :]
    return {
        "case_id": case_id,
        "models": len(risks),
        "risk": risks.mean(),
        "risk_sd": risks.std(ddof=1) if len(risks) > 1 else np.nan,
        "risk_lowest": risks.min(),
        "risk_highest": risks.max(),
        "high_risk": int(risks.mean() > 0),
        "median_survival": median_survival(curve, along),
        **{survival_column(t): value for t, value in zip(times, at_times, strict=True)},
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each column -> value."""
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]


def median_survival(times: NDArray[np.float64], survival: NDArray[np.float64]) -> float:
    """Time at which ``survival (k,)`` at ascending ``times (k,)`` falls to one half, interpolated; NaN if never."""
    below = np.flatnonzero(survival <= 0.5)
    if not below.size:
        return float("nan")
    first = int(below[0])
    if first == 0:
        return float(times[0])
    before, after = survival[first - 1], survival[first]
    return float(times[first - 1] + (before - 0.5) / (before - after) * (times[first] - times[first - 1]))
