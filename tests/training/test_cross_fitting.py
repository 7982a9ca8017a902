from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from milsurv.features.store import read_bag
from milsurv.storage.run_files import inner_state
from milsurv.training.cross_fitting import OutOfFold, cross_fit
from milsurv.training.data import TrainingCase
from milsurv.training.job import INNER_FOLDS, FoldJob
from milsurv.training.loop import FoldTraining
from tests.contexts import on_cpu
from tests.training.conftest import MakeJob, StoppedError, Watch

SETTINGS = {"aggregator.name": "abmil", "training.selection": "last_epoch", "training.epochs": 2}


@pytest.fixture
def job(make_job: MakeJob, cases: Sequence[TrainingCase]) -> FoldJob:
    return replace(make_job(**SETTINGS), train=tuple(cases[:18]), validation=(), test=tuple(cases[18:]))


def fitted(job: FoldJob, watch: Watch | None = None) -> OutOfFold:
    torch.set_num_threads(1)
    found = cross_fit(on_cpu() if watch is None else watch.context, job, epochs=2)
    assert found is not None
    return found


def test_each_case_is_predicted_by_a_model_that_was_not_trained_on_it(job: FoldJob) -> None:
    found = fitted(job)
    assert sorted(torch.bincount(found.fold).tolist()) == [6, 6, 6]
    events = torch.tensor([case.event for case in job.train])
    assert torch.bincount(found.fold[events == 1]).diff().abs().max() <= 1
    for number in range(INNER_FOLDS):
        left_out = found.fold == number
        train = tuple(case for case, out in zip(job.train, left_out, strict=True) if not out)
        alone = FoldTraining(on_cpu(), replace(job, train=train, folder=job.folder / f"alone-{number}"))
        list(alone.epochs())
        alone.model.eval()
        rows = [case for case, out in zip(job.train, left_out, strict=True) if out]
        with torch.no_grad():
            outputs = torch.stack(
                [
                    torch.stack([alone.model(read_bag(path)) for _, path in case.slides]).mean(0)
                    for case in rows
                ]
            )
        torch.testing.assert_close(found.outputs[left_out], outputs)
        known = alone.outputs.risk(alone.outputs.of_cases(train)).double()
        risk = alone.outputs.risk(outputs).double()
        expected = (risk - known.median()) / known.std(correction=0)
        torch.testing.assert_close(found.risk[left_out], expected, rtol=1e-4, atol=1e-5)


def test_a_stopped_cross_fitting_goes_on_where_it_was(job: FoldJob) -> None:
    undisturbed = fitted(replace(job, folder=job.folder / "undisturbed"))
    whole = Watch()
    fitted(replace(job, folder=job.folder / "counted"), whole)
    with pytest.raises(StoppedError):
        fitted(job, Watch(whole.seen // 2))
    assert (job.folder / inner_state(0)).is_file()
    rest = Watch()
    again = fitted(job, rest)
    assert rest.seen < whole.seen
    for one, other in zip(vars(again).values(), vars(undisturbed).values(), strict=True):
        assert torch.equal(one, other)


def test_too_few_events_for_inner_folds(job: FoldJob, cases: Sequence[TrainingCase]) -> None:
    events = [case for case in cases if case.event][:3]
    censored = [case for case in cases if not case.event]
    assert cross_fit(on_cpu(), replace(job, train=(*events, *censored)), epochs=2) is None
