"""Evaluates the finished folds of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from milsurv.cohort.cases import Case, Split
from milsurv.evaluation.baselines import Baseline
from milsurv.evaluation.clinical import ClinicalData
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.plugin_metrics import all_metrics
from milsurv.evaluation.schema import RunMetrics
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.subgroups import attributes_of, subgroups
from milsurv.runs.folder import RunContent, RunFolder
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import write_checked
from milsurv.storage.run_files import BASELINES, METRICS, OPTIMISTIC, PREDICTIONS, TRAINING_RISKS
from milsurv.training.job import FoldJob
from milsurv.training.results import read_predictions


def measure(
    jobs: Sequence[FoldJob], content: RunContent, folder: RunFolder, baselines: Sequence[Baseline]
) -> RunMetrics:
    """The metrics of the finished folds; writes ``metrics.json`` and the predictions when all are finished."""
    finished = [job for job in jobs if job.finished]
    true_risk = {case.case_id: case.true_risk for case in content.usable.cases if case.true_risk is not None}
    follow_up = {case.case_id: case for case in content.usable.cases}
    training = {split.fold: _training_follow_up(split, follow_up) for split in content.splits}
    settings = content.config.evaluation
    groups = subgroups(attributes_of(content.usable), settings.subgroups)
    clinical = _clinical_data(content, finished) if settings.clinical else None
    metrics = all_metrics(content.session.registry)
    accounts = {}
    for prefix in jobs[0].prefixes.values():
        predictions = pd.concat(
            [read_predictions(job.folder / f"{prefix}{PREDICTIONS}") for job in finished], ignore_index=True
        )
        if true_risk:
            predictions.insert(7, "true_risk", predictions["case_id"].map(true_risk))
        accounts[prefix] = evaluate(
            predictions,
            training,
            content.times,
            settings,
            groups,
            None if prefix else clinical,
            metrics,
            () if prefix else baselines,
        )
        if len(finished) == len(jobs):
            write_checked(folder.path / f"{prefix}{PREDICTIONS}", predictions.to_csv(index=False))
    results: RunMetrics = {
        "cohort": content.summary,
        **accounts[""],
        "optimistic": accounts.get(OPTIMISTIC),
    }
    if len(finished) == len(jobs):
        _write_baselines(folder.path / BASELINES, baselines)
        write_checked(folder.path / METRICS, json_text(results))
    return results


def _write_baselines(path: Path, baselines: Sequence[Baseline]) -> None:
    """The predictions of the baselines that have any, with the column ``baseline``."""
    tables = [
        b.predictions.assign(baseline=b.name)[["baseline", *b.predictions]]
        for b in baselines
        if b.predictions is not None
    ]
    if tables:
        write_checked(path, pd.concat(tables).to_csv(index=False))


def _clinical_data(content: RunContent, finished: Sequence[FoldJob]) -> ClinicalData:
    risks = {
        (job.seed, job.fold): read_predictions(job.folder / TRAINING_RISKS)
        for job in finished
        if (job.folder / TRAINING_RISKS).is_file()
    }
    return ClinicalData.of(content.usable, content.splits, content.config.evaluation.clinical, risks)


def _training_follow_up(split: Split, cases: dict[str, Case]) -> TrainingFollowUp:
    training = [cases[case_id] for case_id in split.train + split.validation]
    return TrainingFollowUp(
        np.array([case.time for case in training]), np.array([case.event for case in training])
    )
