from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from lifelines.utils import concordance_index

from milsurv import Bag
from milsurv.errors import ConfigError, MilsurvError
from milsurv.executors.base import WORKER_DIED, Context, Event, ExecutorConfig, Placement, Unit
from milsurv.executors.local import LocalConfig, LocalExecutor
from milsurv.features.store import read_bag, write_checksums
from milsurv.losses.discrete import NLL
from milsurv.plugin.registry import get_registry
from milsurv.storage.run_files import HISTORY, MODEL, OPTIMISTIC, PREDICTIONS, REFIT_STATE, STATE
from milsurv.training.choice import ChosenModel
from milsurv.training.data import TrainingCase, follow_up
from milsurv.training.fold import train_fold
from milsurv.training.job import FoldJob
from milsurv.training.loop import FoldTraining
from milsurv.training.model import load_model, load_tensors
from milsurv.training.results import predictions_of
from tests.contexts import on_cpu
from tests.training.conftest import MakeJob, StoppedError, Watch

LEFT_BEHIND = (MODEL, HISTORY, PREDICTIONS)


def _train(job: FoldJob, context: Context | None = None) -> dict[str, bytes]:
    torch.set_num_threads(1)
    train_fold(context or on_cpu(), job)
    return {name: (job.folder / name).read_bytes() for name in LEFT_BEHIND}


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_a_fold_learns_what_its_bags_tell(
    make_job: MakeJob, cases: Sequence[TrainingCase], loss: str
) -> None:
    job = make_job(
        **{
            "loss.name": loss,
            "training.epochs": 30,
            "aggregator.name": "abmil",
            "training.selection": "last_epoch",
        }
    )
    job = replace(job, train=tuple(cases[:18]), validation=(), test=tuple(cases[18:]))
    _train(job)
    history = pd.read_csv(job.folder / HISTORY)
    assert history["train_loss"].iloc[-5:].mean() < history["train_loss"].iloc[:5].mean() - 0.2
    assert history["train_c_index"].iloc[-5:].mean() > 0.75


def test_same_seed_same_bytes_and_another_seed_others(make_job: MakeJob) -> None:
    first, again = _train(make_job("first")), _train(make_job("again"))
    assert first == again
    assert _train(replace(make_job("other"), seed=8))[MODEL] != first[MODEL]


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_a_stopped_fold_ends_with_the_bytes_of_an_undisturbed_one(make_job: MakeJob, loss: str) -> None:
    overrides = {"loss.name": loss, "training.epochs": 6}
    undisturbed = _train(make_job("undisturbed", **overrides))
    job = make_job("stopped", **overrides)
    rng = random.Random(4)
    for _ in range(5):
        with pytest.raises(StoppedError):
            train_fold(Watch(rng.randrange(3, 9)).context, job)
        assert not job.finished
    assert (job.folder / STATE).exists()
    assert _train(job) == undisturbed
    assert not (job.folder / STATE).exists()


def test_a_finished_fold_is_not_touched(make_job: MakeJob) -> None:
    job = make_job()
    _train(job)
    (job.folder / MODEL).write_bytes(b"kept")
    events: list[Event] = []
    train_fold(on_cpu(events.append), job)
    assert events == []
    assert (job.folder / MODEL).read_bytes() == b"kept"


def test_a_fold_that_was_killed_after_training_is_only_predicted(make_job: MakeJob) -> None:
    """On the disk: the models, and the states that are removed last."""
    job = make_job(**{"training.selection": "both"})
    train_fold(on_cpu(), job)
    whole = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    for name in (PREDICTIONS, f"{OPTIMISTIC}{PREDICTIONS}"):
        (job.folder / name).unlink()
    for name in (STATE, REFIT_STATE):
        (job.folder / name).write_bytes(b"left")
    events: list[Event] = []
    train_fold(on_cpu(events.append), job)
    assert [event["event"] for event in events] == ["bags", "fold finished"]
    assert {path.name: path.read_bytes() for path in job.folder.iterdir()} == whole


def test_a_stopped_fold_goes_on_under_other_evaluation_times(make_job: MakeJob) -> None:
    """From the state that was saved last, which is kept where it is; a trained fold is taken before any state."""
    asked = replace(make_job("asked"), times=(3.0, 40.0))
    undisturbed = replace(asked, folder=asked.folder.parent / "undisturbed")
    whole = Watch()
    train_fold(whole.context, undisturbed)
    early, late = make_job("early"), make_job("late")
    for job, most in ((late, whole.seen - 4), (early, whole.seen // 3)):
        with pytest.raises(StoppedError):
            train_fold(Watch(most).context, job)
    os.utime(early.folder / STATE, ns=(0, 0))
    assert asked.reuse([early.folder, late.folder]) == late.folder
    rest = Watch()
    train_fold(rest.context, asked)
    assert rest.seen < whole.seen, "how much less depends on how long the disk takes to save a state"
    for name in LEFT_BEHIND:
        assert (asked.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
    assert (late.folder / STATE).is_file()
    again = replace(asked, folder=asked.folder.parent / "again")
    assert again.reuse([early.folder, asked.folder]) == asked.folder
    assert again.finished
    assert not (again.folder / STATE).exists()


def test_the_epoch_with_the_lowest_validation_loss_is_kept(make_job: MakeJob) -> None:
    job = make_job(**{"training.epochs": 12, "training.learning_rate": 0.05})
    _train(job)
    history = pd.read_csv(job.folder / HISTORY)
    chosen = int(history.loc[history["chosen"] == 1, "epoch"].item())
    assert chosen == int(history.sort_values("validation_loss")["epoch"].iloc[0])
    model, loss, about, _ = load_model(job.folder / MODEL, get_registry(), "cpu")
    assert about["epoch"] == chosen
    outputs = torch.stack(
        [torch.stack([model(read_bag(path)) for _, path in case.slides]).mean(0) for case in job.validation]
    ).detach()
    expected = float(history["validation_loss"].min())
    assert float(loss(outputs, *follow_up(job.validation))) == pytest.approx(expected, rel=1e-6)


def test_the_epoch_with_the_highest_validation_c_index_is_kept_when_asked_for(make_job: MakeJob) -> None:
    settings = {"training.epochs": 12, "training.learning_rate": 0.05}
    chosen = {}
    for by in ("loss", "c_index"):
        job = make_job(by, **settings, **{"training.select_by": by})
        _train(job)
        history = pd.read_csv(job.folder / HISTORY)
        chosen[by] = int(history.loc[history["chosen"] == 1, "epoch"].item())
    assert chosen["c_index"] == int(
        history.sort_values("validation_c_index", ascending=False, kind="stable")["epoch"].iloc[0]
    )
    assert chosen["c_index"] != chosen["loss"]


def _gradient(training: FoldTraining) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("most", [None, 1e6, 0.01])
def test_a_gradient_is_scaled_down_to_clip_norm_and_else_left_alone(
    make_job: MakeJob, most: float | None
) -> None:
    training = FoldTraining(on_cpu(), make_job(**({} if most is None else {"training.clip_norm": most})))
    batch = training.job.train[:5]
    training.model.train()
    training._accumulate(batch, epoch=1)
    whole = _gradient(training).clone()
    training._clip_gradient(batch, epoch=1)
    if most == 0.01:
        assert float(whole.norm()) > most
        torch.testing.assert_close(_gradient(training), whole * most / whole.norm(), rtol=1e-4, atol=1e-9)
    else:
        assert torch.equal(_gradient(training), whole)


class _SteepAtZero(torch.nn.Module):
    """Finite outputs whose gradient is not."""

    requires_grid = False
    batches = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def forward(self, _bag: object) -> torch.Tensor:
        return self.weight.abs().sqrt()


def test_a_gradient_that_is_not_finite_stops_the_fold_and_keeps_the_state_before(make_job: MakeJob) -> None:
    job = make_job()
    training = FoldTraining(on_cpu(), job)
    next(training.epochs())
    training._save()
    before = (job.folder / STATE).read_bytes()
    training.model.aggregator = _SteepAtZero()  # type: ignore[assignment]
    case = training.job.train[training.order(2)[0]]
    with pytest.raises(
        MilsurvError,
        match=rf"gradient is not finite in epoch 2 after cases {case.case_id} \({case.slides[0][0]}",
    ):
        list(training.epochs())
    assert (job.folder / STATE).read_bytes() == before


def test_test_cases_have_no_influence_on_the_model(make_job: MakeJob) -> None:
    job = make_job("one")
    flipped = tuple(replace(case, event=1 - case.event, time=case.time + 50) for case in job.test[:-1])
    other = replace(job, folder=job.folder.with_name("two"), test=flipped)
    assert _train(job)[MODEL] == _train(other)[MODEL]


def test_patience_stops_the_fold(make_job: MakeJob) -> None:
    job = make_job(**{"training.epochs": 40, "training.patience": 2, "training.learning_rate": 0.05})
    _train(job)
    history = pd.read_csv(job.folder / HISTORY)
    chosen = int(history.loc[history["chosen"] == 1, "epoch"].item())
    assert len(history) == chosen + 2 < 40


def test_predictions_are_what_the_saved_model_says(make_job: MakeJob) -> None:
    job = make_job(**{"loss.name": "cox"})
    _train(job)
    table = pd.read_csv(job.folder / PREDICTIONS)
    assert list(table.columns[:7]) == ["case_id", "fold", "time", "event", "risk", "seed", "high_risk"]
    assert list(table["case_id"]) == [case.case_id for case in job.test]
    model, loss, about, recalibration = load_model(job.folder / MODEL, get_registry(), "cpu")
    with torch.no_grad():
        outputs = torch.stack(
            [torch.stack([model(read_bag(path)) for _, path in case.slides]).mean(0) for case in job.test]
        )
    np.testing.assert_allclose(table["risk"], loss.risk(outputs), rtol=1e-5)
    assert recalibration is not None
    survival = recalibration.survival(loss.risk(outputs), torch.tensor(job.times))
    np.testing.assert_allclose(table[[f"survival_at_{t:g}" for t in job.times]], survival, rtol=1e-4)
    assert list(table["high_risk"]) == [int(risk > about["high_risk_above"]) for risk in loss.risk(outputs)]


def test_the_history_tells_the_c_index_that_lifelines_finds(make_job: MakeJob) -> None:
    job = make_job(**{"training.epochs": 1})
    _train(job)
    model, loss, _, _ = load_model(job.folder / MODEL, get_registry(), "cpu")
    with torch.no_grad():
        outputs = torch.stack(
            [
                torch.stack([model(read_bag(path)) for _, path in case.slides]).mean(0)
                for case in job.validation
            ]
        )
    time, event = follow_up(job.validation)
    expected = concordance_index(time.numpy(), -loss.risk(outputs).numpy(), event.numpy())
    assert pd.read_csv(job.folder / HISTORY)["validation_c_index"].item() == pytest.approx(expected)


def test_the_gradient_of_coupled_cases_is_that_of_all_graphs_at_once(make_job: MakeJob) -> None:
    """The two-pass gradient against one graph over the whole batch, dropout and cases of two slides included."""
    training = FoldTraining(on_cpu(), make_job(**{"loss.name": "cox"}))
    training.model.train()
    batch = training.job.train
    training._accumulate(batch, epoch=3)
    accumulated = {
        name: p.grad.clone() for name, p in training.model.named_parameters() if p.grad is not None
    }
    training.optimizer.zero_grad()
    outputs = training.outputs.of_batch(batch, epoch=3)
    training.outputs.loss(outputs, *follow_up(batch)).backward()
    whole = {name: p.grad for name, p in training.model.named_parameters() if p.grad is not None}
    assert accumulated.keys() == whole.keys()
    assert any(float(gradient.abs().sum()) > 0 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(accumulated[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_gradient_of_a_short_last_batch_is_its_own_mean(make_job: MakeJob) -> None:
    training = FoldTraining(on_cpu(), make_job())
    training.model.eval()
    batch = training.job.train[:3]
    _, value = training._accumulate(batch, epoch=1)
    outputs = training.outputs.of_batch(batch, epoch=1).detach()
    assert value == pytest.approx(float(training.outputs.loss(outputs, *follow_up(batch))), rel=1e-5)


def test_features_without_the_grid_that_an_aggregator_needs_are_refused_by_slide(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(**{"aggregator.attention": "local"})
    slide, path = job.train[3].slides[0]
    without_grid = Path(shutil.copy(path, tmp_path / "without_grid.h5"))
    with h5py.File(without_grid, "r+") as file:
        del file["10x/grid"]
        write_checksums(file)
    lacking = replace(job.train[3], slides=((slide, without_grid),))
    job = replace(job, train=(*job.train[:3], lacking, *job.train[4:]))
    with pytest.raises(
        MilsurvError, match=rf"'crossfusion' with these settings needs a patch grid.* slide {slide} have none"
    ):
        train_fold(on_cpu(), job)
    _train(replace(job, config=make_job(**{"aggregator.attention": "dense"}).config))


def train_or_die(context: Context, job: FoldJob) -> None:
    """Kills its process once, after 30 bags."""
    bags = count()

    def raise_if_stopped() -> None:
        died = job.folder / "died"
        if next(bags) == 30 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    train_fold(replace(context, raise_if_stopped=raise_if_stopped), job)


def test_folds_whose_worker_was_killed_have_the_same_bytes(make_job: MakeJob) -> None:
    jobs = [make_job(name) for name in ("first", "second")]
    units = [Unit(f"fold {i}", train_or_die, {"job": job}) for i, job in enumerate(jobs)]
    deaths: list[Event] = []
    with LocalExecutor(LocalConfig(workers=2), "cpu") as executor:
        executor.run(units, lambda _, event: deaths.append(event) if event["event"] == WORKER_DIED else None)
    assert len(deaths) == 2
    whole = _train(make_job("whole"))
    for job in jobs:
        assert {name: (job.folder / name).read_bytes() for name in LEFT_BEHIND} == whole


def test_bags_beyond_the_cache_give_the_same_bytes(make_job: MakeJob) -> None:
    uncached = Context(Placement(ExecutorConfig(cache="none"), "cpu"))
    assert _train(make_job("cached")) == _train(make_job("read each time"), uncached)


def test_the_state_is_one_readable_file(make_job: MakeJob) -> None:
    job = make_job()
    training = FoldTraining(on_cpu(), job)
    list(training.epochs())
    training.step(training.rows[:5], epoch=5)
    training._save()
    tensors, about = load_tensors(job.folder / STATE)
    assert about["epoch"] == 4
    assert len(about["losses"]) == 1
    assert {name.partition(".")[0] for name in tensors} == {"model", "best", "optimizer", "outputs"}
    assert json.dumps(about)
    assert [path.name for path in Path(job.folder).iterdir()] == [STATE]


def test_two_rises_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="one_cycle has its own warmup"):
        make_job(**{"training.schedule": "one_cycle", "training.warmup": 0.1})


class _Outputs(torch.nn.Module):
    """Stands in an aggregator's place and gives what it is told."""

    requires_grid = False
    batches = False

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, _bag: Bag) -> torch.Tensor:
        return self.output


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        (torch.zeros(6), r"values of shape \(6,\), not \(3,\)"),
        (torch.zeros(1, 3), r"values of shape \(1, 3\), not \(3,\)"),
        (torch.tensor([0, math.nan, 0]), "values that are not finite in epoch 1"),
    ],
)
def test_an_aggregators_wrong_output_is_named(make_job: MakeJob, output: torch.Tensor, wrong: str) -> None:
    training = FoldTraining(on_cpu(), make_job())
    training.model.aggregator = _Outputs(output)  # type: ignore[assignment]
    with pytest.raises(
        MilsurvError,
        match=rf"aggregator 'crossfusion' of milsurv .* returned for slide .* \(16 at 20x, .*{wrong}",
    ):
        next(training.epochs())


def test_cox_cannot_choose_an_epoch_by_cases_without_an_event(make_job: MakeJob) -> None:
    job = make_job(**{"loss.name": "cox"})
    silent = tuple(replace(case, event=0) for case in job.validation)
    with pytest.raises(MilsurvError, match=r"fold 1: no inner validation case has an event.*last_epoch"):
        FoldTraining(on_cpu(), replace(job, validation=silent))


def test_a_damaged_state_is_named_with_what_to_do(make_job: MakeJob) -> None:
    job = make_job()
    next(FoldTraining(on_cpu(), job).epochs())
    (job.folder / STATE).write_bytes((job.folder / STATE).read_bytes()[:300])
    with pytest.raises(MilsurvError, match=r"state.safetensors is damaged .*delete it and run again"):
        FoldTraining(on_cpu(), job)


def test_what_an_aggregator_raises_names_the_slide(make_job: MakeJob) -> None:
    class Raising(_Outputs):
        def forward(self, _bag: Bag) -> torch.Tensor:
            raise RuntimeError("sizes do not match")

    training = FoldTraining(on_cpu(), make_job())
    training.model.aggregator = Raising(torch.zeros(3))  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="sizes do not match") as caught:
        next(training.epochs())
    (note,) = caught.value.__notes__
    assert note.startswith("raised by aggregator 'crossfusion' of milsurv")
    assert "(16 at 20x, 4 at 10x, 1 at 5x patches)" in note


def test_want_of_memory_is_one_line_with_the_slide_and_what_to_do(make_job: MakeJob) -> None:
    """In the forward pass of training, in its backward pass, and where cases are only predicted."""

    class Short(_Outputs):
        def forward(self, _bag: Bag) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nSee documentation")

    class ShortBackward(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, values: torch.Tensor) -> torch.Tensor:
            return values.clone()

        @staticmethod
        def backward(_ctx: Any, *_gradients: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    training = FoldTraining(on_cpu(), make_job())
    whole = training.model.aggregator
    training.model.aggregator = Short(torch.zeros(3))  # type: ignore[assignment]
    with pytest.raises(MilsurvError) as caught:
        next(training.epochs())
    said = str(caught.value)
    assert "\n" not in said
    assert "(16 at 20x, 4 at 10x, 1 at 5x patches)" in said
    assert "training.max_patches" in said
    assert said.endswith("(CUDA out of memory. Tried to allocate 9.00 GiB.)")
    with pytest.raises(MilsurvError, match=r"aggregator 'crossfusion' .* do not fit into the memory of cpu"):
        training.outputs.of_cases(training.rows[:1])
    training.model.aggregator = whole
    whole.get_submodule("head").register_forward_hook(
        lambda _module, _bags, output: ShortBackward.apply(output)
    )
    with pytest.raises(MilsurvError, match="CUBLAS_STATUS_ALLOC_FAILED"):
        next(training.epochs())


class _Wrong(NLL):
    """A loss that fails one of its checks."""

    def __init__(self, wrong: str):
        super().__init__(NLL.Config(bins=3))
        self.wrong = wrong
        self.fit(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4))

    def __call__(self, outputs: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        return super().__call__(outputs, time, event) * (math.nan if self.wrong == "value" else 1)

    def risk(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs if self.wrong == "risk" else super().risk(outputs)

    def survival(self, outputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return super().survival(outputs, times) * (-1 if self.wrong == "survival" else 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("value", r"loss 'nll' of milsurv .* is nan in epoch 1 .*check 'extreme_outputs'"),
        ("risk", r"loss 'nll' of milsurv .* returned risk of shape \(14, 3\) .*check 'higher_risk_is_worse'"),
        (
            "survival",
            r"loss 'nll' of milsurv .* returned survival .* outside of.*check 'survival_properties'",
        ),
    ],
)
def test_a_loss_that_fails_a_check_is_named(make_job: MakeJob, wrong: str, message: str) -> None:
    training = FoldTraining(on_cpu(), make_job())
    training.outputs.loss = _Wrong(wrong)

    def train() -> None:
        list(training.epochs())
        ChosenModel.of(training.job, training.outputs, training.state.best["inner_validation"])
        predictions_of(training.job, training.outputs, median=0, deviation=1)

    with pytest.raises(MilsurvError, match=message):
        train()


def test_balanced_sampling_draws_each_stratum_alike(make_job: MakeJob) -> None:
    job = make_job(**{"training.sampling": "balanced"})
    training = FoldTraining(on_cpu(), job)
    edges = np.quantile([case.time for case in job.train if case.event], [0.25, 0.5, 0.75])
    strata = [(int(np.searchsorted(edges, case.time, side="right")), case.event) for case in job.train]
    drawn = [strata[i] for epoch in range(600) for i in training.order(epoch)]
    shares = {stratum: drawn.count(stratum) / len(drawn) for stratum in set(strata)}
    assert shares == pytest.approx(dict.fromkeys(shares, 1 / len(shares)), abs=0.02)
    assert training.order(3) == FoldTraining(on_cpu(), job).order(3)
    assert len(training.order(3)) == len(job.train)
    assert sorted(FoldTraining(on_cpu(), make_job()).order(3)) == list(range(len(job.train)))


def test_balanced_sampling_is_refused_with_a_loss_that_couples_cases(make_job: MakeJob) -> None:
    with pytest.raises(
        MilsurvError, match=r"training.sampling: balanced can repeat .* loss 'cox' compares .*use uniform"
    ):
        make_job(**{"training.sampling": "balanced", "loss.name": "cox"})
