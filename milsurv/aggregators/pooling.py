"""Mean and max pooling: baselines without attention."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import Aggregator, choose_magnifications
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig


class PoolingConfig(PluginConfig):
    """Settings of mean and max pooling."""

    magnification: PositiveInt | Literal["all"] = "all"
    """Magnification of the patches. ``all``: the pooled features of all magnifications side by side."""


class _Pool(Aggregator):
    """Pools the features of the patches, followed by a linear layer."""

    Config = PoolingConfig
    name: str

    def __init__(self, config: PoolingConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnifications = choose_magnifications(feature_dims, config.magnification, self.name)
        self.head = nn.Linear(sum(feature_dims[m] for m in self.magnifications), n_outputs)

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """``(dim,)`` for the ``(n, dim)`` features of the patches."""

    def forward(self, bag: Bag) -> Tensor:
        output: Tensor = self.head(
            torch.cat([self.pool(bag.features[m]).float() for m in self.magnifications])
        )
        return output


class MeanPool(_Pool):
    """The mean of the patch features through a linear layer."""

    name = "meanpool"

    def pool(self, features: Tensor) -> Tensor:
        return features.mean(dim=0)


class MaxPool(_Pool):
    """The maximum of each feature over the patches through a linear layer."""

    name = "maxpool"

    def pool(self, features: Tensor) -> Tensor:
        return features.amax(dim=0)
