"""Outputs of a fold's model for cases, checked against the contracts of the plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.executors.memory import out_of_memory_explained
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
    merge_bags,
    sample_patches,
)
from milsurv.training.model import SurvivalModel
from milsurv.training.seeds import generator_of, seed_torch

T = TypeVar("T")

SHOWN_CASES = 5
MAX_PAIRS = 2**21
"""Maximum number of bags that are computed at once, times the square of the patches of the largest."""
BYTES_PER_FEATURE = 2
"""Of the default type in feature files."""


class Outputs:
    """Applies the model of a fold to the bags of cases; errors name the fold, the plugin and the slide."""

    def __init__(self, config: RunConfig, fold: FoldId, model: SurvivalModel, loss: Loss, bags: BagCache):
        self.config = config
        self.where = fold
        self.seed = fold.seed
        self.model = model
        self.loss = loss
        self.bags = bags
        self.on_bag: Callable[[], None] = lambda: None
        """Called before each bag."""
        self.corrections: dict[TrainingCase, Tensor] = {}
        """What is added to the outputs of cases in training: to the linear path for its cross-fitted outputs."""
        self.current_bag = "the features of its slides"
        """Description of the last bag, for messages."""
        self.device = next(model.buffers()).device
        precision = getattr(torch, config.training.precision)
        dims = model.feature_dims.values()
        self._bytes_per_patch = BYTES_PER_FEATURE * sum(dims) // len(dims)
        self._autocast = torch.autocast(self.device.type, precision, enabled=precision != torch.float32)

    def of_cases(self, cases: Sequence[TrainingCase], at_once: bool = False) -> Tensor:
        """Outputs in evaluation mode, ``(n, n_outputs)`` float32, on the CPU.

        Cases are computed one by one, so that the outputs of a case do not depend on the others; or ``at_once``, in
        :meth:`groups`.
        """
        self.model.eval()
        self.bags.expect(files_of(cases))
        groups = self.groups(cases) if at_once else [[case] for case in cases]
        with torch.no_grad(), out_of_memory_explained(self.too_large):
            return torch.cat([self.of_batch(group, epoch=0) for group in groups]).cpu()

    def groups(self, cases: Sequence[TrainingCase]) -> list[list[TrainingCase]]:
        """Cases whose bags are computed at once."""
        return self.batches(cases, lambda case: case.bags(self.config.training.bag))

    def of_batch(self, cases: Sequence[TrainingCase], epoch: int) -> Tensor:
        """Mean output of each case's bags, ``(n, n_outputs)``, on the device."""
        by_case = [case.bags(self.config.training.bag) for case in cases]
        bags = [slides for of_case in by_case for slides in of_case]
        outputs = torch.cat([self.of_bags(batch, epoch) for batch in self.batches(bags, lambda bag: [bag])])
        if len(bags) > len(cases):
            of_cases = outputs.split([len(of) for of in by_case])
            outputs = torch.stack([of_case.mean(0) for of_case in of_cases])
        if self.corrections and self.model.training:
            outputs = outputs + torch.stack([self.corrections[case] for case in cases])
        return outputs

    def standardized_bags(self, cases: Sequence[TrainingCase]) -> Iterator[list[Bag]]:
        """The bags of each case as the aggregator gets them, on the device; read when they are taken."""
        self.bags.expect(files_of(cases))
        for case in cases:
            self.on_bag()
            bags = case.bags(self.config.training.bag)
            yield [self.model.standardized(self._read(slides, epoch=0)) for slides in bags]

    def batches(self, items: Sequence[T], bags_of: Callable[[T], list[SlideFiles]]) -> list[list[T]]:
        """``items`` in batches whose bags are computed at once: small bags, if the aggregator batches; else one item.

        ``bags_of`` gives the bags of an item.
        """
        if not self.model.aggregator.batches or self.config.training.compile:
            return [[item] for item in items]
        batches: list[list[T]] = []
        count = largest = 0
        for item in items:
            bags = bags_of(item)
            size = max(self._size(slides) for slides in bags)
            if batches and (count + len(bags)) * max(largest, size) ** 2 <= MAX_PAIRS:
                count, largest = count + len(bags), max(largest, size)
            else:
                batches.append([])
                count, largest = len(bags), size
            batches[-1].append(item)
        return batches

    def _size(self, slides: SlideFiles) -> int:
        """About the number of patches in the files of a bag."""
        return sum(path.stat().st_size for _, path in slides) // self._bytes_per_patch

    def of_bags(self, bags: Sequence[SlideFiles], epoch: int) -> Tensor:
        """Outputs of bags that are computed at once, ``(n, n_outputs)`` float32, on the device.

        Random numbers depend on seed, epoch and slides.
        """
        self.on_bag()
        read = [self._read(slides, epoch) for slides in bags]
        names = [slide for slides in bags for slide, _ in slides]
        self.current_bag = which = _described(names, read)
        seed_torch(self.device, self.seed, epoch, *names)
        try:
            with self._autocast:
                outputs: Tensor = self.model.forward_batch(read)
        except Exception as error:
            error.add_note(f"raised by {self.plugin('aggregator')} for {which}")
            raise
        expected = (len(bags), self.loss.n_outputs)
        if outputs.shape != expected or not bool(torch.isfinite(outputs).all()):
            wrong = f"values of shape {tuple(outputs.shape[1:])}, not ({self.loss.n_outputs},)"
            if outputs.shape == expected:
                wrong = f"values that are not finite in epoch {epoch} (try a lower training.learning_rate)"
            raise MilsurvError(
                f"{self.where}: {self.plugin('aggregator')} returned for {which} {wrong}: it fails "
                "the check 'any_number_of_patches'"
            )
        return outputs.float()

    def too_large(self) -> str:
        """Message that the current bag does not fit into memory."""
        return (
            f"{self.where}: {self.plugin('aggregator')} and {self.current_bag} do not fit into the memory of "
            f"{self.device}; use a smaller aggregator (crossfusion: attention: local), fewer or coarser "
            "tiling.magnifications, executor.cache: host, fewer executor.workers, or another device; in training also "
            "training.max_patches or training.precision: bfloat16; finished work is kept"
        )

    def _read(self, slides: SlideFiles, epoch: int) -> Bag:
        settings = self.config.training
        bags = [self.bags.read(path) for _, path in slides]
        bag = merge_bags(bags) if settings.bag == "case" else bags[0]
        if bag.grid is None and self.model.aggregator.requires_grid:
            raise MilsurvError(self._missing_grid(slides))
        if self.model.training and settings.max_patches is not None:
            drawn = generator_of(self.seed, epoch, "patches", *(slide for slide, _ in slides))
            bag = sample_patches(bag, settings.max_patches, drawn)
        return bag

    def _missing_grid(self, slides: SlideFiles) -> str:
        needs = f"aggregator '{self.config.aggregator.name}' with these settings needs a patch grid"
        if self.config.training.bag == "case":
            return f"{needs}, but bags of several slides have none; set training.bag: slide, or use another aggregator"
        return (
            f"{needs}, but the features of slide {slides[0][0]} have none; extract them with milsurv, or use other "
            "settings or another aggregator"
        )

    def loss_of(self, outputs: Tensor, cases: Sequence[TrainingCase], epoch: int) -> Tensor:
        """The loss of ``(n, n_outputs)``, a finite scalar. Raises MilsurvError if it is not finite."""
        value = self.loss(outputs, *follow_up(cases))
        if not bool(torch.isfinite(value)):
            raise MilsurvError(
                f"{self.where}: {self.plugin('loss')} is {value.item()} in epoch {epoch} for finite outputs of "
                f"{describe_cases(cases)} (try a lower training.learning_rate): it fails the check 'extreme_outputs'"
            )
        return value

    def risk(self, outputs: Tensor) -> Tensor:
        """Risk ``(n,)`` of outputs ``(n, n_outputs)``. Raises MilsurvError if it has another shape or is not finite."""
        risk = self.loss.risk(outputs)
        if risk.shape != (len(outputs),) or not bool(torch.isfinite(risk).all()):
            raise MilsurvError(
                f"{self.where}: {self.plugin('loss')} returned risk of shape {tuple(risk.shape)} for {len(outputs)} "
                "cases, or a risk that is not finite: it fails the check 'higher_risk_is_worse'"
            )
        return risk

    def survival(self, outputs: Tensor, times: Sequence[float]) -> Tensor:
        """Survival ``(n, times)`` of outputs ``(n, n_outputs)``. Raises MilsurvError if it is outside of [0, 1]."""
        survival = self.loss.survival(outputs, torch.tensor(times, dtype=torch.float64))
        within = (survival >= 0) & (survival <= 1)
        if survival.shape != (len(outputs), len(times)) or not bool(within.all()):
            raise MilsurvError(
                f"{self.where}: {self.plugin('loss')} returned survival of shape {tuple(survival.shape)} for "
                f"{len(outputs)} cases and {len(times)} times, or values outside of [0, 1]: it fails the check "
                "'survival_properties'"
            )
        return survival

    def plugin(self, kind: str) -> str:
        """The configured plugin of a kind, for messages."""
        return get_registry(self.config.plugins).describe(kind, getattr(self.config, kind).name)


def _described(names: Sequence[str], bags: Sequence[Bag]) -> str:
    """Slides of the bags that are computed at once and their sizes, for messages."""
    shown = ", ".join(names[:SHOWN_CASES]) + (" and more" if len(names) > SHOWN_CASES else "")
    largest = {m: max(bag.sizes[m] for bag in bags) for m in bags[0].sizes}
    sizes = ", ".join(f"{n} at {magnification}x" for magnification, n in largest.items())
    most = "at most " if len(bags) > 1 else ""
    return f"slide{'s' * (len(names) > 1)} {shown} ({most}{sizes} patches)"


def describe_cases(cases: Sequence[TrainingCase]) -> str:
    """The first cases with their slides, for messages."""
    shown = [
        f"{case.case_id} ({', '.join(slide for slide, _ in case.slides)})" for case in cases[:SHOWN_CASES]
    ]
    more = " and more" if len(cases) > SHOWN_CASES else ""
    return f"case{'s' * (len(cases) > 1)} {', '.join(shown)}{more}"
