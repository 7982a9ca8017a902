"""What a fold leaves behind: models, predictions of the cases that are reported, and the history of its epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from milsurv.artifacts import write_text
from milsurv.evaluation.times import survival_column
from milsurv.training.checkpoint import Best
from milsurv.training.data import follow_up
from milsurv.training.job import HISTORY, MODEL, OPTIMISTIC, PREDICTIONS, TRAINING_RISKS, FoldJob
from milsurv.training.model import save_model
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


def write_results(
    job: FoldJob, outputs: Outputs, history: Sequence[Mapping[str, float]], best: Mapping[str, Best]
) -> None:
    """Write all that a fold leaves whose epochs are chosen; the predictions last: with them it is finished.

    Of two who chose, the second's files are named ``optimistic_…``.
    """
    prefixes = dict(zip(best, ("", OPTIMISTIC), strict=False))
    table = pd.DataFrame(history)[[column for column in HISTORY_COLUMNS if column in history[0]]]
    for chooser, prefix in prefixes.items():
        table[f"{prefix}chosen"] = (table["epoch"] == best[chooser].epoch).astype(int)
    write_text(job.folder / HISTORY, table.to_csv(index=False))
    for chooser, prefix in reversed(prefixes.items()):
        _write_choice(job, outputs, best[chooser], prefix)


def _write_choice(job: FoldJob, outputs: Outputs, best: Best, prefix: str) -> None:
    """Model, risks of the cases that trained or chose, and predictions.

    A case's standardised risk is its distance from the median of the training cases' risks, in their deviations, so
    that models can be put together whose risks are on different scales.
    """
    outputs.model.load_state_dict(best.weights)
    training = outputs.of_cases(job.train)
    outputs.loss.fit_baseline(training, *follow_up(job.train))
    risk = outputs.risk(training)
    median, deviation = float(risk.median()), float(risk.std(correction=0))
    about = {
        "aggregator": job.config.aggregator.model_dump(mode="json"),
        "loss": job.config.loss.model_dump(mode="json"),
        "seed": job.seed,
        "fold": job.fold,
        "epoch": best.epoch,
        "high_risk_above": median,
        "risk_deviation": deviation,
    }
    save_model(job.folder / f"{prefix}{MODEL}", outputs.model, outputs.loss, about)
    known = {"train": (job.train, risk)}
    if job.validation:
        known["validation"] = (job.validation, outputs.risk(outputs.of_cases(job.validation)))
    _write_training_risks(job.folder / f"{prefix}{TRAINING_RISKS}", known)
    predictions = _predictions(job, outputs, median, deviation)
    write_text(job.folder / f"{prefix}{PREDICTIONS}", predictions.to_csv(index=False))


def _write_training_risks(path: Path, known: Mapping[str, tuple[Sequence[Any], Tensor]]) -> None:
    rows = [
        {"case_id": case.case_id, "role": role, "risk": value}
        for role, (cases, risks) in known.items()
        for case, value in zip(cases, risks.numpy(), strict=True)
    ]
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def _predictions(job: FoldJob, outputs: Outputs, median: float, deviation: float) -> pd.DataFrame:
    """A row for each test case: what was seen, its risk, and survival at the run's times."""
    seen = outputs.of_cases(job.test)
    risk = outputs.risk(seen)
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
    survival = outputs.survival(seen, job.times).numpy()
    columns = {survival_column(t): survival[:, i] for i, t in enumerate(job.times)}
    return pd.DataFrame({**table, **columns})


def read_predictions(path: Path) -> pd.DataFrame:
    """A table of predictions, every number to the last bit."""
    return pd.read_csv(path, dtype={"case_id": str}, float_precision="round_trip")
