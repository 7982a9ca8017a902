"""Result files of a fold: models, predictions of its test cases, and the history of its epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from milsurv.evaluation.recalibration import HeldOutRisks, Recalibration
from milsurv.evaluation.times import survival_column
from milsurv.executors.base import Context
from milsurv.plugin.registry import get_registry
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import read_checked, write_checked
from milsurv.storage.run_files import HISTORY, MODEL, PREDICTIONS, PROBABILITIES, TRAINING_RISKS
from milsurv.training.bags import shared_bags
from milsurv.training.checkpoint import FoldState
from milsurv.training.choice import ChosenModel, OwnScores
from milsurv.training.job import FoldJob
from milsurv.training.model import load_model, save_model
from milsurv.training.outputs import Outputs

HISTORY_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_c_index",
    "validation_loss",
    "validation_c_index",
    "reported_loss",
    "reported_c_index",
)


def write_history(job: FoldJob, state: FoldState) -> None:
    """Write the history of the epochs, with a column that marks the epoch of each selection."""
    history = state.history
    table = pd.DataFrame(history)[[column for column in HISTORY_COLUMNS if column in history[0]]]
    for selection, prefix in job.prefixes.items():
        table[f"{prefix}chosen"] = (table["epoch"] == state.best[selection].epoch).astype(int)
    write_checked(job.folder / HISTORY, table.to_csv(index=False))


def write_model(chosen: ChosenModel, prefix: str, held_out: HeldOutRisks | None, scores: OwnScores) -> None:
    """Write the model, recalibrated on ``held_out``, the risks of training and validation cases, and the scores."""
    job, outputs = chosen.job, chosen.outputs
    known = {"train": (job.train, chosen.risk)}
    if chosen.validation is not None:
        known["validation"] = (job.validation, outputs.risk(chosen.validation))
    _write_training_risks(job.folder / f"{prefix}{TRAINING_RISKS}", known)
    settings = job.config.training
    recalibration = chosen.recalibration(held_out) if settings.recalibrate else None
    probabilities = {
        "seed": job.seed,
        "fold": job.fold,
        "epoch": chosen.epoch,
        **scores.as_json(),
        "recalibrated_on": None if held_out is None else len(held_out.risk),
        "slope": None if recalibration is None else recalibration.slope,
    }
    write_checked(job.folder / f"{prefix}{PROBABILITIES}", json_text(probabilities))
    about = {
        "aggregator": job.config.aggregator.model_dump(mode="json"),
        "loss": job.config.loss.model_dump(mode="json"),
        "seed": job.seed,
        "fold": job.fold,
        "epoch": chosen.epoch,
        "high_risk_above": chosen.median,
        "risk_deviation": chosen.deviation,
    }
    save_model(job.folder / f"{prefix}{MODEL}", outputs.model, outputs.loss, about, recalibration)


def _write_training_risks(path: Path, known: Mapping[str, tuple[Sequence[Any], Tensor]]) -> None:
    rows = [
        {"case_id": case.case_id, "role": role, "risk": value}
        for role, (cases, risks) in known.items()
        for case, value in zip(cases, risks.numpy(), strict=True)
    ]
    write_checked(path, pd.DataFrame(rows).to_csv(index=False))


def write_predictions(context: Context, job: FoldJob) -> None:
    """Write the predictions of the fold's models for its test cases.

    Those of the model selected by inner validation are written last; they mark the fold as finished.
    """
    registry = get_registry(job.config.plugins)
    for prefix in reversed(job.prefixes.values()):
        model, loss, about, recalibration = load_model(
            job.folder / f"{prefix}{MODEL}", registry, context.device
        )
        bags = shared_bags(context, job.files)
        outputs = Outputs(job.config, job.id, model, loss, bags)
        median, deviation = about["high_risk_above"], about["risk_deviation"]
        table = predictions_of(job, outputs, median, deviation, recalibration)
        write_checked(job.folder / f"{prefix}{PREDICTIONS}", table.to_csv(index=False))


def predictions_of(
    job: FoldJob,
    outputs: Outputs,
    median: float,
    deviation: float,
    recalibration: Recalibration | None = None,
) -> pd.DataFrame:
    """A row for each test case: follow-up, risk, and survival at ``job.times``.

    ``median`` and ``deviation`` are the median and standard deviation of the risks of training cases. The standardised
    risk, (risk - median) / deviation, makes the risks of several models comparable.
    """
    predicted = outputs.of_cases(job.test)
    risk = outputs.risk(predicted)
    table: dict[str, Any] = {
        "case_id": [case.case_id for case in job.test],
        "fold": job.fold,
        "time": [case.time for case in job.test],
        "event": [case.event for case in job.test],
        "risk": risk.numpy(),
        "seed": job.seed,
        "high_risk": (risk > median).int().numpy(),
        "standardized_risk": ((risk.double() - median) / (deviation or 1.0)).numpy(),
    }
    survival = survival_of(outputs, predicted, job.times, recalibration).numpy()
    columns = {survival_column(t): survival[:, i] for i, t in enumerate(job.times)}
    return pd.DataFrame({**table, **columns})


def survival_of(
    outputs: Outputs, predicted: Tensor, times: Sequence[float], recalibration: Recalibration | None
) -> Tensor:
    """Survival ``(n, times)`` float64 of outputs ``(n, n_outputs)``: recalibrated, or the loss's own without."""
    if recalibration is None:
        rounded = torch.tensor(times, dtype=torch.float32)  # like the follow-up that the loss was fitted to
        return outputs.survival(predicted, rounded.tolist()).double()
    return recalibration.survival(outputs.risk(predicted), torch.tensor(times, dtype=torch.float64))


def read_predictions(path: Path) -> pd.DataFrame:
    """A table of predictions with exact numbers. Raises MilsurvError if the file was changed."""
    return pd.read_csv(StringIO(read_checked(path)), dtype={"case_id": str}, float_precision="round_trip")
