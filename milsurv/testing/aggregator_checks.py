"""Checks of aggregators (``milsurv.Aggregator``)."""

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
from milsurv.testing.contract import (
    ContractError,
    Subject,
    config_round_trip,
    documented,
    equal,
    expect,
    finite,
    same_state,
    shown,
)
from milsurv.training.model import load_tensors, save_tensors

MAGNIFICATIONS = (20, 10, 5)
DIM = 32
SIZES = {"one patch": 1, "two patches": 2, "an odd number": 9, "a prime number": 101, "5,000 patches": 5000}
"""Patches at the finest magnification."""
BATCH_SIZES = (1, 9, 101, 2, 60)
"""Patches at the finest magnification of the bags of a batch."""
BATCH_ROUNDING = 1e-6
"""Relative and absolute tolerance for bags that are computed at once."""
FITTED_CASES = 12
ROUNDING = 1e-4
"""Relative and absolute tolerance for the order of float32 sums."""


@dataclass(frozen=True)
class AggregatorSubject(Subject):
    """An aggregator to check."""

    def make(
        self, *, n_outputs: int = 4, seed: int = 0, magnifications: Sequence[int] = MAGNIFICATIONS
    ) -> Aggregator:
        """A new instance in evaluation mode, with weights drawn from ``seed``."""
        torch.manual_seed(seed)
        aggregator: Aggregator = self.plugin_class(self.config, dict.fromkeys(magnifications, DIM), n_outputs)
        return aggregator.eval()

    def bag(self, n: int = SIZES["a prime number"], seed: int = 0) -> Bag:
        return make_bag(n, magnifications=MAGNIFICATIONS, dim=DIM, seed=seed)


def train_step(aggregator: Aggregator, bag: Bag, seed: int = 0) -> Tensor:
    """Forward and backward pass in training mode, with dropout drawn from ``seed``; returns the outputs."""
    torch.manual_seed(seed)
    output: Tensor = aggregator.train()(bag)
    _backward(aggregator, output)
    return output.detach()


def _backward(aggregator: Aggregator, output: Tensor) -> None:
    """Backward pass, if there is anything to train."""
    if any(True for _ in aggregator.parameters()):
        torch.autograd.backward(output.float().square().sum())


def well_shaped(output: Tensor, n_outputs: int, what: str) -> None:
    """Raise ContractError unless the output is ``n_outputs`` finite floating-point numbers."""
    expect(
        output.shape == (n_outputs,) and output.is_floating_point(),
        f"{output.dtype} of shape {tuple(output.shape)} for {what}",
        f"floating point of shape ({n_outputs},)",
    )
    finite(output, what)


def any_number_of_patches(subject: AggregatorSubject) -> None:
    """Bags of 1, 2, 9, 101 and 5,000 patches give finite outputs in training and evaluation."""
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
    """The output has ``n_outputs`` numbers, including ``n_outputs = 1``."""
    for n_outputs in (1, 2, 7):
        well_shaped(subject.make(n_outputs=n_outputs)(subject.bag()), n_outputs, f"n_outputs={n_outputs}")


def missing_magnification(subject: AggregatorSubject) -> None:
    """Without one of the magnifications it works, or raises a MilsurvError that names the missing one."""
    for missing in MAGNIFICATIONS:
        rest = [m for m in MAGNIFICATIONS if m != missing]
        try:
            aggregator = subject.make(magnifications=rest)
            output = aggregator(make_bag(9, magnifications=rest, dim=DIM))
        except MilsurvError as refusal:
            expect(f"{missing}x" in str(refusal), f"the error '{refusal}'", f"one that names {missing}x")
        except Exception as error:
            found = f"{type(error).__name__}: {error} without {missing}x"
            raise ContractError(f"found {found}; expected outputs, or a milsurv.MilsurvError") from error
        else:
            well_shaped(output, 4, f"features without {missing}x")


def works_without_grid(subject: AggregatorSubject) -> None:
    """A bag without coords and grid, as of imported features, works unless ``requires_grid = True``."""
    aggregator = subject.make()
    if aggregator.requires_grid:
        return
    try:
        output = aggregator(Bag(subject.bag().features))
    except (TypeError, AttributeError, MilsurvError) as error:
        found = f"{type(error).__name__}: {error} for a bag without coords and grid"
        raise ContractError(f"found {found}; expected outputs, or requires_grid = True") from error
    well_shaped(output, 4, "a bag without coords and grid")


def gradients_reach_all(subject: AggregatorSubject) -> None:
    """Over three bags, every parameter has a gradient that is not zero."""
    reached: set[str] = set()
    aggregator = subject.make()
    for seed in range(3):
        aggregator.zero_grad()
        train_step(aggregator, subject.bag(seed=seed), seed)
        reached |= {n for n, gradient in _gradients(aggregator) if gradient is not None and gradient.any()}
    unreached = [name for name, _ in aggregator.named_parameters() if name not in reached]
    expect(not unreached, f"no gradient for {', '.join(unreached)}", "one for every parameter")


def same_seed_same_output(subject: AggregatorSubject) -> None:
    """All randomness (weights, dropout, sampling) comes from torch's global seed."""
    first, second = (train_step(subject.make(seed=3), subject.bag(), seed=4) for _ in range(2))
    equal(second, first, "from the same seed again")


def evaluation_deterministic(subject: AggregatorSubject) -> None:
    """In evaluation mode the same bag gives the same output, also after calling ``attention``."""
    aggregator, bag = subject.make(), subject.bag()
    with torch.no_grad():
        first = aggregator(bag)
        aggregator.attention(bag)
        torch.rand(1)
        equal(aggregator(bag), first, "for the same bag again")


def patch_order(subject: AggregatorSubject) -> None:
    """The output does not depend on the order of the patches, unless ``order_matters = True``."""
    aggregator, bag = subject.make(), subject.bag()
    with torch.no_grad():
        first, second = aggregator(bag), aggregator(shuffled(bag))
    depends = not torch.allclose(first, second, rtol=ROUNDING, atol=ROUNDING)
    expect(
        depends == aggregator.order_matters,
        f"{shown(second)} with the patches in another order, {shown(first)} before",
        f"order_matters = {depends}, or {'the same output' if depends else 'another one'}",
    )


def batch_equals_single_bags(subject: AggregatorSubject) -> None:
    """In evaluation mode, ``forward_batch`` gives the output of each bag alone, for bags of different sizes."""
    aggregator = subject.make()
    bags = [subject.bag(n, seed=n) for n in BATCH_SIZES]
    with torch.no_grad():
        together = aggregator.forward_batch(bags)
        alone = torch.stack([aggregator(bag) for bag in bags])
    close = together.shape == alone.shape and torch.allclose(
        together, alone, rtol=BATCH_ROUNDING, atol=BATCH_ROUNDING
    )
    expect(close, f"{shown(together)} for {len(bags)} bags at once", f"{shown(alone)}, as for each alone")


def no_batch_norm(subject: AggregatorSubject) -> None:
    """No layer updates statistics in the forward pass, as batch norm does: a bag may be seen twice in a step."""
    aggregator = subject.make()
    batch_norms = [name for name, module in aggregator.named_modules() if isinstance(module, _BatchNorm)]
    expect(not batch_norms, f"batch norm in {', '.join(batch_norms)}", "LayerNorm or none")
    before = {name: value.clone() for name, value in aggregator.state_dict().items()}
    train_step(aggregator, subject.bag())
    same_state(aggregator.state_dict(), before, "after a forward pass in training mode")


def state_round_trip(subject: AggregatorSubject) -> None:
    """Saved to a safetensors file and loaded into a new instance, it gives the same output."""
    saved, new, bag = subject.make(seed=1), subject.make(seed=2), subject.bag()
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "model.safetensors", saved.state_dict(), {})
        state, _ = load_tensors(Path(folder) / "model.safetensors")
    new.load_state_dict(state)
    with torch.no_grad():
        equal(new(bag), saved(bag), "from a model that was saved and loaded")


def fit_is_in_the_state(subject: AggregatorSubject) -> None:
    """After ``fit``, the outputs are finite, and the same from a new instance that loads the state."""
    time = torch.arange(1, FITTED_CASES + 1, dtype=torch.float32)
    event = (torch.arange(FITTED_CASES) % 3 > 0).float()
    fitted, new, bag = subject.make(seed=1), subject.make(seed=2), subject.bag()
    torch.manual_seed(0)
    cases = ([subject.bag(9, seed=2 * i), subject.bag(2, seed=2 * i + 1)] for i in range(FITTED_CASES))
    with torch.no_grad():
        fitted.fit(cases, time, event, _squared_error)
        new.load_state_dict(fitted.state_dict())
        well_shaped(fitted(bag), 4, "a bag after fit")
        equal(new(bag), fitted(bag), "from a new instance with the state after fit")


def _squared_error(outputs: Tensor, time: Tensor, event: Tensor) -> Tensor:  # noqa: ARG001
    return (outputs.mean(1) - event).square().mean()


def float16_under_autocast(subject: AggregatorSubject) -> None:
    """Float16 features under bfloat16 autocast give finite outputs and gradients."""
    bag = subject.bag().to("cpu", torch.float16)
    aggregator = subject.make()
    with torch.autocast("cpu", torch.bfloat16):
        well_shaped(aggregator(bag), 4, "float16 features under autocast")
        aggregator.train()
        output = aggregator(bag)
    _backward(aggregator, output)
    for parameter, gradient in _gradients(aggregator):
        if gradient is not None:
            finite(gradient, f"the gradient of {parameter} under autocast")


def attention_is_a_distribution(subject: AggregatorSubject) -> None:
    """Attention is empty, or has non-negative weights for the patches of a magnification that sum to 1."""
    aggregator = subject.make()
    for n in (1, SIZES["a prime number"]):
        bag = subject.bag(n)
        for magnification, weights in aggregator.attention(bag).items():
            what = f"attention at {magnification}x, {_sizes(bag)}"
            expect(
                weights.shape == (bag.sizes.get(magnification),),
                f"shape {tuple(weights.shape)} for {what}",
                f"one weight for each patch of {_sizes(bag)}",
            )
            finite(weights, what)
            expect(bool((weights >= 0).all()), f"{shown(weights)} for {what}", "no negative weight")
            total = float(weights.double().sum())
            expect(abs(total - 1) <= ROUNDING, f"a sum of {total:.6g} for {what}", "1")


def _gradients(aggregator: Aggregator) -> Iterator[tuple[str, Tensor | None]]:
    return ((name, parameter.grad) for name, parameter in aggregator.named_parameters())


def _sizes(bag: Bag) -> str:
    return ", ".join(f"{n} at {magnification}x" for magnification, n in bag.sizes.items())


CHECKS: tuple[Callable[[AggregatorSubject], None], ...] = (
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
    batch_equals_single_bags,
    no_batch_norm,
    state_round_trip,
    fit_is_in_the_state,
    float16_under_autocast,
    attention_is_a_distribution,
)
