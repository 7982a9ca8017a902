"""Patch-GCN: graph convolutions over the patches that touch, then gated attention pooling."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from milsurv import Aggregator, Bag, MilsurvError, PluginConfig, require_magnification
from milsurv_patchgcn.graph import GraphConvolution, ResidualConvolution, grid_edges


class PatchGCNConfig(PluginConfig):
    """Settings of Patch-GCN; the defaults are those of the released code."""

    magnification: PositiveInt = 20
    hidden_dim: PositiveInt = 128
    """Width of a patch in the graph; after it each patch has ``hidden_dim · (num_layers + 1)``."""
    num_layers: PositiveInt = 3
    """Graph convolutions, the first plain and the others residual."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """After the projections of patches and bag, and in both branches of the attention."""


class PatchGCN(Aggregator):
    """Patch-GCN (Chen et al., MICCAI 2021).

    The graph joins the patches of one magnification that touch on the grid. What goes into the graph and what comes
    out of each of its layers is concatenated, projected, pooled by gated attention and projected once more.
    """

    Config = PatchGCNConfig
    requires_grid = True

    def __init__(self, config: PatchGCNConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        hidden, dropout = config.hidden_dim, config.dropout
        feature_dim = require_magnification(feature_dims, config.magnification, "patchgcn")
        self.projection = _projection(feature_dim, hidden, dropout)
        residual = (ResidualConvolution(hidden) for _ in range(config.num_layers - 1))
        self.layers = nn.ModuleList([GraphConvolution(hidden), *residual])
        width = hidden * (config.num_layers + 1)
        self.patch_projection = _projection(width, width, dropout)
        self.value = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(width, 1)
        self.bag_projection = _projection(width, width, dropout)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, bag: Bag) -> Tensor:
        patches = self._patches(bag)
        output: Tensor = self.head(self.bag_projection(self._weights(patches) @ patches))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """The weights of the pooling; a patch's features hold those of its neighbourhood too."""
        return {self.magnification: self._weights(self._patches(bag))}

    def _patches(self, bag: Bag) -> Tensor:
        """The patches after the graph, ``(n, width)``. Raises MilsurvError without a grid."""
        if bag.grid is None or self.magnification not in bag.grid:
            raise MilsurvError(
                f"aggregator 'patchgcn' needs the grid of the {self.magnification}x patches, which these features "
                "lack; extract them with milsurv or take an aggregator that needs none"
            )
        edges = grid_edges(bag.grid[self.magnification])
        patches = self.projection(bag.features[self.magnification])
        outputs = [patches]
        for layer in self.layers:
            patches = layer(patches, edges)
            outputs.append(patches)
        projected: Tensor = self.patch_projection(torch.cat(outputs, dim=1))
        return projected

    def _weights(self, patches: Tensor) -> Tensor:
        """``(n, width)`` -> ``(n,)``, sum 1."""
        scores: Tensor = self.score(self.value(patches) * self.gate(patches))
        return scores.squeeze(1).softmax(dim=0)


def _projection(dim: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout))
