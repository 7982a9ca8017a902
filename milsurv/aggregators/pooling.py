"""Mean and max pooling: baselines without attention."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import Aggregator, require_magnification
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig


class PoolingConfig(PluginConfig):
    """Settings of mean and max pooling."""

    magnification: PositiveInt = 20
    """Magnification of the patches."""


class MeanPool(Aggregator):
    """The mean of the patch features through a linear layer."""

    Config = PoolingConfig

    def __init__(self, config: PoolingConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        feature_dim = require_magnification(feature_dims, config.magnification, "meanpool")
        self.head = nn.Linear(feature_dim, n_outputs)

    def forward(self, bag: Bag) -> Tensor:
        output: Tensor = self.head(bag.features[self.magnification].mean(dim=0))
        return output


class MaxPool(Aggregator):
    """The maximum of each feature over the patches through a linear layer."""

    Config = PoolingConfig

    def __init__(self, config: PoolingConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        feature_dim = require_magnification(feature_dims, config.magnification, "maxpool")
        self.head = nn.Linear(feature_dim, n_outputs)

    def forward(self, bag: Bag) -> Tensor:
        output: Tensor = self.head(bag.features[self.magnification].amax(dim=0))
        return output
