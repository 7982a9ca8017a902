"""Training of an aggregator that is only fitted, ``mean_cox``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from milsurv.errors import MilsurvError
from milsurv.storage.run_files import HISTORY, MODEL, PREDICTIONS, STATE
from milsurv.training.data import TrainingCase
from milsurv.training.fold import train_fold
from milsurv.training.job import FoldJob
from milsurv.training.loop import rehearse
from milsurv.training.model import load_tensors, with_prefix
from tests.contexts import on_cpu
from tests.training.conftest import MakeJob, StoppedError, Watch

LEFT_BEHIND = (MODEL, HISTORY, PREDICTIONS)


def _train(job: FoldJob) -> dict[str, bytes]:
    train_fold(on_cpu(), job)
    return {name: (job.folder / name).read_bytes() for name in LEFT_BEHIND}


def _job(make_job: MakeJob, folder: str = "fold", **overrides: Any) -> FoldJob:
    return make_job(folder, aggregator="{name: mean_cox}", **overrides)


@pytest.mark.parametrize("loss", ["nll", "ce", "cox"])
def test_it_is_fitted_in_one_epoch(make_job: MakeJob, loss: str) -> None:
    job = _job(make_job, **{"loss.name": loss})
    _train(job)
    history = pd.read_csv(job.folder / HISTORY)
    assert history["epoch"].tolist() == [1]
    assert history["train_c_index"].item() > 0.6
    predictions = pd.read_csv(job.folder / PREDICTIONS)
    survival = predictions.filter(like="survival_at_").to_numpy()
    assert ((survival >= 0) & (survival <= 1)).all()
    assert predictions["risk"].nunique() == len(predictions)


@pytest.mark.parametrize(
    "settings",
    [
        {"selection": "last_epoch"},
        {"selection": "both"},
        {"select_after": 2},
        {"select_by": "c_index", "patience": 1},
        {"refit": True},
        {"bag": "case"},
        {"rows": "slide"},
        {"max_patches": 3},
    ],
)
def test_every_setting_of_the_training_is_possible(make_job: MakeJob, settings: dict[str, Any]) -> None:
    job = _job(make_job, **{f"training.{key}": value for key, value in settings.items()})
    _train(job)
    assert job.finished


def test_it_is_fitted_on_training_cases_only(make_job: MakeJob, cases: Sequence[TrainingCase]) -> None:
    job = _job(make_job, "all")
    exchanged = replace(
        _job(make_job, "exchanged"), validation=tuple(cases[18:20]), test=(*cases[14:18], *cases[20:])
    )
    fitted = []
    for each in (job, exchanged):
        _train(each)
        fitted.append(with_prefix("model.", load_tensors(each.folder / MODEL)[0]))
    assert fitted[0].keys() == fitted[1].keys()
    for name, value in fitted[0].items():
        assert torch.equal(value, fitted[1][name]), name


def test_a_stopped_fold_ends_with_the_same_bytes(make_job: MakeJob) -> None:
    undisturbed = _train(_job(make_job, "undisturbed"))
    job = _job(make_job, "stopped")
    with pytest.raises(StoppedError):
        train_fold(Watch(0, "epoch").context, job)
    assert (job.folder / STATE).exists()
    assert _train(job) == undisturbed


def test_a_check_fits_it_too(make_job: MakeJob) -> None:
    rehearse(on_cpu(), _job(make_job))


def test_too_few_cases_name_the_fold(make_job: MakeJob, cases: Sequence[TrainingCase]) -> None:
    job = replace(_job(make_job, **{"loss.name": "cox"}), train=tuple(cases[1:3]))
    with pytest.raises(
        MilsurvError, match="seed 7, fold 1: a Cox model of mean features needs at least 3 cases"
    ):
        train_fold(on_cpu(), job)
