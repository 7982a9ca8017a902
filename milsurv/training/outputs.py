"""What a fold's model gives for cases, and that it is what the plugins' contracts promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.executors.memory import want_of_memory_named
from milsurv.features.bag import Bag
from milsurv.losses.base import Loss
from milsurv.plugin.registry import get_registry
from milsurv.training.bags import BagCache
from milsurv.training.data import (
    FoldId,
    SlideFiles,
    TrainingCase,
    files_of,
    follow_up,
    one_bag,
    sample_patches,
)
from milsurv.training.model import SurvivalModel
from milsurv.training.seeds import generator_of, seed_draws

SHOWN_CASES = 5


class Outputs:
    """Runs the model of a fold over the bags of cases; every error names the fold, the plugin and the slide."""

    def __init__(self, config: RunConfig, fold: FoldId, model: SurvivalModel, loss: Loss, bags: BagCache):
        self.config = config
        self.where = fold
        self.seed = fold.seed
        self.model = model
        self.loss = loss
        self.bags = bags
        self.on_bag: Callable[[], None] = lambda: None
        """Called before each bag."""
        self.in_hand = "the features of its slides"
        """The bag that the model has got last, for messages."""
        self.device = next(model.parameters()).device
        precision = getattr(torch, config.training.precision)
        self._autocast = torch.autocast(self.device.type, precision, enabled=precision != torch.float32)

    def of_cases(self, cases: Sequence[TrainingCase]) -> Tensor:
        """``(n, n_outputs)`` float32 of the model as it predicts, on the host."""
        self.model.eval()
        self.bags.expect(files_of(cases))
        with torch.no_grad(), want_of_memory_named(self.too_large):
            return torch.stack([self.of_case(case, epoch=0) for case in cases]).cpu()

    def of_case(self, case: TrainingCase, epoch: int) -> Tensor:
        """``(n_outputs,)``: the mean of the outputs of the case's bags, on the device."""
        bags = case.bags(self.config.training.bag)
        return torch.stack([self.of_bag(slides, epoch) for slides in bags]).mean(0)

    def of_bag(self, slides: SlideFiles, epoch: int) -> Tensor:
        """``(n_outputs,)`` float32, on the device; what is drawn at random follows from seed, epoch and slides."""
        self.on_bag()
        bag = self._read(slides, epoch)
        names = [slide for slide, _ in slides]
        sizes = ", ".join(f"{n} at {magnification}x" for magnification, n in bag.sizes.items())
        self.in_hand = which = f"slide{'s' * (len(names) > 1)} {', '.join(names)} ({sizes} patches)"
        seed_draws(self.device, self.seed, epoch, *names)
        try:
            with self._autocast:
                output: Tensor = self.model(bag)
        except Exception as error:
            error.add_note(f"raised by {self.plugin('aggregator')} for {which}")
            raise
        if output.shape != (self.loss.n_outputs,) or not bool(torch.isfinite(output).all()):
            wrong = f"values of shape {tuple(output.shape)}, not ({self.loss.n_outputs},)"
            if output.shape == (self.loss.n_outputs,):
                wrong = f"values that are not finite in epoch {epoch} (try a lower training.learning_rate)"
            raise MilsurvError(
                f"{self.where}: {self.plugin('aggregator')} gave for {which} {wrong}: it fails "
                "the check 'any_number_of_patches'"
            )
        return output.float()

    def too_large(self) -> str:
        """That the bag in hand does not fit into memory, and what to do."""
        return (
            f"{self.where}: the memory of {self.device} does not hold {self.plugin('aggregator')} and {self.in_hand}; "
            "use an aggregator that needs less (crossfusion: attention: local), fewer or coarser "
            "tiling.magnifications, executor.cache: host, fewer executor.workers, or another device; in training also "
            "training.max_patches or training.precision: bfloat16; what is finished is kept"
        )

    def _read(self, slides: SlideFiles, epoch: int) -> Bag:
        settings = self.config.training
        bags = [self.bags.read(path) for _, path in slides]
        bag = one_bag(bags) if settings.bag == "case" else bags[0]
        if bag.grid is None and self.model.aggregator.requires_grid:
            raise MilsurvError(self._lack_of_grid(slides))
        if self.model.training and settings.max_patches is not None:
            drawn = generator_of(self.seed, epoch, "patches", *(slide for slide, _ in slides))
            bag = sample_patches(bag, settings.max_patches, drawn)
        return bag

    def _lack_of_grid(self, slides: SlideFiles) -> str:
        needs = (
            f"aggregator '{self.config.aggregator.name}' with these settings needs the patches' grid, which "
        )
        if self.config.training.bag == "case":
            return (
                f"{needs}a bag of several slides has not; set training.bag: slide, or take another aggregator"
            )
        return (
            f"{needs}the features of slide {slides[0][0]} lack; extract them with milsurv, or take settings or an "
            "aggregator that need none"
        )

    def loss_of(self, outputs: Tensor, cases: Sequence[TrainingCase], epoch: int) -> Tensor:
        """The loss of ``(n, n_outputs)``, a finite scalar. Raises MilsurvError when it is not finite."""
        value = self.loss(outputs, *follow_up(cases))
        if not bool(torch.isfinite(value)):
            raise MilsurvError(
                f"{self.where}: {self.plugin('loss')} is {value.item()} in epoch {epoch} at {in_words(cases)}, of "
                "outputs that are finite (try a lower training.learning_rate): it fails the check 'extreme_outputs'"
            )
        return value

    def risk(self, outputs: Tensor) -> Tensor:
        """``(n, n_outputs)`` -> ``(n,)``. Raises MilsurvError when the loss gives something else."""
        risk = self.loss.risk(outputs)
        if risk.shape != (len(outputs),) or not bool(torch.isfinite(risk).all()):
            raise MilsurvError(
                f"{self.where}: {self.plugin('loss')} gave risk of shape {tuple(risk.shape)} for {len(outputs)} "
                "cases, or risk that is not finite: it fails the check 'higher_risk_is_worse'"
            )
        return risk

    def survival(self, outputs: Tensor, times: Sequence[float]) -> Tensor:
        """``(n, n_outputs)`` -> ``(n, times)``. Raises MilsurvError when the loss gives something else."""
        survival = self.loss.survival(outputs, torch.tensor(times, dtype=torch.float64))
        within = (survival >= 0) & (survival <= 1)
        if survival.shape != (len(outputs), len(times)) or not bool(within.all()):
            raise MilsurvError(
                f"{self.where}: {self.plugin('loss')} gave survival of shape {tuple(survival.shape)} for "
                f"{len(outputs)} cases and {len(times)} times, or survival beyond 0 and 1: it fails the check "
                "'survival_properties'"
            )
        return survival

    def plugin(self, kind: str) -> str:
        """The plugin that this run has of a kind, in an error message."""
        return get_registry(self.config.plugins).describe(kind, getattr(self.config, kind).name)


def in_words(cases: Sequence[TrainingCase]) -> str:
    """The first few cases with their slides, for a message."""
    shown = [
        f"{case.case_id} ({', '.join(slide for slide, _ in case.slides)})" for case in cases[:SHOWN_CASES]
    ]
    more = " and more" if len(cases) > SHOWN_CASES else ""
    return f"case{'s' * (len(cases) > 1)} {', '.join(shown)}{more}"
