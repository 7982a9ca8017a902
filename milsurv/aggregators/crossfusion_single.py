"""CrossFusion on one magnification: an ablation of the paper."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import Aggregator, require_magnification
from milsurv.aggregators.blocks import (
    ClassTokenTransformer,
    ConvolutionMix,
    GridTransformer,
    initialize,
    projection,
)
from milsurv.aggregators.crossfusion import WidthConfig
from milsurv.aggregators.layout import SQUARE
from milsurv.features.bag import Bag


class CrossFusionSingleConfig(WidthConfig):
    """Settings of CrossFusion on one magnification."""

    magnification: PositiveInt = 20
    """Magnification of the patches."""


class CrossFusionSingle(Aggregator):
    """CrossFusion's ablation on one magnification, without cross-attention (Soraki et al., MIDL 2026)."""

    Config = CrossFusionSingleConfig
    order_matters = True

    def __init__(self, config: CrossFusionSingleConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        width = config.width
        feature_dim = require_magnification(feature_dims, config.magnification, "crossfusion_single")
        self.projection = projection(feature_dim, width.dim)
        self.transformer = GridTransformer(width)
        self.convolution_mix = ConvolutionMix(width)
        self.final = ClassTokenTransformer(width)
        self.head = nn.Linear(width.dim, n_outputs)
        self.apply(initialize)

    def forward(self, bag: Bag) -> Tensor:
        output: Tensor = self.head(self.final(self._mixed(bag), SQUARE))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """The final class token's attention, mean over heads and layers."""
        n = len(bag.features[self.magnification])
        return {self.magnification: self.final.attention(self._mixed(bag), SQUARE, n)}

    def _mixed(self, bag: Bag) -> Tensor:
        tokens = self.projection(bag.features[self.magnification])
        mixed: Tensor = self.convolution_mix(self.transformer(tokens, SQUARE), SQUARE)
        return mixed
