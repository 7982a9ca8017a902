"""Rows, bags, patches, precision: what a training may be told."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest
import torch

from milsurv import Bag
from milsurv.errors import ConfigError, MilsurvError
from milsurv.storage.run_files import HISTORY, MODEL, PREDICTIONS, STATE
from milsurv.training.data import TrainingCase, follow_up, merge_bags
from milsurv.training.fold import train_fold
from milsurv.training.job import FoldJob
from milsurv.training.loop import FoldTraining, rehearse
from milsurv.training.model import load_tensors
from tests.contexts import on_cpu
from tests.training.conftest import MakeJob, StoppedError, Watch


def _gradient(training: FoldTraining, batch: Sequence[TrainingCase]) -> torch.Tensor:
    training.model.eval()
    training.model.zero_grad()
    training._accumulate(batch, epoch=1)
    return torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])


def test_rows_of_slides_give_each_slide_a_loss_of_its_own(make_job: MakeJob) -> None:
    job = make_job(**{"training.rows": "slide"})
    training = FoldTraining(on_cpu(), job)
    assert len(training.rows) == sum(len(case.slides) for case in job.train) > len(job.train)
    two = [row for row in training.rows if row.case_id == "case 0"]
    assert len(two) == 2
    each = [_gradient(training, [row]) for row in two]
    torch.testing.assert_close(_gradient(training, two), sum(each) / 2)
    train_fold(on_cpu(), job)
    assert list(pd.read_csv(job.folder / PREDICTIONS)["case_id"]) == [case.case_id for case in job.test]


def test_rows_of_slides_are_refused_with_a_loss_that_couples_cases(make_job: MakeJob) -> None:
    with pytest.raises(
        ConfigError, match=r"training.rows: slide can repeat .* loss 'cox' compares .*use case"
    ):
        make_job(**{"training.rows": "slide", "loss.name": "cox"})
    with pytest.raises(ConfigError, match=r"training.bag: .*needs rows: case"):
        make_job(**{"training.rows": "slide", "training.bag": "case"})


def test_a_bag_of_a_case_holds_the_patches_of_all_its_slides(make_job: MakeJob) -> None:
    training = FoldTraining(on_cpu(), make_job(**{"training.bag": "case", "aggregator.name": "abmil"}))
    case = training.rows[0]
    assert len(case.slides) == 2
    training.model.eval()
    whole = merge_bags([training.outputs.bags.read(path) for _, path in case.slides])
    with torch.no_grad():
        torch.testing.assert_close(training.outputs.of_batch([case], epoch=0)[0], training.model(whole))


def test_a_bag_of_a_case_is_refused_by_an_aggregator_that_needs_a_grid(make_job: MakeJob) -> None:
    training = FoldTraining(on_cpu(), make_job(**{"training.bag": "case", "aggregator.attention": "local"}))
    with pytest.raises(
        MilsurvError, match=r"grid, but bags of several slides have none; set training.bag: slide"
    ):
        training.outputs.of_batch(training.rows[:1], epoch=0)


class _Counting(torch.nn.Module):
    """Notes how many patches it sees at 20x."""

    requires_grid = False
    batches = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def forward(self, bag: Bag) -> torch.Tensor:
        self.seen.append(bag.sizes[20])
        return self.weight + bag.features[20].mean()


def test_only_training_is_limited_to_max_patches(make_job: MakeJob) -> None:
    job = make_job(**{"training.max_patches": 7, "tiling.magnifications": "[20, 10]"})
    training = FoldTraining(on_cpu(), job)
    aggregator = _Counting()
    training.model.aggregator = aggregator  # type: ignore[assignment]
    case = job.train[3]
    first = _gradient(training, [case])
    assert max(aggregator.seen) <= 16
    assert torch.equal(first, _gradient(training, [case]))
    aggregator.seen.clear()
    training.outputs.of_cases([case])
    assert aggregator.seen == [16] * len(case.slides)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_narrow_types_come_near_the_gradient_of_the_wide_one(
    make_job: MakeJob, precision: str, loss: str
) -> None:
    settings = {"loss.name": loss, "aggregator.dropout": 0, "aggregator.attention_dropout": 0}
    wide = FoldTraining(on_cpu(), make_job(**settings))
    narrow = FoldTraining(on_cpu(), make_job(**settings, **{"training.precision": precision}))
    if precision == "float16":
        narrow.scaler.load_state_dict({**narrow.scaler.state_dict(), "scale": 256.0})
    expected = _gradient(wide, wide.rows[:5])
    found = _gradient(narrow, narrow.rows[:5]) / narrow.scaler.get_scale()
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(found, expected)


def _bags_of(job: FoldJob, stops: Sequence[int] = ()) -> int:
    """Train, stopping after so many bags each time; how many bags were seen in the last go."""
    for stop in stops:
        with pytest.raises(StoppedError):
            train_fold(Watch(stop, "bag").context, job)
    last = Watch(kind="bag")
    train_fold(last.context, job)
    return last.seen


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_stopped_fold_goes_on_from_the_step_before(make_job: MakeJob, precision: str) -> None:
    settings = {"aggregator.name": "abmil", "training.precision": precision}
    undisturbed, stopped = make_job("undisturbed", **settings), make_job("stopped", **settings)
    whole = _bags_of(undisturbed)
    rest = _bags_of(stopped, stops=[whole // 3, whole // 4])
    in_a_step = 2 * 5  # bags of a step, some cases having two slides
    assert rest <= whole - whole // 3 - whole // 4 + 2 * in_a_step
    for name in (MODEL, HISTORY, PREDICTIONS):
        assert (stopped.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def test_the_scale_of_float16_is_saved_and_halved_when_a_gradient_overflows(make_job: MakeJob) -> None:
    job = make_job(**{"training.precision": "float16", "aggregator.name": "abmil"})
    training = FoldTraining(on_cpu(), job)
    training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 1e38})
    before = [p.detach().clone() for p in training.model.parameters()]
    training.step(training.rows[:5], epoch=1)
    assert all(torch.equal(p, old) for p, old in zip(training.model.parameters(), before, strict=True))
    training._save()
    assert load_tensors(job.folder / STATE)[1]["scaler"]["scale"] == pytest.approx(0.5e38, rel=1e-3)
    assert FoldTraining(on_cpu(), job).scaler.get_scale() == pytest.approx(0.5e38, rel=1e-3)


def test_deterministic_algorithms_are_asked_for_only_then(make_job: MakeJob) -> None:
    rehearse(on_cpu(), make_job(**{"training.deterministic": True}))
    assert torch.are_deterministic_algorithms_enabled()
    rehearse(on_cpu(), make_job())
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_case_without_events_among_those_who_choose_is_told(make_job: MakeJob) -> None:
    job = make_job(**{"training.selection": "both", "training.select_by": "c_index"})
    silent = tuple(replace(case, event=0) for case in job.test)
    with pytest.raises(MilsurvError, match=r"no test case has an event, so the epoch cannot be selected"):
        FoldTraining(on_cpu(), replace(job, test=silent))


@pytest.mark.acceptance
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_trains_as_an_uncompiled_one_and_is_saved_alike(make_job: MakeJob) -> None:
    settings = {"aggregator.name": "abmil"}
    plain, compiled = (
        FoldTraining(on_cpu(), make_job(folder, **settings, **{"training.compile": folder == "compiled"}))
        for folder in ("plain", "compiled")
    )
    batch = plain.rows[:5]
    torch.testing.assert_close(_gradient(compiled, batch), _gradient(plain, batch), rtol=1e-3, atol=1e-5)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_the_offset_is_the_best_constant_output(make_job: MakeJob) -> None:
    training = FoldTraining(on_cpu(), make_job())
    time, event = follow_up(training.rows)
    best = training.outputs.loss.constant_outputs(time, event).float()
    torch.testing.assert_close(training.model.offset, best)
    assert best.unique().numel() > 1
    without = FoldTraining(on_cpu(), make_job("without", **{"training.output_offset": False}))
    assert not without.model.offset.any()
    bag = training.outputs.bags.read(training.rows[0].slides[0][1])
    with torch.no_grad():
        expected = without.model.eval()(bag) + best
        torch.testing.assert_close(training.model.eval()(bag), expected)


@pytest.mark.parametrize("aggregator", ["crossfusion", "crossfusion_single", "abmil"])
def test_small_bags_are_computed_at_once_and_large_ones_alone(
    make_job: MakeJob, aggregator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = FoldTraining(on_cpu(), make_job(**{"aggregator.name": aggregator}))
    rows = training.rows[:6]
    assert len(training.outputs.groups(rows)) == 1
    together = training.outputs.of_cases(rows, at_once=True)
    monkeypatch.setattr("milsurv.training.outputs.MAX_PAIRS", 1)
    assert [len(group) for group in training.outputs.groups(rows)] == [1] * len(rows)
    torch.testing.assert_close(training.outputs.of_cases(rows, at_once=True), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_a_linear_path_is_the_fitted_model_beside_the_network(make_job: MakeJob, loss: str) -> None:
    """In training, the outputs of cases are those of fits without them."""
    training = FoldTraining(on_cpu(), make_job(**{"training.linear_path": True, "loss.name": loss}))
    model = training.model.eval()
    assert model.linear_path is not None
    case = next(case for case in training.rows if len(case.slides) == 1)
    bag = training.outputs.bags.read(case.slides[0][1])
    with torch.no_grad():
        linear, network = (
            model.linear_path(model.standardized(bag)),
            model.aggregator(model.standardized(bag)),
        )
        whole = training.outputs.of_batch([case], epoch=0)[0]
        torch.testing.assert_close(whole, linear + network + model.offset)
        model.train()
        model.aggregator.eval()
        in_training = training.outputs.of_batch([case], epoch=0)[0]
    correction = model.linear_path.correction[training.rows.index(case)]
    torch.testing.assert_close(in_training, whole + correction)


def test_a_stopped_training_with_a_linear_path_has_the_same_bytes(make_job: MakeJob) -> None:
    overrides = {"training.linear_path": True, "training.epochs": 3, "training.standardize": True}
    whole = make_job("whole", **overrides)
    train_fold(on_cpu(), whole)
    stopped = make_job("stopped", **overrides)
    with pytest.raises(StoppedError):
        train_fold(Watch(30).context, stopped)
    assert (stopped.folder / STATE).exists()
    train_fold(on_cpu(), stopped)
    for name in (MODEL, PREDICTIONS):
        assert (stopped.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_recipe_sets_the_keys_that_are_not_given(make_job: MakeJob) -> None:
    training = make_job(**{"training": {"recipe": "small_cohort", "epochs": 3}}).config.training
    assert (training.epochs, training.learning_rate, training.linear_path) == (3, 3e-4, True)
