"""The contract of an aggregator: one bag in, one output vector out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig

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
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig, feature_dims: dict[int, int], n_outputs: int):
        """``feature_dims``: magnification -> size of its features. Raises MilsurvError if they are unsuitable."""
        super().__init__()

    @abstractmethod
    def forward(self, bag: Bag) -> Tensor:
        """``(n_outputs,)`` for a bag of any number of patches, at least 1."""

    def attention(self, bag: Bag) -> dict[int, Tensor]:  # noqa: ARG002
        """Magnification -> ``(n,)`` non-negative weights that sum to 1; empty if there is no attention."""
        return {}


def require_magnification(feature_dims: dict[int, int], magnification: int, aggregator: str) -> int:
    """Size of the feature vectors at ``magnification``. Raises MilsurvError if the magnification is missing."""
    if magnification not in feature_dims:
        have = ", ".join(f"{m}x" for m in sorted(feature_dims, reverse=True))
        raise MilsurvError(
            f"aggregator '{aggregator}' needs features at {magnification}x, but only {have} are available; "
            f"add {magnification} to tiling.magnifications, or change the settings of the aggregator"
        )
    return feature_dims[magnification]
