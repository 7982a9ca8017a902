"""Who chooses the epoch, and what is left of the choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from milsurv.errors import ConfigError
from milsurv.features.store import read_bag
from milsurv.plugin.registry import get_registry
from milsurv.storage.run_files import HISTORY, MODEL, OPTIMISTIC, PREDICTIONS, TRAINING_RISKS
from milsurv.training.data import follow_up
from milsurv.training.fold import train_fold
from milsurv.training.job import FoldJob
from milsurv.training.loop import FoldTraining
from milsurv.training.model import load_model, load_tensors, with_prefix
from milsurv.training.results import read_predictions
from tests.contexts import on_cpu
from tests.training.conftest import MakeJob, StoppedError, Watch

SETTINGS = {"training.epochs": 10, "training.learning_rate": 0.05, "aggregator.name": "abmil"}


def _train(job: FoldJob) -> pd.DataFrame:
    torch.set_num_threads(1)
    train_fold(on_cpu(), job)
    return pd.read_csv(job.folder / HISTORY)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(path)[0]


def _best(scores: pd.Series) -> int:
    """The epoch with the lowest score, the earlier of equals."""
    return int(np.argmin(scores.to_numpy())) + 1


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("by", ["loss", "c_index"])
def test_both_choices_are_of_one_training(make_job: MakeJob, by: str) -> None:
    """The honest one is to the bit that of a run without the other, which is the best epoch for the reported cases."""
    settings = {**SETTINGS, "training.select_by": by}
    honest = make_job("honest", **settings)
    both = make_job("both", **settings, **{"training.selection": "both"})
    _train(honest)
    history = _train(both)
    for name in (MODEL, PREDICTIONS, TRAINING_RISKS):
        assert (both.folder / name).read_bytes() == (honest.folder / name).read_bytes()
    scores = history["reported_loss"] if by == "loss" else -history["reported_c_index"]
    assert history.loc[history["optimistic_chosen"] == 1, "epoch"].item() == _best(scores)
    model, loss, about, _ = load_model(both.folder / f"{OPTIMISTIC}{MODEL}", get_registry(), "cpu")
    assert about["epoch"] == _best(scores)
    with torch.no_grad():
        outputs = torch.stack(
            [torch.stack([model(read_bag(path)) for _, path in case.slides]).mean(0) for case in both.test]
        )
    assert float(loss(outputs, *follow_up(both.test))) == pytest.approx(
        history["reported_loss"].iloc[_best(scores) - 1], rel=1e-5
    )
    optimistic = read_predictions(both.folder / f"{OPTIMISTIC}{PREDICTIONS}")
    np.testing.assert_allclose(optimistic["risk"], loss.risk(outputs), rtol=1e-5)


def test_the_reported_fold_chooses_when_asked_to(make_job: MakeJob) -> None:
    job = make_job(**SETTINGS, **{"training.selection": "reported_fold"})
    job = replace(job, train=job.train + job.validation, validation=())
    history = _train(job)
    assert history["validation_loss"].isna().all()
    assert history.loc[history["chosen"] == 1, "epoch"].item() == _best(history["reported_loss"])
    assert not (job.folder / f"{OPTIMISTIC}{PREDICTIONS}").exists()


def test_each_selection_has_the_model_of_its_own_epoch(make_job: MakeJob) -> None:
    job = make_job(**SETTINGS, **{"training.selection": "both"})
    training = FoldTraining(on_cpu(), make_job("other", **SETTINGS, **{"training.selection": "both"}))
    list(training.epochs())
    _train(job)
    for chooser, prefix in (("inner_validation", ""), ("reported_fold", OPTIMISTIC)):
        tensors, about = load_tensors(job.folder / f"{prefix}{MODEL}")
        assert about["epoch"] == training.state.best[chooser].epoch
        assert _equal(with_prefix("model.", tensors), training.state.best[chooser].weights)


def test_no_epoch_is_chosen_before_it_may(make_job: MakeJob) -> None:
    free = _train(make_job("free", **SETTINGS))
    best = _best(free["validation_loss"])
    history = _train(make_job("later", **SETTINGS, **{"training.select_after": best, "training.patience": 3}))
    chosen = int(history.loc[history["chosen"] == 1, "epoch"].item())
    candidates = free["validation_loss"].iloc[best : len(history)]
    assert chosen == best + _best(candidates) > best
    assert len(history) in (chosen + 3, 10)


def test_nothing_to_choose_from_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"training.select_after: .*must be less than training.epochs"):
        make_job(**{"training.epochs": 5, "training.select_after": 5})


def test_a_refit_trains_all_training_cases_for_the_chosen_number_of_epochs(make_job: MakeJob) -> None:
    """Against a training of its own that keeps the last epoch, under a schedule that does not end sooner."""
    settings = {**SETTINGS, "training.schedule": "constant", "training.recalibrate": False}
    chosen_of = _train(make_job("plain", **settings))
    job = make_job("refit", **settings, **{"training.refit": True})
    history = _train(job)
    chosen = int(history.loc[history["chosen"] == 1, "epoch"].item())
    assert chosen == chosen_of.loc[chosen_of["chosen"] == 1, "epoch"].item()
    plain = make_job("last", **{**settings, "training.epochs": chosen, "training.selection": "last_epoch"})
    _train(replace(plain, train=job.train + job.validation, validation=()))
    assert _equal(_weights(job.folder / MODEL), _weights(plain.folder / MODEL))
    risks = pd.read_csv(job.folder / TRAINING_RISKS)
    assert set(risks["case_id"]) == {case.case_id for case in job.train + job.validation}
    assert set(risks["role"]) == {"train"}


def test_a_refit_that_was_stopped_goes_on(make_job: MakeJob) -> None:
    settings = {**SETTINGS, "training.refit": True}
    undisturbed, job = make_job("undisturbed", **settings), make_job("stopped", **settings)
    whole = Watch()
    train_fold(whole.context, undisturbed)
    for stop in (whole.seen // 3, whole.seen // 2):
        with pytest.raises(StoppedError):
            train_fold(Watch(stop).context, job)
    _train(job)
    for name in (MODEL, PREDICTIONS, HISTORY):
        assert (job.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def test_refit_is_refused_where_nobody_was_held_out(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"training.refit: needs selection: inner_validation"):
        make_job(**{"training.refit": True, "training.selection": "last_epoch"})


def test_training_risks_and_the_standardised_risk_are_what_the_model_says(make_job: MakeJob) -> None:
    job = make_job(**SETTINGS)
    _train(job)
    model, loss, about, _ = load_model(job.folder / MODEL, get_registry(), "cpu")

    def risks(cases: tuple[object, ...]) -> torch.Tensor:
        with torch.no_grad():
            return loss.risk(
                torch.stack(
                    [
                        torch.stack([model(read_bag(path)) for _, path in case.slides]).mean(0)  # type: ignore[attr-defined]
                        for case in cases
                    ]
                )
            )

    known = pd.read_csv(job.folder / TRAINING_RISKS)
    assert list(known["case_id"]) == [case.case_id for case in job.train + job.validation]
    np.testing.assert_allclose(known["risk"], risks(job.train + job.validation), rtol=1e-5)
    training = risks(job.train)
    assert about["high_risk_above"] == pytest.approx(float(training.median()), rel=1e-5)
    table = read_predictions(job.folder / PREDICTIONS)
    expected = (risks(job.test) - training.median()) / training.std(correction=0)
    np.testing.assert_allclose(table["standardized_risk"], expected, rtol=1e-3, atol=1e-5)
    assert list(table["high_risk"]) == list((table["standardized_risk"] > 0).astype(int))
