"""Cross-fitting: outputs for the training cases of a fold by models that were not trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from milsurv.errors import MilsurvError
from milsurv.evaluation.recalibration import HeldOutRisks
from milsurv.executors.base import Context
from milsurv.plugin.registry import get_registry
from milsurv.storage.run_files import inner_state
from milsurv.training.data import TrainingCase, exact_follow_up
from milsurv.training.job import INNER_FOLDS, FoldJob
from milsurv.training.loop import FoldTraining, fit_loss
from milsurv.training.seeds import generator_of


@dataclass(frozen=True)
class OutOfFold:
    """Outputs for the ``n`` training cases of a fold, each by the model of the inner folds without it."""

    outputs: Tensor
    """``(n, n_outputs)`` float32."""
    risk: Tensor
    """``(n,)`` float64, standardised by median and deviation of the risks of the model's own training cases."""
    fold: Tensor
    """``(n,)`` int64, the inner fold of each case."""

    def held_out(self, cases: Sequence[TrainingCase]) -> HeldOutRisks:
        """With the follow-up of the cases, in the same order."""
        return HeldOutRisks(self.risk, *exact_follow_up(cases), self.fold)


def cross_fit(context: Context, job: FoldJob, epochs: int) -> OutOfFold | None:
    """Train the fold's model again for ``epochs`` without each of three inner folds, and predict the cases left out.

    Inner folds are drawn from the fold's seed, stratified by event. Each training has a checkpoint of its own and
    resumes like that of the fold. None if the loss cannot be fitted without one of the inner folds, because too few
    events remain.
    """
    fold = _inner_folds(job)
    inner_jobs = [_part(job, fold, number) for number in range(INNER_FOLDS)]
    if not all(_can_train(inner) for inner in inner_jobs):
        return None
    outputs, risk = [], []
    for number, inner in enumerate(inner_jobs):
        training = FoldTraining(context, inner, inner_state(number), epochs)
        for _ in training.epochs():
            pass
        known = training.outputs.risk(training.outputs.of_cases(inner.train)).double()
        outputs.append(training.outputs.of_cases(inner.test))
        deviation = known.std(correction=0)
        left_out = training.outputs.risk(outputs[-1]).double() - known.median()
        risk.append(left_out / torch.where(deviation > 0, deviation, 1.0))
    order = torch.argsort(fold, stable=True).argsort()
    return OutOfFold(torch.cat(outputs)[order], torch.cat(risk)[order], fold)


def _inner_folds(job: FoldJob) -> Tensor:
    order = torch.randperm(len(job.train), generator=generator_of(job.seed, job.fold, "inner folds"))
    event = torch.tensor([case.event for case in job.train])[order]
    order = order[torch.argsort(event, stable=True)]
    fold = torch.empty(len(order), dtype=torch.int64)
    fold[order] = torch.arange(len(order)) % INNER_FOLDS
    return fold


def _part(job: FoldJob, fold: Tensor, number: int) -> FoldJob:
    """A job that trains without the cases of an inner fold, and tests them."""
    train = tuple(case for case, of in zip(job.train, fold.tolist(), strict=True) if of != number)
    test = tuple(case for case, of in zip(job.train, fold.tolist(), strict=True) if of == number)
    return replace(job.refit(), train=train, test=test)


def _can_train(job: FoldJob) -> bool:
    if not job.train or not job.test:
        return False
    try:
        fit_loss(job, get_registry(job.config.plugins))
    except MilsurvError:
        return False
    return True
