"""External validation: evaluates a trained model on another cohort, without refitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from milsurv.cohort.cases import Cohort
from milsurv.cohort.checks import check_follow_up, known_unit
from milsurv.cohort.ids import shorten
from milsurv.config.cohort import TableCohort
from milsurv.errors import CohortError, MilsurvError
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.plugin_metrics import all_metrics
from milsurv.evaluation.schema import RunMetrics
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.subgroups import attributes_of, subgroups
from milsurv.evaluation.times import EvaluationTimes, evaluation_times
from milsurv.explain.importance import Explainer
from milsurv.explain.view import MissingView, SlideView, choose_slides, make_views
from milsurv.features.source import SlideOutcome
from milsurv.models.prediction import predict_cases
from milsurv.models.trained import TrainedModel, load_trained
from milsurv.report.html import write_report
from milsurv.runs.cohorts import prepare_cohort
from milsurv.runs.folder import RunContent, describe, find_run, metric_origins
from milsurv.runs.inputs import (
    feature_source,
    make_features,
    training_case,
    usable_cases,
)
from milsurv.runs.pipeline import RunResult
from milsurv.runs.session import Session
from milsurv.storage.atomic import fingerprint, json_text
from milsurv.storage.checksums import read_settings, sha256_of, write_checked
from milsurv.storage.locks import remove_abandoned
from milsurv.storage.run_files import METRICS, PREDICTIONS

ONE_FOLD, NO_SEED = 0, 0
"""Fold and seed of the ensemble's predictions, in tables that have those columns."""


def load_for(
    path: Path, table: Path, slides: Path | None, overrides: Sequence[str], plugin_files: Sequence[Path]
) -> TrainedModel:
    """The trained model in ``path``, with another cohort in its configuration.

    Columns, patterns and units of the table are those of training unless overridden; subgroups must be given again.
    """
    trained = read_settings(find_run(path))
    cohort = trained["cohort"] if trained["cohort"].get("source", "table") == "table" else {}
    cohort = {**cohort, "source": "table", "table": str(table), "slides": slides and str(slides)}
    evaluation = {**trained["evaluation"], "subgroups": [], "clinical": []}
    sections = {"cohort": cohort, "evaluation": evaluation}
    given = [f"{key}={yaml.safe_dump(section, default_flow_style=True)}" for key, section in sections.items()]
    loaded = load_trained(path, [*given, *overrides], plugin_files)
    unit, trained_unit = _table(loaded).time_unit, loaded.cohort["time_unit"]
    if (known_unit(unit) or unit) != (known_unit(trained_unit) or trained_unit):
        raise MilsurvError(
            f"cohort.time_unit: the table's times are in {unit}, but the model was trained on {trained_unit}; convert "
            "the table's times"
        )
    if loaded.config.evaluation.clinical:
        raise MilsurvError(
            "evaluation.clinical: Cox models of clinical variables are fitted to training cases, but nothing is fitted "
            "in an external validation; remove it (evaluation.subgroups is possible)"
        )
    return loaded


def _table(trained: TrainedModel) -> TableCohort:
    assert isinstance(trained.config.cohort, TableCohort)
    return trained.config.cohort


def evaluate_external(session: Session, trained: TrainedModel) -> RunResult:
    """Predict the cohort of ``trained.config``, evaluate, and write a report into WORKSPACE/evaluations.

    Training cases are predicted by the folds that were not trained on them, and excluded if there is none. Censoring
    weights and the Kaplan-Meier reference come from the cohort itself, since they are not part of the model.
    """
    config = session.config
    for part in ("features", "evaluations"):
        remove_abandoned(config.workspace / part)
    source = feature_source(session)
    trained.require_same_features(source)
    cohort = prepare_cohort(session, source)
    slides = [slide for case in cohort.cases for slide in case.slides]
    for slide in slides:
        source.require_own_file(slide)
    outcomes = make_features(session, source, slides)
    usable = usable_cases(cohort, outcomes)
    folds, notes = _usable_folds(trained, usable, outcomes)
    usable = _with_folds(usable, folds)
    for note in notes:
        session.progress.warn(note)
    times = _times(usable, trained)
    cases = [training_case(case, source) for case in usable.cases]
    predicted = predict_cases(session, trained, cases, folds, times.all)
    content = RunContent(
        session, source, cohort, usable, outcomes, times, warnings=tuple(notes), model_name=trained.name
    )
    folder = config.workspace / "evaluations" / config.name / _fingerprint(trained, content, times)
    describe(content, folder)
    predictions = _as_predictions(predicted, usable)
    follow_up = TrainingFollowUp(predictions["time"].to_numpy(), predictions["event"].to_numpy())
    groups = subgroups(attributes_of(usable), config.evaluation.subgroups)
    found = evaluate(
        predictions,
        {ONE_FOLD: follow_up},
        times,
        config.evaluation,
        groups,
        metrics=all_metrics(session.registry),
    )
    metrics: RunMetrics = {"cohort": content.summary, **found, "optimistic": None}
    write_checked(folder / PREDICTIONS, predictions.to_csv(index=False))
    write_checked(folder / METRICS, json_text(metrics))
    report = write_report(folder, config, _views(trained, predictions, folds, content.slides()))
    excluded = sum(outcome.reason is not None for outcome in outcomes.values())
    return RunResult(folder, metrics, report, excluded, usable)


def _views(
    trained: TrainedModel,
    predictions: pd.DataFrame,
    folds: Mapping[str, Sequence[int]],
    slides: pd.DataFrame,
) -> list[SlideView | MissingView]:
    """Three slides with the attention of the first model, of cases that it was not trained on."""
    model = trained.models[0]
    rows = predictions[[model.fold in folds[case_id] for case_id in predictions["case_id"]]]
    where = f" (seen by the model of seed {model.seed}, fold {model.fold})"
    explainer = Explainer(((model.file, model.seed),), trained.registry, "cpu")
    return make_views(trained.config, explainer, choose_slides(rows, slides, where), slides)


def _usable_folds(
    trained: TrainedModel, cohort: Cohort, outcomes: Mapping[str, SlideOutcome]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Case id -> folds that were not trained on it; and notes on the model and on the overlap with training."""
    usable: dict[str, tuple[int, ...]] = {}
    trained_on: list[str] = []
    notes = list(trained.warnings)
    if trained.cohort["synthetic"]:
        notes.append("the model was trained on a synthetic cohort: its numbers say nothing about patients")
    endpoint, trained_endpoint = _table(trained).endpoint, trained.cohort["endpoint"]
    if endpoint != trained_endpoint:
        notes.append(f"the endpoint is {endpoint}, but the model was trained for {trained_endpoint}")
    unit, training = trained.cohort["time_unit"], trained.training_cases.follow_up.time
    if warning := check_follow_up(unit, [case.time for case in cohort.cases], training.tolist()):
        notes.append(warning)
    for case in cohort.cases:
        slides = [trained.overlap(slide, outcomes[slide.slide_id], case.case_id) for slide in case.slides]
        usable[case.case_id] = tuple(
            fold for fold in slides[0].folds if all(fold in slide.folds for slide in slides)
        )
        trained_on += [case.case_id for slide in slides[:1] if any(s.reason is not None for s in slides)]
    if trained_on:
        notes.append(
            f"{len(trained_on)} of {len(cohort.cases)} cases were used in training, by their ids or files, and are "
            f"predicted only by folds that were not trained on them ({shorten(trained_on)}): for them this is not an "
            "external validation; if they are different patients, give them different ids"
        )
    if excluded := [case_id for case_id, folds in usable.items() if not folds]:
        notes.append(
            f"{len(excluded)} cases are excluded, as every fold was trained on them: {shorten(excluded)}"
        )
    return usable, notes


def _with_folds(cohort: Cohort, folds: Mapping[str, Sequence[int]]) -> Cohort:
    cases = tuple(case for case in cohort.cases if folds[case.case_id])
    if not cases:
        raise CohortError(["every fold was trained on every case of this table; use new cases"])
    return replace(cohort, cases=cases)


def _times(cohort: Cohort, trained: TrainedModel) -> EvaluationTimes:
    """The times of the run unless others are given, and the cohort's own grid for integrated scores."""
    settings = trained.config.evaluation
    settings = settings.model_copy(update={"times": settings.times or trained.times})
    return evaluation_times([c.time for c in cohort.cases], [c.event for c in cohort.cases], settings)


def _as_predictions(predicted: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """The predictions as a table of one fold, with the spread over models."""
    by_id = {case.case_id: case for case in cohort.cases}
    cases = [by_id[case_id] for case_id in predicted["case_id"]]
    return predicted.assign(
        fold=ONE_FOLD,
        time=[case.time for case in cases],
        event=[case.event for case in cases],
        seed=NO_SEED,
        standardized_risk=predicted["risk"],
    )


def _fingerprint(trained: TrainedModel, content: RunContent, times: EvaluationTimes) -> str:
    models = [sha256_of(model.file) for model in trained.models]
    cases = [
        (case.case_id, case.time, case.event, [content.outcomes[s.slide_id].made_from for s in case.slides])
        for case in content.usable.cases
    ]
    evaluation = content.config.evaluation.model_dump(mode="json")
    return fingerprint(
        {
            "models": models,
            "cases": cases,
            "times": times.all,
            "evaluation": evaluation,
            **metric_origins(content.session.registry),
        }
    )
