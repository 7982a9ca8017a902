"""Result files of a fold: models, predictions of its test cases, and the history of its epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from milsurv.evaluation.times import survival_column
from milsurv.executors.base import Context
from milsurv.plugin.registry import get_registry
from milsurv.storage.checksums import read_checked, write_checked
from milsurv.storage.run_files import HISTORY, MODEL, PREDICTIONS, TRAINING_RISKS
from milsurv.training.bags import shared_bags
from milsurv.training.checkpoint import Best
from milsurv.training.data import follow_up
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


def write_models(
    job: FoldJob, outputs: Outputs, history: Sequence[Mapping[str, float]], best: Mapping[str, Best]
) -> None:
    """Write the history and, for each selected epoch, the model and the risks of training and validation cases.

    The model selected by inner validation is written last; it marks the fold as trained.
    """
    table = pd.DataFrame(history)[[column for column in HISTORY_COLUMNS if column in history[0]]]
    for selection, prefix in job.prefixes.items():
        table[f"{prefix}chosen"] = (table["epoch"] == best[selection].epoch).astype(int)
    write_checked(job.folder / HISTORY, table.to_csv(index=False))
    for selection, prefix in reversed(job.prefixes.items()):
        _write_choice(job, outputs, best[selection], prefix)


def _write_choice(job: FoldJob, outputs: Outputs, best: Best, prefix: str) -> None:
    outputs.model.load_state_dict(best.weights)
    training = outputs.of_cases(job.train)
    outputs.loss.fit_baseline(training, *follow_up(job.train))
    risk = outputs.risk(training)
    known = {"train": (job.train, risk)}
    if job.validation:
        known["validation"] = (job.validation, outputs.risk(outputs.of_cases(job.validation)))
    _write_training_risks(job.folder / f"{prefix}{TRAINING_RISKS}", known)
    about = {
        "aggregator": job.config.aggregator.model_dump(mode="json"),
        "loss": job.config.loss.model_dump(mode="json"),
        "seed": job.seed,
        "fold": job.fold,
        "epoch": best.epoch,
        "high_risk_above": float(risk.median()),
        "risk_deviation": float(risk.std(correction=0)),
    }
    save_model(job.folder / f"{prefix}{MODEL}", outputs.model, outputs.loss, about)


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
        model, loss, about = load_model(job.folder / f"{prefix}{MODEL}", registry, context.device)
        bags = shared_bags(context, job.files)
        outputs = Outputs(job.config, job.id, model, loss, bags)
        table = predictions_of(job, outputs, about["high_risk_above"], about["risk_deviation"])
        write_checked(job.folder / f"{prefix}{PREDICTIONS}", table.to_csv(index=False))


def predictions_of(job: FoldJob, outputs: Outputs, median: float, deviation: float) -> pd.DataFrame:
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
    survival = outputs.survival(predicted, job.times).numpy()
    columns = {survival_column(t): survival[:, i] for i, t in enumerate(job.times)}
    return pd.DataFrame({**table, **columns})


def read_predictions(path: Path) -> pd.DataFrame:
    """A table of predictions with exact numbers. Raises MilsurvError if the file was changed."""
    return pd.read_csv(StringIO(read_checked(path)), dtype={"case_id": str}, float_precision="round_trip")
