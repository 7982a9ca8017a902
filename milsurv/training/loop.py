"""The training loop: the epochs of one fold with one seed.

All random numbers are derived from (run seed, fold, epoch, slide), so a fold that is resumed from its last checkpoint
draws the same ones as an uninterrupted training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from milsurv.config.training import Training
from milsurv.errors import MilsurvError
from milsurv.evaluation.pairs import c_index
from milsurv.executors.base import Context
from milsurv.executors.memory import out_of_memory_explained
from milsurv.features.store import feature_dims
from milsurv.losses.base import Loss
from milsurv.plugin.registry import Registry, get_registry
from milsurv.storage.run_files import STATE
from milsurv.training.bags import shared_bags
from milsurv.training.checkpoint import FoldState, load_state, save_state
from milsurv.training.data import TrainingCase, balanced_weights, files_of, follow_up
from milsurv.training.fitting import fit_model
from milsurv.training.job import COLUMN_PREFIX, FoldJob
from milsurv.training.model import SurvivalModel, build_model
from milsurv.training.outputs import Outputs, describe_cases
from milsurv.training.schedule import learning_rate
from milsurv.training.seeds import generator_of, seed_torch

MAX_SAVING_SHARE = 0.02
"""Maximum share of the time that is spent on saving checkpoints."""
REHEARSED_CASES = 2


def fit_loss(job: FoldJob, registry: Registry) -> Loss:
    """The fold's loss, fitted on its training cases.

    Raises MilsurvError, naming the fold, if it cannot be fitted, or if no selection case has an event but the criterion
    needs one.
    """
    loss: Loss = registry.create("loss", job.config.loss)
    try:
        loss.fit(*follow_up(job.rows))
    except MilsurvError as error:
        raise MilsurvError(f"fold {job.fold}: {error}") from error
    by_c_index = job.config.training.select_by == "c_index"
    if loss.couples_cases or by_c_index:
        for name, rows in job.selection_sets.items():
            if not any(row.event for row in rows):
                cases = {"inner_validation": "inner validation", "reported_fold": "test"}[name]
                by = "C-index" if by_c_index else f"loss '{job.config.loss.name}'"
                raise MilsurvError(
                    f"fold {job.fold}: no {cases} case has an event, so the epoch cannot be selected by their {by}; "
                    "increase splits.validation or set training.selection: last_epoch"
                )
    return loss


def rehearse(context: Context, job: FoldJob) -> None:
    """Run one training step of the fold with a few cases and predict them, without writing anything.

    Raises MilsurvError as the training would.
    """
    torch.use_deterministic_algorithms(job.config.training.deterministic)
    settings = job.config.training.model_copy(update={"compile": False})
    training = FoldTraining(
        context, replace(job, config=job.config.model_copy(update={"training": settings}))
    )
    rows, of = training.rows, training.outputs
    sample = [rows[i] for i in training.order(epoch=1)[:REHEARSED_CASES]]
    if training.is_trained:
        training.model.train()
        training.step(sample, epoch=1)
    outputs = of.of_cases(sample)
    of.risk(outputs)
    of.loss.fit_baseline(outputs[:1].repeat(len(rows), 1), *follow_up(rows))
    of.survival(outputs, job.times)


class FoldTraining:
    """Model, optimizer and progress of a fold in training, with checkpoints in ``state_file``."""

    def __init__(self, context: Context, job: FoldJob, state_file: str = STATE, epochs: int | None = None):
        self.context = context
        self.job = job
        self.settings: Training = job.config.training
        self.rows = job.rows
        self.selection_sets = job.selection_sets
        registry = get_registry(job.config.plugins)
        loss = fit_loss(job, registry)
        dims = feature_dims(files_of(self.rows)[0])
        seed_torch(torch.device(context.device), job.seed, job.fold, "initial weights")
        self.model: SurvivalModel = build_model(
            registry, job.config.aggregator, dims, loss.n_outputs, self.settings.linear_path
        )
        self.model.to(context.device)
        self.last_epoch = (epochs or self.settings.epochs) if self.is_trained else 1
        bags = shared_bags(context, job.files)
        self.outputs = Outputs(job.config, job.id, self.model, loss, bags)
        kind = torch.optim.Adam if self.settings.optimizer == "adam" else torch.optim.AdamW
        self.optimizer = kind(
            list(self.model.parameters()) or [torch.empty(0)],  # an optimizer must have something
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(
            self.outputs.device.type, enabled=self.settings.precision == "float16"
        )
        self._state_file = job.folder / state_file
        self._saved_at, self._saving_took, self._unsaved = time.monotonic(), 0.0, False
        self.state = self._restore_or_init()
        if self.settings.compile:
            self.model.aggregator.compile(dynamic=True)

    def _restore_or_init(self) -> FoldState:
        """The saved state, or the state of a new training."""
        if self.model.linear_path is not None or not self._state_file.is_file():
            fit_model(self.outputs, self.job)  # also for what a linear path adds to the outputs in training
        state = load_state(self._state_file, self.model, self.optimizer)
        if state is None:
            return FoldState()
        self.scaler.load_state_dict(state.scaler)
        return state

    @property
    def is_trained(self) -> bool:
        """Whether the model has parameters; one without is only fitted, and has a single epoch."""
        return any(True for _ in self.model.parameters())

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train epoch by epoch; yields the rows of ``history.csv``.

        Checkpoints are saved regularly, and when the training is stopped between two steps.
        """
        self.outputs.on_bag = self.context.raise_if_stopped
        for epoch in range(self.state.epoch + 1, self.last_epoch + 1):
            if self._out_of_patience(epoch):
                return
            row = {"epoch": epoch, "learning_rate": learning_rate(self.settings, epoch, 0)}
            try:
                with out_of_memory_explained(self.outputs.too_large):
                    row |= self._train_epoch(epoch)
                row |= self._validate(epoch)
                self.state.record(row, self.model, self._scores(row))
                self._unsaved = True
                self._save_if_due()
            except BaseException:
                if self._unsaved:
                    self._save()
                raise
            yield row

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        if not self.is_trained:
            return self._measured("train", self.rows, epoch)
        rows = [self.rows[i] for i in self.order(epoch)]
        size = self.settings.batch_cases
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        done = len(self.state.losses)
        self.outputs.bags.expect([file for batch in batches[done:] for file in self._reads(batch)])
        self.model.train()
        for step, batch in enumerate(batches[done:], done):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.settings, epoch, step / len(batches))
            self.step(batch, epoch)
            self._save_if_due()
            self.context.report({"event": "cases", "count": len(batch)})
        risk = self.outputs.risk(torch.cat(self.state.outputs))
        return {
            "train_loss": sum(self.state.losses) / len(rows),
            "train_c_index": c_index(*follow_up(rows), risk),
        }

    def _reads(self, batch: Sequence[TrainingCase]) -> list[Path]:
        """Files of the batch in the order in which a step reads them."""
        passes = 2 if self.outputs.loss.couples_cases and len(self.outputs.groups(batch)) > 1 else 1
        return passes * files_of(batch)

    def step(self, batch: Sequence[TrainingCase], epoch: int) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        outputs, loss = self._accumulate(batch, epoch)
        self.scaler.unscale_(self.optimizer)
        self._clip_gradient(batch, epoch)
        self._unsaved = False  # model and optimizer are inconsistent within a step
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.state.scaler = self.scaler.state_dict()
        self.state.outputs.append(outputs)
        self.state.losses.append(loss * len(batch))
        self._unsaved = True

    def _accumulate(self, batch: Sequence[TrainingCase], epoch: int) -> tuple[Tensor, float]:
        """Accumulate the batch's gradient; returns ``(n, n_outputs)`` and the loss."""
        groups = self.outputs.groups(batch)
        if self.outputs.loss.couples_cases and len(groups) > 1:
            return self._accumulate_coupled(batch, epoch)
        pairs = [self._backward(cases, epoch, len(batch)) for cases in groups]
        return torch.cat([outputs for outputs, _ in pairs]), sum(value for _, value in pairs)

    def _backward(self, cases: Sequence[TrainingCase], epoch: int, batch_size: int) -> tuple[Tensor, float]:
        outputs = self.outputs.of_batch(cases, epoch).cpu()
        value = self.outputs.loss_of(outputs, cases, epoch) * (len(cases) / batch_size)
        self.scaler.scale(value).backward()
        return outputs.detach(), value.item()

    def _accumulate_coupled(self, batch: Sequence[TrainingCase], epoch: int) -> tuple[Tensor, float]:
        """:meth:`_accumulate` for a loss that couples cases, with the graph of only some of the bags at a time.

        The loss is a function of the outputs, so the gradient needs two passes: all outputs without a graph and
        d loss / d outputs, then the bags again with a graph, weighted by the row of their case.
        """
        of, kind = self.outputs, self.settings.bag
        with torch.no_grad():
            outputs = of.of_batch(batch, epoch).cpu()
        outputs.requires_grad_()
        value = of.loss_of(outputs, batch, epoch)
        (gradient,) = torch.autograd.grad(value, outputs)
        weights = {
            slides: row / len(case.bags(kind))
            for case, row in zip(batch, gradient.to(of.device), strict=True)
            for slides in case.bags(kind)
        }
        for bags in of.batches(list(weights), lambda bag: [bag]):
            weighted = of.of_bags(bags, epoch) * torch.stack([weights[slides] for slides in bags])
            self.scaler.scale(weighted.sum()).backward()
        return outputs.detach(), value.item()

    def _clip_gradient(self, batch: Sequence[TrainingCase], epoch: int) -> None:
        """Scale the gradient down to ``clip_norm``. Raises MilsurvError if it is not finite.

        With a scaled loss it may be infinite: the scaler then skips the step and halves the scale.
        """
        max_norm = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        if bool(torch.isfinite(norm)) or (self.scaler.is_enabled() and self.scaler.get_scale() > 1):
            return
        raise MilsurvError(
            f"{self.job.id}: the gradient is not finite in epoch {epoch} after {describe_cases(batch)}; try a lower "
            "training.learning_rate or training.clip_norm: 1; the checkpoint before this step is kept"
        )

    def order(self, epoch: int) -> list[int]:
        """Indices of the rows of an epoch, in their order."""
        generator = generator_of(self.job.seed, self.job.fold, epoch)
        if self.settings.sampling == "uniform":
            return torch.randperm(len(self.rows), generator=generator).tolist()
        weights = balanced_weights(*follow_up(self.rows))
        return torch.multinomial(weights, len(self.rows), replacement=True, generator=generator).tolist()

    def _validate(self, epoch: int) -> dict[str, float]:
        """Loss and C-index of each selection set."""
        values = {"validation_loss": math.nan, "validation_c_index": math.nan}
        for selection, rows in self.selection_sets.items():
            values |= self._measured(COLUMN_PREFIX[selection], rows, epoch)
        return values

    def _measured(self, name: str, rows: Sequence[TrainingCase], epoch: int) -> dict[str, float]:
        """Loss and C-index of rows in evaluation mode."""
        outputs = self.outputs.of_cases(rows, at_once=True)
        return {
            f"{name}_loss": self.outputs.loss_of(outputs, rows, epoch).item(),
            f"{name}_c_index": c_index(*follow_up(rows), self.outputs.risk(outputs)),
        }

    def _scores(self, row: dict[str, float]) -> dict[str, float]:
        """Score of the epoch by each selection set, lower is better; empty if it cannot be selected."""
        if not self.selection_sets:
            return {"last_epoch": -row["epoch"]}
        if row["epoch"] <= self.settings.select_after and self.is_trained:
            return {}
        if self.settings.select_by == "loss":
            return {selection: row[f"{COLUMN_PREFIX[selection]}_loss"] for selection in self.selection_sets}
        c_indices = {
            selection: row[f"{COLUMN_PREFIX[selection]}_c_index"] for selection in self.selection_sets
        }
        return {selection: math.inf if math.isnan(c) else -c for selection, c in c_indices.items()}

    def _out_of_patience(self, epoch: int) -> bool:
        """Whether no selection set improved in the last ``patience`` epochs."""
        last = max((best.epoch for best in self.state.best.values()), default=self.settings.select_after)
        return self.settings.patience is not None and epoch - last > self.settings.patience

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= self._saving_took / MAX_SAVING_SHARE:
            self._save()

    def _save(self) -> None:
        started = time.monotonic()
        save_state(self._state_file, self.state, self.model, self.optimizer)
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - started
        self._unsaved = False
