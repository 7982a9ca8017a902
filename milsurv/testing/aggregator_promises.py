"""What every aggregator promises (``milsurv.Aggregator``)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from milsurv.aggregators.base import Aggregator
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.testing.bags import make_bag, shuffled
from milsurv.testing.promise import (
    BrokenPromise,
    Subject,
    config_round_trip,
    documented,
    equal,
    finite,
    same_state,
    shown,
)
from milsurv.training.model import load_tensors, save_tensors

MAGNIFICATIONS = (20, 10, 5)
DIM = 32
SIZES = {"one patch": 1, "two patches": 2, "an odd number": 9, "a prime number": 101, "5,000 patches": 5000}
"""Patches at the finest magnification."""
ROUNDING = 1e-4
"""Relative and absolute difference that the order of float32 sums may make."""


@dataclass(frozen=True)
class AggregatorSubject(Subject):
    """An aggregator under check."""

    def make(
        self, *, n_outputs: int = 4, seed: int = 0, magnifications: Sequence[int] = MAGNIFICATIONS
    ) -> Aggregator:
        """A new one in evaluation mode, its weights drawn from ``seed``."""
        torch.manual_seed(seed)
        aggregator: Aggregator = self.plugin_class(self.config, dict.fromkeys(magnifications, DIM), n_outputs)
        return aggregator.eval()

    def bag(self, n: int = SIZES["a prime number"], seed: int = 0) -> Bag:
        return make_bag(n, magnifications=MAGNIFICATIONS, dim=DIM, seed=seed)


def train_step(aggregator: Aggregator, bag: Bag, seed: int = 0) -> Tensor:
    """Forward and backward in training mode, with dropout drawn from ``seed``; gives the outputs."""
    torch.manual_seed(seed)
    output: Tensor = aggregator.train()(bag)
    torch.autograd.backward(output.float().square().sum())
    return output.detach()


def well_shaped(output: Tensor, n_outputs: int, what: str) -> None:
    """Raises BrokenPromise unless the output is ``n_outputs`` finite floating-point numbers."""
    if output.shape != (n_outputs,) or not output.is_floating_point():
        found = f"{output.dtype} of shape {tuple(output.shape)} for {what}"
        raise BrokenPromise.of(found, f"floating point of shape ({n_outputs},)")
    finite(output, what)


def any_number_of_patches(subject: AggregatorSubject) -> None:
    """Bags of 1, 2, an odd, a prime number and 5,000 patches give finite outputs in training and evaluation."""
    for name, n in SIZES.items():
        aggregator, bag = subject.make(), subject.bag(n)
        what = f"{name}, {_sizes(bag)}"
        with torch.no_grad():
            well_shaped(aggregator(bag), 4, what)
        well_shaped(train_step(aggregator, bag), 4, f"{what}, in training")
        for parameter, gradient in _gradients(aggregator):
            if gradient is not None:
                finite(gradient, f"the gradient of {parameter}, {what}")


def any_number_of_outputs(subject: AggregatorSubject) -> None:
    """The output has as many numbers as the loss asks for, one included."""
    for n_outputs in (1, 2, 7):
        well_shaped(subject.make(n_outputs=n_outputs)(subject.bag()), n_outputs, f"n_outputs={n_outputs}")


def missing_magnification(subject: AggregatorSubject) -> None:
    """Without one of the magnifications it works, or is refused with a MilsurvError that names what it needs."""
    for missing in MAGNIFICATIONS:
        rest = [m for m in MAGNIFICATIONS if m != missing]
        try:
            aggregator = subject.make(magnifications=rest)
            well_shaped(
                aggregator(make_bag(9, magnifications=rest, dim=DIM)), 4, f"features without {missing}x"
            )
        except MilsurvError as refusal:
            if f"{missing}x" not in str(refusal):
                raise BrokenPromise.of(f"the refusal '{refusal}'", f"one that names {missing}x") from refusal
        except BrokenPromise:
            raise
        except Exception as error:
            found = f"{type(error).__name__}: {error} without {missing}x"
            raise BrokenPromise.of(
                found, "outputs, or a milsurv.MilsurvError that says what is needed"
            ) from error


def works_without_grid(subject: AggregatorSubject) -> None:
    """Features made elsewhere have no coords and no grid; without ``requires_grid`` that must do."""
    aggregator = subject.make()
    if aggregator.requires_grid:
        return
    bag = Bag(subject.bag().features)
    try:
        well_shaped(aggregator(bag), 4, "a bag without coords and grid")
    except (TypeError, AttributeError, MilsurvError) as error:
        found = f"{type(error).__name__}: {error} for a bag without coords and grid"
        raise BrokenPromise.of(found, "outputs, or requires_grid = True") from error


def gradients_reach_all(subject: AggregatorSubject) -> None:
    """Training moves every parameter: over three bags each has a gradient that is not zero."""
    reached: set[str] = set()
    aggregator = subject.make()
    for seed in range(3):
        aggregator.zero_grad()
        train_step(aggregator, subject.bag(seed=seed), seed)
        reached |= {n for n, gradient in _gradients(aggregator) if gradient is not None and gradient.any()}
    unreached = [name for name, _ in aggregator.named_parameters() if name not in reached]
    if unreached:
        raise BrokenPromise.of(f"no gradient for {', '.join(unreached)}", "one for every parameter")


def same_seed_same_output(subject: AggregatorSubject) -> None:
    """All that is random comes from torch's global seed: weights, dropout, sampling."""
    first, second = (train_step(subject.make(seed=3), subject.bag(), seed=4) for _ in range(2))
    equal(second, first, "from the same seed once more")


def evaluation_deterministic(subject: AggregatorSubject) -> None:
    """In evaluation the same bag gives the same output, and attention does not change it."""
    aggregator, bag = subject.make(), subject.bag()
    with torch.no_grad():
        first = aggregator(bag)
        aggregator.attention(bag)
        torch.rand(1)
        equal(aggregator(bag), first, "for the same bag once more")


def patch_order(subject: AggregatorSubject) -> None:
    """The order of a magnification's patches does not matter, or ``order_matters = True`` says that it does."""
    aggregator, bag = subject.make(), subject.bag()
    with torch.no_grad():
        first, second = aggregator(bag), aggregator(shuffled(bag))
    same = torch.allclose(first, second, rtol=ROUNDING, atol=ROUNDING)
    if not same and not aggregator.order_matters:
        expected = f"{shown(first)}, or order_matters = True"
        raise BrokenPromise.of(f"{shown(second)} with the patches in another order", expected)
    if same and aggregator.order_matters:
        raise BrokenPromise.of("the same output with the patches in another order", "order_matters = False")


def no_batch_norm(subject: AggregatorSubject) -> None:
    """No layer keeps statistics of the bags that it saw: a bag may be seen twice in a step."""
    aggregator = subject.make()
    batch_norms = [name for name, module in aggregator.named_modules() if isinstance(module, _BatchNorm)]
    if batch_norms:
        raise BrokenPromise.of(f"batch norm in {', '.join(batch_norms)}", "LayerNorm or none")
    before = {name: value.clone() for name, value in aggregator.state_dict().items()}
    train_step(aggregator, subject.bag())
    same_state(aggregator.state_dict(), before, "after a forward pass in training mode")


def state_round_trip(subject: AggregatorSubject) -> None:
    """A model saved to a safetensors file and loaded into a new one gives the same output."""
    saved, new, bag = subject.make(seed=1), subject.make(seed=2), subject.bag()
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "model.safetensors", saved.state_dict(), {})
        state, _ = load_tensors(Path(folder) / "model.safetensors")
    new.load_state_dict(state)
    with torch.no_grad():
        equal(new(bag), saved(bag), "from a model that was saved and loaded")


def float16_under_autocast(subject: AggregatorSubject) -> None:
    """Features in float16 under bfloat16 autocast give finite outputs and gradients."""
    bag = subject.bag().to("cpu", torch.float16)
    aggregator = subject.make()
    with torch.autocast("cpu", torch.bfloat16):
        well_shaped(aggregator(bag), 4, "float16 features under autocast")
        aggregator.train()
        output = aggregator(bag)
    torch.autograd.backward(output.float().square().sum())
    for parameter, gradient in _gradients(aggregator):
        if gradient is not None:
            finite(gradient, f"the gradient of {parameter} under autocast")


def attention_is_a_distribution(subject: AggregatorSubject) -> None:
    """Attention has one weight for each patch of a magnification, none negative, with sum 1; or there is none."""
    aggregator = subject.make()
    for n in (1, SIZES["a prime number"]):
        bag = subject.bag(n)
        for magnification, weights in aggregator.attention(bag).items():
            what = f"attention at {magnification}x, {_sizes(bag)}"
            if magnification not in bag.sizes or weights.shape != (bag.sizes[magnification],):
                expected = f"one weight for each patch of {_sizes(bag)}"
                raise BrokenPromise.of(f"shape {tuple(weights.shape)} for {what}", expected)
            finite(weights, what)
            if bool((weights < 0).any()):
                raise BrokenPromise.of(f"{shown(weights)} for {what}", "no negative weight")
            if abs(float(weights.double().sum()) - 1) > ROUNDING:
                raise BrokenPromise.of(f"a sum of {float(weights.double().sum()):.6g} for {what}", "1")


def _gradients(aggregator: Aggregator) -> Iterator[tuple[str, Tensor | None]]:
    return ((name, parameter.grad) for name, parameter in aggregator.named_parameters())


def _sizes(bag: Bag) -> str:
    return ", ".join(f"{n} at {magnification}x" for magnification, n in bag.sizes.items())


PROMISES: tuple[Callable[[AggregatorSubject], None], ...] = (
    documented,
    config_round_trip,
    any_number_of_patches,
    any_number_of_outputs,
    missing_magnification,
    works_without_grid,
    gradients_reach_all,
    same_seed_same_output,
    evaluation_deterministic,
    patch_order,
    no_batch_norm,
    state_round_trip,
    float16_under_autocast,
    attention_is_a_distribution,
)
