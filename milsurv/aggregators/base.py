"""The contract of an aggregator: one bag in, one output vector out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(outputs (n, n_outputs), time (n,), event (n,))`` -> scalar, as :class:`milsurv.losses.base.Loss`."""
MAX_WIDTH = 2**16
"""Upper limit of layer sizes in the configuration; larger numbers are typing errors."""


class Aggregator(nn.Module, ABC):
    """Computes one output vector from a bag.

    A subclass defines its ``Config``, takes ``(config, feature_dims, n_outputs)`` and implements :meth:`forward`.
    Layers must not update statistics in the forward pass (batch norm), because a bag may be seen twice in a step.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    requires_grid: bool = False
    """Whether ``bag.grid`` is required (may depend on the config); features without a grid are then refused."""
    order_matters: bool = False
    """Whether the output depends on the order of the patches (may depend on the config)."""
    batches: bool = False
    """Whether :meth:`forward_batch` computes several small bags at once (may depend on the config)."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig, feature_dims: dict[int, int], n_outputs: int):
        """``feature_dims``: magnification -> size of its features. Raises MilsurvError if they are unsuitable."""
        super().__init__()

    @abstractmethod
    def forward(self, bag: Bag) -> Tensor:
        """``(n_outputs,)`` for a bag of any number of patches, at least 1."""

    def forward_batch(self, bags: Sequence[Bag]) -> Tensor:
        """``(len(bags), n_outputs)``: :meth:`forward` of each bag.

        An aggregator that sets :attr:`batches` computes them together: equal up to rounding in evaluation mode, and
        with random numbers of its own in training.
        """
        return torch.stack([self(bag) for bag in bags])

    def fit(self, cases: Iterable[Sequence[Bag]], time: Tensor, event: Tensor, loss: LossFunction) -> None:
        """Fit what is not trained by gradient descent, and keep it in buffers. Default: nothing.

        Called once before training. ``cases`` are the bags of each training case as :meth:`forward` gets them, and can
        be iterated once; ``time`` and ``event`` are ``(n,)``, in the same order. An aggregator without parameters is
        fitted here only. Raises MilsurvError if that is impossible.
        """

    def attention(self, bag: Bag) -> dict[int, Tensor]:  # noqa: ARG002
        """Magnification -> ``(n,)`` non-negative weights that sum to 1; empty if there is no attention."""
        return {}


def stacked(bags: Sequence[Bag], magnification: int) -> Tensor:
    """The features of several bags at a magnification, one bag after the other: ``(n, dim)``; float32 if several."""
    if len(bags) == 1:
        return bags[0].features[magnification]
    return torch.cat([bag.features[magnification].float() for bag in bags])


def bag_of_rows(bags: Sequence[Bag], magnification: int) -> Tensor:
    """The index of the bag of each row of :func:`stacked`: ``(n,)`` int64."""
    sizes = torch.tensor([bag.sizes[magnification] for bag in bags])
    index = torch.repeat_interleave(torch.arange(len(bags)), sizes)
    return index.to(bags[0].features[magnification].device)


def require_magnification(feature_dims: dict[int, int], magnification: int, aggregator: str) -> int:
    """Size of the feature vectors at ``magnification``. Raises MilsurvError if the magnification is missing."""
    if magnification not in feature_dims:
        have = ", ".join(f"{m}x" for m in sorted(feature_dims, reverse=True))
        raise MilsurvError(
            f"aggregator '{aggregator}' needs features at {magnification}x, but only {have} are available; "
            f"add {magnification} to tiling.magnifications, or change the settings of the aggregator"
        )
    return feature_dims[magnification]


def choose_magnifications(
    feature_dims: dict[int, int], magnification: int | Literal["all"], aggregator: str
) -> list[int]:
    """The magnifications that an aggregator uses, the finest first. Raises MilsurvError if the one is missing."""
    if magnification == "all":
        return sorted(feature_dims, reverse=True)
    require_magnification(feature_dims, magnification, aggregator)
    return [magnification]
