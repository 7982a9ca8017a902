"""The unit of work of a training: one fold with one seed, from bags to saved models and their predictions."""

from __future__ import annotations

import torch

from milsurv.evaluation.recalibration import HeldOutRisks
from milsurv.executors.base import Context
from milsurv.plugin.registry import get_registry
from milsurv.storage.run_files import REFIT_STATE
from milsurv.training.choice import ChosenModel
from milsurv.training.cross_fitting import cross_fit
from milsurv.training.job import FoldJob
from milsurv.training.loop import FoldTraining
from milsurv.training.results import write_history, write_model, write_predictions

WORSE = "worse than Kaplan-Meier"
"""Event of a selected epoch whose own probabilities are worse than one curve for all cases."""


def train_fold(context: Context, job: FoldJob) -> None:
    """Unit of work: train, select the epoch, recalibrate, predict the fold's test cases; resumes from a checkpoint."""
    if not job.finished:
        get_registry(job.config.plugins).require_origins(job.origins)
        torch.use_deterministic_algorithms(job.config.training.deterministic)
        if not job.trained:
            _train(context, job)
        write_predictions(context, job)
        job.remove_states()
        context.report({"event": "fold finished", "seed": job.seed, "fold": job.fold})


def _train(context: Context, job: FoldJob) -> None:
    """Write the history and, for each selection, the model; the one that marks the fold as trained is the last."""
    training = FoldTraining(context, job)
    for row in training.epochs():
        context.report({"event": "epoch", "seed": job.seed, "fold": job.fold, **row})
    write_history(job, training.state)
    for selection, prefix in reversed(job.prefixes.items()):
        chosen = ChosenModel.of(job, training.outputs, training.state.best[selection])
        scores = chosen.own_scores(selection)
        if scores.worse:
            where = {"seed": job.seed, "fold": job.fold, "epoch": chosen.epoch}
            context.report({"event": WORSE, **where, **scores.as_json()})
        held_out = _held_out_risks(context, job, chosen) if job.config.training.recalibrate else None
        if job.config.training.refit:
            training = FoldTraining(context, job.refit(), REFIT_STATE, chosen.epoch)
            for _ in training.epochs():
                pass
            chosen = ChosenModel.of(training.job, training.outputs, training.state.best["last_epoch"])
        write_model(chosen, prefix, held_out, scores)


def _held_out_risks(context: Context, job: FoldJob, chosen: ChosenModel) -> HeldOutRisks | None:
    """Risks for recalibration: of the inner validation cases, or of the training cases by models of inner folds.

    None if the inner folds cannot be trained.
    """
    if job.validation:
        return chosen.validation_risks()
    fitted = cross_fit(context, job, chosen.epoch)
    return None if fitted is None else fitted.held_out(job.train)
