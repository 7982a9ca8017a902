"""Fits the baselines of a run to the same folds, once for all runs of these cases, features and splits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from milsurv.cohort.cases import Split
from milsurv.evaluation.baselines import Baseline, predict_survival
from milsurv.evaluation.clinical import ClinicalData, clinical_risks
from milsurv.evaluation.intervals import NotComputableError
from milsurv.executors.base import Event, Unit
from milsurv.runs.folder import RunContent
from milsurv.runs.session import Session, advance
from milsurv.training.data import TrainingCase
from milsurv.training.mean_features import (
    MeanFeaturesFold,
    fit_mean_features,
    pool_features,
    read_risks,
    save_pooled,
)

CASES_PER_UNIT = 32


def fit_baselines(content: RunContent, cases: Sequence[TrainingCase], folds: Sequence[int]) -> list[Baseline]:
    """The baselines of the configuration, for the test cases of ``folds``; ``clinical`` needs clinical variables.

    ``cases`` are the usable cases with their feature files.
    """
    config = content.config
    splits = [split for split in content.splits if split.fold in folds]
    found = []
    if "mean_features" in config.baselines:
        found.append(_mean_features(content, cases, splits))
    if "clinical" in config.baselines and config.evaluation.clinical:
        found.append(_clinical(content, splits))
    return found


def _mean_features(content: RunContent, cases: Sequence[TrainingCase], splits: Sequence[Split]) -> Baseline:
    folder = content.config.workspace / "baselines" / content.baseline_fingerprint()
    by_id = {case.case_id: case for case in cases}
    jobs = [
        MeanFeaturesFold(
            fold=split.fold,
            path=folder / f"fold_{split.fold}.csv",
            pooled=folder / "mean_features.safetensors",
            train=tuple(by_id[case_id] for case_id in sorted(split.train + split.validation)),
            test=tuple(by_id[case_id] for case_id in split.test),
        )
        for split in splits
    ]
    if todo := [job for job in jobs if not job.path.is_file()]:
        _pool(content.session, cases, todo[0].pooled)
        units = [Unit(f"baseline fold {job.fold}", fit_mean_features, {"job": job}, job.path) for job in todo]
        with content.session.progress.stage("fitting baselines", len(units), "folds") as stage:
            reasons = content.session.executor.run(units, partial(advance, stage, "fitted"))
        if any(reasons):
            return Baseline("mean_features", None, next(filter(None, reasons)))
    tables = [predict_survival(read_risks(job.path), content.times.all).assign(fold=job.fold) for job in jobs]
    return Baseline("mean_features", pd.concat(tables, ignore_index=True))


def _pool(session: Session, cases: Sequence[TrainingCase], path: Path) -> None:
    """Write the mean features of all cases, unless the file exists."""
    if path.is_file():
        return
    units = [
        Unit(f"mean features from {part[0].case_id}", pool_features, {"cases": part})
        for start in range(0, len(cases), CASES_PER_UNIT)
        if (part := tuple(cases[start : start + CASES_PER_UNIT]))
    ]

    def on_event(unit: Unit, event: Event) -> None:
        advance(stage, "pooled", unit, event)

    with session.progress.stage("pooling features", len(cases), "cases") as stage:
        rows = session.executor.run(units, on_event)
    save_pooled(path, [case.case_id for case in cases], np.concatenate(rows))


def _clinical(content: RunContent, splits: Sequence[Split]) -> Baseline:
    data = ClinicalData.of(content.usable, content.splits, content.config.evaluation.clinical, {})
    tables = []
    for split in splits:
        try:
            risks = clinical_risks(data, split.fold, split.test)
        except NotComputableError as reason:
            return Baseline("clinical", None, f"fold {split.fold}: {reason}")
        tables.append(predict_survival(risks, content.times.all).assign(fold=split.fold))
    return Baseline("clinical", pd.concat(tables, ignore_index=True))
