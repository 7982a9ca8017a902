"""CrossFusion, with cross-attention between magnifications, and two ablations of its paper."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import Aggregator, require_magnification
from milsurv.aggregators.blocks import (
    ClassTokenTransformer,
    ConvolutionMix,
    CrossAttention,
    CrossFusionBaseConfig,
    GridTransformer,
    MagnificationMix,
    initialize,
    projection,
    run_layer,
)
from milsurv.aggregators.layout import SQUARE, Layout, Windows, neighbours
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag


class CrossFusionConfig(CrossFusionBaseConfig):
    """Settings of CrossFusion."""

    source: PositiveInt = 10
    """Magnification whose patches attend to those of the others."""
    attention: Literal["dense", "local"] = "dense"
    """``dense``: the published model. ``local``: time and memory linear in the number of patches. A source patch
    attends only to the finer patches that it covers and the coarser one that contains it, self-attention is
    limited to windows of the grid, and convolutions follow the patches' positions in the slide. Requires a grid."""


class CrossFusionBase(Aggregator):
    """Base of CrossFusion and CrossFusionConcat: all magnifications on the grid of the source.

    The order of magnifications is the source, then the others from fine to coarse.
    """

    name: str

    def __init__(self, config: CrossFusionConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        require_magnification(feature_dims, config.source, self.name)
        self.source = config.source
        self.others = sorted(feature_dims.keys() - {config.source}, reverse=True)
        if not self.others:
            raise MilsurvError(
                f"aggregator '{self.name}' needs features at two or more magnifications, but only {config.source}x is "
                "available; add magnifications to tiling.magnifications, or use another aggregator"
            )
        self.requires_grid = config.attention == "local"
        self.order_matters = not self.requires_grid
        order = [self.source, *self.others]
        self.projections = nn.ModuleDict(
            {str(m): projection(feature_dims[m], config.embed_dim) for m in order}
        )
        self.cross_attentions = nn.ModuleDict({str(m): CrossAttention(config) for m in self.others})
        self.transformers = nn.ModuleDict({str(m): GridTransformer(config) for m in order})
        self.final = ClassTokenTransformer(config)
        self.head = nn.Linear(config.embed_dim, n_outputs)

    @abstractmethod
    def fuse(self, grids: list[Tensor], layout: Layout) -> Tensor:
        """One ``(n, dim)`` for each magnification, on the grid of the source -> ``(n, dim)``."""

    def forward(self, bag: Bag) -> Tensor:
        layout, seen = self._places(bag)
        output: Tensor = self.head(self.final(self._fused(self._tokens(bag), layout, seen), layout))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """Attention of the class token at the source; at the others, propagated through the cross-attention."""
        layout, seen = self._places(bag)
        tokens = self._tokens(bag)
        source = tokens[self.source]
        weights = {self.source: self.final.attention(self._fused(tokens, layout, seen), layout, len(source))}
        for m in self.others:
            cross_attention = cast(CrossAttention, self.cross_attentions[str(m)])
            weights[m] = cross_attention.carry(weights[self.source], source, tokens[m], seen[m])
        return weights

    def _places(self, bag: Bag) -> tuple[Layout, dict[int, Tensor | None]]:
        """Layout of the source patches, and the patches of the others that they attend to (None: all)."""
        if not self.requires_grid:
            return SQUARE, dict.fromkeys(self.others)
        if bag.grid is None:
            raise MilsurvError(
                f"aggregator '{self.name}' with attention 'local' needs the grid of the patches, which these features "
                "do not have; extract them with milsurv, or set aggregator.attention to dense"
            )
        source = bag.grid[self.source]
        return Windows(source), {m: neighbours(source, bag.grid[m], self.source, m) for m in self.others}

    def _tokens(self, bag: Bag) -> dict[int, Tensor]:
        return {m: self.projections[str(m)](bag.features[m]) for m in (self.source, *self.others)}

    def _fused(self, tokens: dict[int, Tensor], layout: Layout, seen: dict[int, Tensor | None]) -> Tensor:
        source = tokens[self.source]
        grids = [self.transformers[str(self.source)](source, layout)]
        for m in self.others:
            attended = run_layer(self.cross_attentions[str(m)], layout, source, tokens[m], seen[m])
            grids.append(self.transformers[str(m)](attended, layout))
        return self.fuse(grids, layout)


class CrossFusion(CrossFusionBase):
    """CrossFusion (Soraki et al., MIDL 2026, arXiv 2503.02064): the grids are fused by convolutions.

    The released model uses magnifications 20, 10 and 5, with source 10.
    """

    Config = CrossFusionConfig
    name = "crossfusion"

    def __init__(self, config: CrossFusionConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.scale_mix = MagnificationMix(1 + len(self.others))
        self.convolution_mix = ConvolutionMix(config)
        self.apply(initialize)

    def fuse(self, grids: list[Tensor], layout: Layout) -> Tensor:
        fused: Tensor = self.convolution_mix(self.scale_mix(grids), layout)
        return fused


class CrossFusionConcat(CrossFusionBase):
    """Ablation of CrossFusion that concatenates the features of the magnifications (Soraki et al., MIDL 2026)."""

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


class CrossFusionSingleConfig(CrossFusionBaseConfig):
    """Settings of CrossFusion on one magnification."""

    magnification: PositiveInt = 20
    """Magnification of the patches."""


class CrossFusionSingle(Aggregator):
    """Ablation of CrossFusion on one magnification, without cross-attention (Soraki et al., MIDL 2026)."""

    Config = CrossFusionSingleConfig
    order_matters = True

    def __init__(self, config: CrossFusionSingleConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        feature_dim = require_magnification(feature_dims, config.magnification, "crossfusion_single")
        self.projection = projection(feature_dim, config.embed_dim)
        self.transformer = GridTransformer(config)
        self.convolution_mix = ConvolutionMix(config)
        self.final = ClassTokenTransformer(config)
        self.head = nn.Linear(config.embed_dim, n_outputs)
        self.apply(initialize)

    def forward(self, bag: Bag) -> Tensor:
        output: Tensor = self.head(self.final(self._mixed(bag), SQUARE))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """Attention of the class token, mean over heads and layers."""
        n = len(bag.features[self.magnification])
        return {self.magnification: self.final.attention(self._mixed(bag), SQUARE, n)}

    def _mixed(self, bag: Bag) -> Tensor:
        tokens = self.projection(bag.features[self.magnification])
        mixed: Tensor = self.convolution_mix(self.transformer(tokens, SQUARE), SQUARE)
        return mixed
