"""What becomes of a fold after its epochs: recalibrated survival, and a warning about the own probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import KaplanMeierFitter

from milsurv.executors.base import Event
from milsurv.plugin.registry import get_registry
from milsurv.storage.run_files import MODEL, PREDICTIONS, PROBABILITIES, TRAINING_RISKS
from milsurv.training.data import TrainingCase
from milsurv.training.fold import WORSE, train_fold
from milsurv.training.job import STATES, FoldJob
from milsurv.training.model import load_model, load_tensors
from tests.contexts import on_cpu
from tests.training.conftest import MakeJob, StoppedError, Watch

SETTINGS = {"aggregator.name": "abmil", "training.learning_rate": 0.05}
LEFT_BEHIND = (MODEL, PREDICTIONS, PROBABILITIES)


def _train(job: FoldJob) -> dict[str, Any]:
    torch.set_num_threads(1)
    train_fold(on_cpu(), job)
    found: dict[str, Any] = json.loads((job.folder / PROBABILITIES).read_text())
    return found


def _last_epoch(make_job: MakeJob, cases: Sequence[TrainingCase], folder: str, **settings: Any) -> FoldJob:
    job = make_job(folder, **SETTINGS, **{"training.selection": "last_epoch", **settings})
    return replace(job, train=tuple(cases[:18]), validation=(), test=tuple(cases[18:]))


def test_recalibration_changes_survival_and_nothing_else(make_job: MakeJob) -> None:
    with_, without = (
        make_job("with", **SETTINGS),
        make_job("without", **SETTINGS, **{"training.recalibrate": False}),
    )
    assert _train(with_)["recalibrated_on"] == len(with_.validation)
    assert _train(without)["slope"] is None
    tables = [pd.read_csv(job.folder / PREDICTIONS) for job in (with_, without)]
    others = [column for column in tables[0] if "survival_at_" not in str(column)]
    pd.testing.assert_frame_equal(tables[0][others], tables[1][others])
    assert not np.allclose(tables[0].filter(like="survival_at_"), tables[1].filter(like="survival_at_"))
    tensors = [load_tensors(job.folder / MODEL)[0] for job in (with_, without)]
    added = tensors[0].keys() - tensors[1].keys()
    assert added == {
        f"recalibration.{n}" for n in ("median_deviation_slope", "event_times", "log_cumulative_hazard")
    }


@pytest.mark.parametrize("refit", [False, True])
def test_mean_survival_of_the_validation_cases_is_kaplan_meier_of_all_training_cases(
    make_job: MakeJob, refit: bool
) -> None:
    """A refitted model is recalibrated on the risks that the model before it predicts for the validation cases."""
    plain, job = make_job("plain", **SETTINGS), make_job(**SETTINGS, **{"training.refit": refit})
    _train(plain)
    _train(job)
    known = pd.read_csv(plain.folder / TRAINING_RISKS)
    median, deviation = (
        load_tensors(plain.folder / MODEL)[1][key] for key in ("high_risk_above", "risk_deviation")
    )
    standardized = (known.loc[known["role"] == "validation", "risk"] - median) / deviation
    recalibration = load_model(job.folder / MODEL, get_registry(), "cpu").recalibration
    assert recalibration is not None
    risk = torch.tensor(standardized.to_numpy()) * recalibration.deviation + recalibration.median
    cases = job.train + job.validation
    curve = KaplanMeierFitter().fit([case.time for case in cases], [case.event for case in cases])
    times = torch.linspace(0, 60, 40, dtype=torch.float64)
    found = recalibration.survival(risk, times).mean(dim=0)
    np.testing.assert_allclose(found, curve.predict(times.numpy()), atol=1e-5)


def test_without_validation_cases_it_is_cross_fitted_and_resumes(
    make_job: MakeJob, cases: Sequence[TrainingCase]
) -> None:
    whole, undisturbed = Watch(), _last_epoch(make_job, cases, "undisturbed")
    torch.set_num_threads(1)
    train_fold(whole.context, undisturbed)
    assert json.loads((undisturbed.folder / PROBABILITIES).read_text())["recalibrated_on"] == 18
    job = _last_epoch(make_job, cases, "stopped")
    for part in (0.4, 0.3):
        with pytest.raises(StoppedError):
            train_fold(Watch(int(part * whole.seen)).context, job)
        assert not job.finished
    _train(job)
    for name in LEFT_BEHIND:
        assert (job.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
    assert not [name for name in STATES if (job.folder / name).exists()]


def test_the_rows_that_are_counted_are_those_that_are_trained(
    make_job: MakeJob, cases: Sequence[TrainingCase]
) -> None:
    for job in (make_job("validated", **SETTINGS), _last_epoch(make_job, cases, "cross-fitted")):
        counts: list[int] = []
        train_fold(on_cpu(lambda e, of=counts: of.append(e.get("count", 0))), job)  # type: ignore[misc]
        assert sum(counts) == job.training_rows


@pytest.mark.parametrize("selection", ["inner_validation", "reported_fold"])
def test_an_epoch_that_is_worse_than_kaplan_meier_is_reported(make_job: MakeJob, selection: str) -> None:
    """A training that overfits within an epoch, chosen by its C-index, has extreme probabilities."""
    settings = {**SETTINGS, "training.selection": selection, "training.select_by": "c_index"}
    job = make_job(**{**settings, "training.learning_rate": 3, "training.standardize": False})
    if selection == "reported_fold":
        job = replace(job, train=job.train + job.validation, validation=())
    events: list[Event] = []
    torch.set_num_threads(1)
    train_fold(on_cpu(events.append), job)
    (found,) = [event for event in events if event["event"] == WORSE]
    assert found["integrated_brier_score"] > found["integrated_brier_score_kaplan_meier"]
    written = json.loads((job.folder / PROBABILITIES).read_text())
    assert written["worse_than_kaplan_meier"]
    assert written["epoch"] == found["epoch"]


def test_no_cases_no_score_but_a_reason(make_job: MakeJob, cases: Sequence[TrainingCase]) -> None:
    found = _train(_last_epoch(make_job, cases, "fold", **{"training.recalibrate": False}))
    assert found["integrated_brier_score"] is None
    assert found["reason"] == "no cases selected the epoch"
    assert not found["worse_than_kaplan_meier"]
