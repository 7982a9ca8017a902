"""CrossFusion without convolutional fusion: an ablation of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milsurv.aggregators.blocks import initialize
from milsurv.aggregators.crossfusion import CrossFusionConfig, MultiScale
from milsurv.aggregators.layout import Layout


class CrossFusionConcat(MultiScale):
    """CrossFusion's ablation that concatenates the magnifications by feature (Soraki et al., MIDL 2026)."""

    Config = CrossFusionConfig
    name = "crossfusion_concat"

    def __init__(self, config: CrossFusionConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        dim = config.embed_dim
        self.concat = nn.Sequential(nn.Linear((1 + len(self.others)) * dim, dim), nn.LayerNorm(dim))
        self.apply(initialize)

    def fuse(self, grids: list[Tensor], layout: Layout) -> Tensor:  # noqa: ARG002
        fused: Tensor = self.concat(torch.cat(grids, dim=-1))
        return fused
