"""The training loop: one fold with one seed, from bags to a saved model and its predictions.

Everything random follows from (run seed, fold, epoch, slide), so a fold that was killed and goes on draws what
the undisturbed one would have drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from milsurv.artifacts import write_text
from milsurv.config import RunConfig, Training
from milsurv.errors import MilsurvError
from milsurv.evaluation.pairs import c_index
from milsurv.evaluation.times import survival_column
from milsurv.executors.base import Report
from milsurv.losses.base import Loss
from milsurv.plugin.registry import get_registry
from milsurv.training.checkpoint import FoldState, load_state, save_state
from milsurv.training.data import BagCache, TrainingCase, balancing_weights, follow_up
from milsurv.training.model import SurvivalModel, build_model, save_model

MODEL = "model.safetensors"
STATE = "state.safetensors"
HISTORY = "history.csv"
PREDICTIONS = "predictions.csv"
HISTORY_COLUMNS = [
    "epoch",
    "learning_rate",
    "train_loss",
    "train_c_index",
    "validation_loss",
    "validation_c_index",
]


@dataclass(frozen=True)
class FoldJob:
    """All that one fold with one seed needs to know."""

    config: RunConfig
    seed: int
    fold: int
    folder: Path
    train: tuple[TrainingCase, ...]
    validation: tuple[TrainingCase, ...]
    """Cases that choose the epoch; empty with ``selection: last_epoch``."""
    test: tuple[TrainingCase, ...]
    times: tuple[float, ...]
    """Times at which survival is predicted."""
    device: str
    cache_bytes: int

    @property
    def finished(self) -> bool:
        """Predictions are written last."""
        return (self.folder / PREDICTIONS).is_file()


def train_fold(report: Report, job: FoldJob) -> None:
    """Unit of work: train, choose the epoch, predict the fold's test cases; goes on where it was stopped."""
    if job.finished:
        return
    training = FoldTraining(job)
    for row in training.epochs(report):
        report({"event": "epoch", "seed": job.seed, "fold": job.fold, **row})
    training.finish()
    report({"event": "fold finished", "seed": job.seed, "fold": job.fold})


class FoldTraining:
    """A fold in training: the model, the optimiser, and the best epoch so far."""

    def __init__(self, job: FoldJob):
        self.job = job
        self.settings: Training = job.config.training
        self.device = torch.device(job.device)
        self.bags = BagCache(self.device, job.cache_bytes)
        self.registry = get_registry(job.config.plugins)
        self.loss: Loss = self.registry.create("loss", job.config.loss)
        self.loss.fit(*follow_up(job.train))
        by_events = self.loss.couples_cases or self.settings.select_by == "c_index"
        if job.validation and by_events and not any(case.event for case in job.validation):
            chooser = "C-index" if self.settings.select_by == "c_index" else f"loss '{job.config.loss.name}'"
            raise MilsurvError(
                f"fold {job.fold}: no inner validation case has an event, so the epoch cannot be chosen by their "
                f"{chooser}; raise splits.validation or set training.selection: last_epoch"
            )
        first = self.bags.read(job.train[0].slides[0][1])
        dims = {magnification: features.shape[1] for magnification, features in first.features.items()}
        torch.manual_seed(_seed(job.seed, job.fold, "initial weights"))
        self.model: SurvivalModel = build_model(
            self.registry, job.config.aggregator, dims, self.loss.n_outputs
        )
        self.model.to(self.device)
        if self.settings.standardize:
            self.model.fit_standardization(
                self.bags.read(path) for case in job.train for _, path in case.slides
            )
        kind = torch.optim.Adam if self.settings.optimizer == "adam" else torch.optim.AdamW
        self.optimizer = kind(
            self.model.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.state = load_state(job.folder / STATE, self.model, self.optimizer) or FoldState()

    def epochs(self, report: Report) -> Iterator[dict[str, float]]:
        """Train epoch by epoch, saving each; yields the rows of ``history.csv``."""
        for epoch in range(self.state.epoch + 1, self.settings.epochs + 1):
            if self._out_of_patience(epoch):
                return
            row = {"epoch": epoch, "learning_rate": self._learning_rate(epoch, 0)}
            row |= self._train_epoch(epoch, report)
            row |= self._validate()
            self.state.record(row, self.model, self._score(row))
            save_state(self.job.folder / STATE, self.state, self.model, self.optimizer)
            yield row

    def _score(self, row: dict[str, float]) -> float | None:
        """What chooses the epoch, lower is better; None when the last is kept."""
        if not self.job.validation:
            return None
        if self.settings.select_by == "loss":
            return row["validation_loss"]
        c = row["validation_c_index"]
        return math.inf if math.isnan(c) else -c

    def finish(self) -> None:
        """Predict with the chosen epoch and write what stays; the state is no longer needed."""
        job = self.job
        self.model.load_state_dict(self.state.best)
        train_outputs = self._outputs(job.train)
        self.loss.fit_baseline(train_outputs, *follow_up(job.train))
        cutoff = float(self._risk(train_outputs).median())
        about = {
            "aggregator": job.config.aggregator.model_dump(mode="json"),
            "loss": job.config.loss.model_dump(mode="json"),
            "seed": job.seed,
            "fold": job.fold,
            "epoch": self.state.best_epoch,
            "high_risk_above": cutoff,
        }
        history = pd.DataFrame(self.state.history, columns=HISTORY_COLUMNS)
        history["chosen"] = (history["epoch"] == self.state.best_epoch).astype(int)
        save_model(job.folder / MODEL, self.model, self.loss, about)
        write_text(job.folder / HISTORY, history.to_csv(index=False))
        write_text(job.folder / PREDICTIONS, self._predictions(cutoff).to_csv(index=False))
        (job.folder / STATE).unlink(missing_ok=True)

    def _train_epoch(self, epoch: int, report: Report) -> dict[str, float]:
        self.model.train()
        cases = [self.job.train[i] for i in self._order(epoch)]
        steps = math.ceil(len(cases) / self.settings.batch_cases)
        outputs, losses = [], []
        for step in range(steps):
            batch = cases[step * self.settings.batch_cases : (step + 1) * self.settings.batch_cases]
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(epoch, step / steps)
            self.optimizer.zero_grad()
            batch_outputs, batch_loss = self._accumulate(batch, epoch)
            self._clip_gradient(batch, epoch)
            self.optimizer.step()
            outputs.append(batch_outputs)
            losses.append(batch_loss * len(batch))
            report({"event": "cases", "count": len(batch)})
        time, event = follow_up(cases)
        risk = self._risk(torch.cat(outputs))
        return {"train_loss": sum(losses) / len(cases), "train_c_index": c_index(time, event, risk)}

    def _clip_gradient(self, batch: Sequence[TrainingCase], epoch: int) -> None:
        """Scale the gradient down to ``clip_norm``. Raises MilsurvError when it is not finite."""
        most = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)
        if not bool(torch.isfinite(norm)):
            cases = ", ".join(
                f"{case.case_id} ({', '.join(slide for slide, _ in case.slides)})" for case in batch[:5]
            )
            raise MilsurvError(
                f"seed {self.job.seed}, fold {self.job.fold}: the gradient is not finite in epoch {epoch} after cases "
                f"{cases}{' and more' * (len(batch) > 5)}; try a lower training.learning_rate or "
                "training.clip_norm: 1; the epoch before is kept"
            )

    def _order(self, epoch: int) -> list[int]:
        """Which training cases an epoch takes, one after the other."""
        generator, n = _generator(self.job.seed, self.job.fold, epoch), len(self.job.train)
        if self.settings.sampling == "uniform":
            return torch.randperm(n, generator=generator).tolist()
        weights = balancing_weights(*follow_up(self.job.train))
        return torch.multinomial(weights, n, replacement=True, generator=generator).tolist()

    def _accumulate(self, batch: Sequence[TrainingCase], epoch: int) -> tuple[Tensor, float]:
        """Add the batch's gradient with the graph of one bag at a time; gives ``(n, n_outputs)`` and the loss.

        The loss is a function of the outputs alone, so its gradient is had in two passes: all outputs without a
        graph, d loss / d outputs, then each bag again with a graph, weighted by its case's row. A loss that does
        not couple cases needs no outputs but the case's own, and one pass.
        """
        if not self.loss.couples_cases:
            rows = [self._backward_case(case, epoch, len(batch)) for case in batch]
            return torch.stack([outputs for outputs, _ in rows]), sum(value for _, value in rows)
        with torch.no_grad():
            outputs = torch.stack([self._case_output(case, epoch) for case in batch]).cpu()
        outputs.requires_grad_()
        value = self.loss(outputs, *follow_up(batch))
        self._require_finite(value, batch, epoch)
        (weights,) = torch.autograd.grad(value, outputs)
        for case, weight in zip(batch, weights.to(self.device), strict=True):
            for slide, path in case.slides:
                (self._bag_output(slide, path, epoch) @ weight / len(case.slides)).backward()
        return outputs.detach(), value.item()

    def _backward_case(self, case: TrainingCase, epoch: int, batch_size: int) -> tuple[Tensor, float]:
        output = self._case_output(case, epoch).cpu()
        value = self.loss(output.unsqueeze(0), *follow_up([case])) / batch_size
        self._require_finite(value, [case], epoch)
        value.backward()
        return output.detach(), value.item()

    def _case_output(self, case: TrainingCase, epoch: int) -> Tensor:
        """The mean of the outputs of a case's bags."""
        return torch.stack([self._bag_output(slide, path, epoch) for slide, path in case.slides]).mean(0)

    def _bag_output(self, slide: str, path: Path, epoch: int) -> Tensor:
        bag = self.bags.read(path)
        if bag.grid is None and self.model.aggregator.requires_grid:
            raise MilsurvError(
                f"aggregator '{self.job.config.aggregator.name}' with these settings needs the patches' grid, which "
                f"the features of slide {slide} lack; extract them with milsurv, or take settings or an aggregator "
                "that need none"
            )
        torch.manual_seed(_seed(self.job.seed, epoch, slide))
        sizes = ", ".join(f"{n} at {magnification}x" for magnification, n in bag.sizes.items())
        try:
            output: Tensor = self.model(bag)
        except Exception as error:
            error.add_note(f"raised by {self._plugin('aggregator')} for slide {slide} ({sizes} patches)")
            raise
        if output.shape != (self.loss.n_outputs,) or not bool(torch.isfinite(output).all()):
            wrong = f"values of shape {tuple(output.shape)}, not ({self.loss.n_outputs},)"
            if output.shape == (self.loss.n_outputs,):
                wrong = f"values that are not finite in epoch {epoch} (try a lower training.learning_rate)"
            raise MilsurvError(
                f"seed {self.job.seed}, fold {self.job.fold}: {self._plugin('aggregator')} gave for slide {slide} "
                f"({sizes} patches) {wrong}: it breaks the promise 'any_number_of_patches'"
            )
        return output

    def _risk(self, outputs: Tensor) -> Tensor:
        """``(n, n_outputs)`` -> ``(n,)``. Raises MilsurvError when the loss gives something else."""
        risk = self.loss.risk(outputs)
        if risk.shape != (len(outputs),) or not bool(torch.isfinite(risk).all()):
            raise MilsurvError(
                f"seed {self.job.seed}, fold {self.job.fold}: {self._plugin('loss')} gave risk of shape "
                f"{tuple(risk.shape)} for {len(outputs)} cases, or risk that is not finite: it breaks the promise "
                "'higher_risk_is_worse'"
            )
        return risk

    def _survival(self, outputs: Tensor) -> Tensor:
        """``(n, n_outputs)`` -> ``(n, times)``. Raises MilsurvError when the loss gives something else."""
        survival = self.loss.survival(outputs, torch.tensor(self.job.times, dtype=torch.float64))
        if survival.shape != (len(outputs), len(self.job.times)) or not bool(
            ((survival >= 0) & (survival <= 1)).all()
        ):
            raise MilsurvError(
                f"seed {self.job.seed}, fold {self.job.fold}: {self._plugin('loss')} gave survival of shape "
                f"{tuple(survival.shape)} for {len(outputs)} cases and {len(self.job.times)} times, or survival "
                "beyond 0 and 1: it breaks the promise 'survival_properties'"
            )
        return survival

    def _plugin(self, kind: str) -> str:
        """The plugin that this run has of a kind, in an error message."""
        return self.registry.describe(kind, getattr(self.job.config, kind).name)

    def _require_finite(self, value: Tensor, cases: Sequence[TrainingCase], epoch: int) -> None:
        if not bool(torch.isfinite(value)):
            names = ", ".join(case.case_id for case in cases[:5])
            raise MilsurvError(
                f"seed {self.job.seed}, fold {self.job.fold}: {self._plugin('loss')} is {value.item()} in epoch "
                f"{epoch} at case {names}, of outputs that are finite (try a lower training.learning_rate): it breaks "
                "the promise 'extreme_outputs'"
            )

    def _outputs(self, cases: Sequence[TrainingCase]) -> Tensor:
        """``(n, n_outputs)`` of the model as it would predict, on the host."""
        self.model.eval()
        with torch.no_grad():
            return torch.stack([self._case_output(case, epoch=0) for case in cases]).cpu()

    def _validate(self) -> dict[str, float]:
        if not self.job.validation:
            return {"validation_loss": math.nan, "validation_c_index": math.nan}
        outputs = self._outputs(self.job.validation)
        time, event = follow_up(self.job.validation)
        loss = self.loss(outputs, time, event)
        self._require_finite(loss, self.job.validation, self.state.epoch + 1)
        return {
            "validation_loss": loss.item(),
            "validation_c_index": c_index(time, event, self._risk(outputs)),
        }

    def _predictions(self, cutoff: float) -> pd.DataFrame:
        """A row for each test case: what was seen, its risk, and survival at the run's times."""
        outputs = self._outputs(self.job.test)
        risk = self._risk(outputs)
        table: dict[str, Any] = {
            "case_id": [case.case_id for case in self.job.test],
            "fold": self.job.fold,
            "time": [case.time for case in self.job.test],
            "event": [case.event for case in self.job.test],
            "risk": risk.numpy(),
            "seed": self.job.seed,
            "high_risk": (risk > cutoff).int().numpy(),
        }
        survival = self._survival(outputs).numpy()
        columns = {survival_column(t): survival[:, i] for i, t in enumerate(self.job.times)}
        return pd.DataFrame({**table, **columns})

    def _learning_rate(self, epoch: int, share: float) -> float:
        """The rate after ``share`` of epoch ``epoch`` (counted from 1)."""
        progress = (epoch - 1 + share) / self.settings.epochs
        factor = schedule_factor(self.settings.schedule, progress, self.settings.warmup)
        return self.settings.learning_rate * factor

    def _out_of_patience(self, epoch: int) -> bool:
        patience = self.settings.patience
        return patience is not None and epoch - self.state.best_epoch > patience


def read_predictions(path: Path) -> pd.DataFrame:
    """A table of predictions, every number to the last bit."""
    return pd.read_csv(path, dtype={"case_id": str}, float_precision="round_trip")


def schedule_factor(schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Share of the learning rate at ``progress`` in [0, 1) of the training.

    It rises linearly from 0 during ``warmup``, a share of the training; the schedule takes the rest.
    ``cosine`` falls from 1 to 0; ``one_cycle`` rises from 1/25 to 1 over the first 30 %, then falls to 0, both along
    half a cosine (Smith & Topin 2019).
    """
    if progress < warmup:
        return progress / warmup
    progress = (progress - warmup) / (1 - warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _half_cosine(1.0, 0.0, progress)
    rise = 0.3
    if progress < rise:
        return _half_cosine(1 / 25, 1.0, progress / rise)
    return _half_cosine(1.0, 0.0, (progress - rise) / (1 - rise))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _seed(*parts: object) -> int:
    """A 63-bit seed that stands for ``parts``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*parts))
