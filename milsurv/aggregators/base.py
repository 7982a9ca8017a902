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
"""Of a layer of the built-in aggregators, as no model has it: a larger number is a slip of the pen."""


class Aggregator(nn.Module, ABC):
    """Makes one output vector of a bag.

    A subclass defines its own ``Config``, takes ``(config, feature_dims, n_outputs)`` and implements
    :meth:`forward`. No layer may keep statistics of what it saw (batch norm): a bag may be seen twice.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    requires_grid: bool = False
    """True when ``bag.grid`` is needed (it may depend on the config); features without one are then refused."""
    order_matters: bool = False
    """True when the output depends on the order of the patches (it may depend on the config)."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig, feature_dims: dict[int, int], n_outputs: int):
        """``feature_dims``: magnification -> width of its features; MilsurvError when they do not serve."""
        super().__init__()

    @abstractmethod
    def forward(self, bag: Bag) -> Tensor:
        """``(n_outputs,)`` for a bag with any number of patches from 1 up."""

    def attention(self, bag: Bag) -> dict[int, Tensor]:  # noqa: ARG002
        """Magnification -> ``(n,)`` non-negative weights that sum to 1; empty when there is no attention."""
        return {}


def require_magnification(feature_dims: dict[int, int], magnification: int, aggregator: str) -> int:
    """The width of the features at ``magnification``; MilsurvError naming what there is when it is missing."""
    if magnification not in feature_dims:
        have = ", ".join(f"{m}x" for m in sorted(feature_dims, reverse=True))
        raise MilsurvError(
            f"aggregator '{aggregator}' needs features at {magnification}x, but there are only {have}; "
            f"add {magnification} to tiling.magnifications or change the aggregator's settings"
        )
    return feature_dims[magnification]
