"""CrossFusion: cross-attention between magnifications, fused by convolutions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import MOST_WIDE, Aggregator, require_magnification
from milsurv.aggregators.blocks import (
    ClassTokenTransformer,
    ConvolutionMix,
    CrossAttention,
    GridTransformer,
    ScaleMix,
    Width,
    initialize,
    projection,
    run_layer,
)
from milsurv.aggregators.layout import SQUARE, Layout, Windows, neighbours
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig


class WidthConfig(PluginConfig):
    """Sizes and dropouts of the CrossFusion models; the defaults are the released settings."""

    embed_dim: int = Field(default=512, ge=2, le=MOST_WIDE, multiple_of=2)
    """Embedding size."""
    num_heads: int = Field(default=4, ge=1, le=MOST_WIDE)
    """Attention heads; must divide ``embed_dim``."""
    num_layers: int = Field(default=1, ge=1, le=1000)
    """Layers before and after each position encoding."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout in feed-forward and convolutional layers."""
    attention_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on self-attention weights; cross-attention has none."""
    attention_dropout_in_eval: bool = False
    """Keep attention dropout in evaluation, as the released code does."""

    @property
    def width(self) -> Width:
        return Width(
            self.embed_dim,
            self.num_heads,
            self.num_layers,
            self.dropout,
            self.attention_dropout,
            self.attention_dropout_in_eval,
        )


class CrossFusionConfig(WidthConfig):
    """Settings of CrossFusion."""

    source: PositiveInt = 10
    """Magnification whose patches attend to those of the others."""
    attention: Literal["dense", "local"] = "dense"
    """``dense``: the published model. ``local``: time and memory linear in the number of patches. A source patch
    attends only to the finer patches that it covers and the coarser one that contains it, self-attention is
    limited to windows of the grid, and convolutions follow the patches' positions in the slide. Requires a grid."""


class MultiScale(Aggregator):
    """What CrossFusion and its concatenating ablation share: all magnifications on the source's grid.

    Magnifications are taken in the order source, then the others from fine to coarse.
    """

    name: str

    def __init__(self, config: CrossFusionConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        require_magnification(feature_dims, config.source, self.name)
        self.source = config.source
        self.others = sorted(feature_dims.keys() - {config.source}, reverse=True)
        if not self.others:
            raise MilsurvError(
                f"aggregator '{self.name}' needs features at two magnifications or more, but there are only "
                f"{config.source}x; add magnifications to tiling.magnifications or take another aggregator"
            )
        self.requires_grid = config.attention == "local"
        self.order_matters = not self.requires_grid
        width = config.width
        order = [self.source, *self.others]
        self.projections = nn.ModuleDict({str(m): projection(feature_dims[m], width.dim) for m in order})
        self.cross_attentions = nn.ModuleDict({str(m): CrossAttention(width) for m in self.others})
        self.transformers = nn.ModuleDict({str(m): GridTransformer(width) for m in order})
        self.final = ClassTokenTransformer(width)
        self.head = nn.Linear(width.dim, n_outputs)

    @abstractmethod
    def fuse(self, grids: list[Tensor], layout: Layout) -> Tensor:
        """Each magnification's ``(n, dim)`` on the source's grid -> ``(n, dim)``."""

    def forward(self, bag: Bag) -> Tensor:
        layout, seen = self._places(bag)
        output: Tensor = self.head(self.final(self._fused(self._tokens(bag), layout, seen), layout))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """At the source the class token's attention, at the others that carried through the cross-attention."""
        layout, seen = self._places(bag)
        tokens = self._tokens(bag)
        source = tokens[self.source]
        weights = {self.source: self.final.attention(self._fused(tokens, layout, seen), layout, len(source))}
        for m in self.others:
            cross_attention = cast(CrossAttention, self.cross_attentions[str(m)])
            weights[m] = cross_attention.carry(weights[self.source], source, tokens[m], seen[m])
        return weights

    def _places(self, bag: Bag) -> tuple[Layout, dict[int, Tensor | None]]:
        """Where the source patches lie, and at each other magnification the patches that they see (None: all)."""
        if not self.requires_grid:
            return SQUARE, dict.fromkeys(self.others)
        if bag.grid is None:
            raise MilsurvError(
                f"aggregator '{self.name}' with attention 'local' needs the patches' grid, which these features "
                "lack; extract them with milsurv or set aggregator.attention to dense"
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


class CrossFusion(MultiScale):
    """CrossFusion (Soraki et al., MIDL 2026, arXiv 2503.02064): the grids are fused by convolutions.

    The released model has magnifications 20, 10 and 5 with source 10.
    """

    Config = CrossFusionConfig
    name = "crossfusion"

    def __init__(self, config: CrossFusionConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.scale_mix = ScaleMix(1 + len(self.others))
        self.convolution_mix = ConvolutionMix(config.width)
        self.apply(initialize)

    def fuse(self, grids: list[Tensor], layout: Layout) -> Tensor:
        fused: Tensor = self.convolution_mix(self.scale_mix(grids), layout)
        return fused
