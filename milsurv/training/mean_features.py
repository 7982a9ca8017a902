"""Units of work of the baseline ``mean_features``: a Cox model of the components of mean-pooled features, by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from milsurv.aggregators.cox_regression import FloatArray, fit_components_cox
from milsurv.errors import MilsurvError
from milsurv.executors.base import Context
from milsurv.features.store import read_bag
from milsurv.storage.checksums import read_checked, write_checked
from milsurv.training.data import TrainingCase
from milsurv.training.model import load_tensors, save_tensors
from milsurv.training.seeds import seed_of


def pool_features(context: Context, cases: Sequence[TrainingCase]) -> FloatArray:
    """Unit of work: ``(n, p)`` mean features of cases, all magnifications side by side, the finest first.

    A case with several slides has the mean of the slides' means. Each case is reported as an event ``pooled``.
    """
    rows = []
    for case in cases:
        context.raise_if_stopped()
        rows.append(np.mean([_mean(file) for _, file in case.slides], axis=0))
        context.report({"event": "pooled"})
    return np.stack(rows)


def _mean(file: Path) -> FloatArray:
    features = read_bag(file).features
    means = [features[m].mean(0, dtype=torch.float64) for m in sorted(features, reverse=True)]
    return np.asarray(torch.cat(means).numpy())


def save_pooled(path: Path, case_ids: Sequence[str], features: FloatArray) -> None:
    """Write mean features ``(n, p)`` in the order of ``case_ids``, as float32."""
    save_tensors(path, {"features": torch.from_numpy(features).float()}, {"case_ids": list(case_ids)})


@dataclass(frozen=True)
class MeanFeaturesFold:
    """The baseline of one fold."""

    fold: int
    path: Path
    """The table that is made, see :func:`read_risks`."""
    pooled: Path
    """The file of :func:`save_pooled`."""
    train: tuple[TrainingCase, ...]
    """Training and inner validation cases."""
    test: tuple[TrainingCase, ...]


def fit_mean_features(context: Context, job: MeanFeaturesFold) -> str | None:
    """Unit of work: fit the model to the training cases, write their cross-fitted risks and those of the test cases.

    Returns the reason if it cannot be fitted.
    """
    if not job.path.is_file():
        try:
            table = _risks(job)
        except MilsurvError as error:
            return f"fold {job.fold}: {error}"
        write_checked(job.path, table.to_csv(index=False))
    context.report({"event": "fitted"})
    return None


def _risks(job: MeanFeaturesFold) -> pd.DataFrame:
    tensors, about = load_tensors(job.pooled)
    place = {case_id: row for row, case_id in enumerate(about["case_ids"])}

    def pooled(cases: Sequence[TrainingCase]) -> FloatArray:
        return np.asarray(tensors["features"][[place[case.case_id] for case in cases]].double().numpy())

    time = np.array([case.time for case in job.train], dtype=float)
    event = np.array([case.event == 1 for case in job.train])
    model = fit_components_cox(pooled(job.train), time, event, seed_of("mean_features", job.fold))
    tables = [
        pd.DataFrame(
            {
                "case_id": [case.case_id for case in cases],
                "role": role,
                "time": [case.time for case in cases],
                "event": [case.event for case in cases],
                "risk": risk,
            }
        )
        for role, cases, risk in (
            ("train", job.train, model.cross_fitted),
            ("test", job.test, model.risk(pooled(job.test))),
        )
    ]
    return pd.concat(tables)


def read_risks(path: Path) -> pd.DataFrame:
    """``case_id, role, time, event, risk`` of a fold's cases, ``role`` being ``train`` or ``test``.

    Raises MilsurvError if the file was changed.
    """
    return pd.read_csv(StringIO(read_checked(path)), dtype={"case_id": str}, float_precision="round_trip")
