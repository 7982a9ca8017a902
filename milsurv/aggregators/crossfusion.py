"""CrossFusion, with cross-attention between magnifications, and two ablations of its paper."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import Aggregator, require_magnification, stacked
from milsurv.aggregators.blocks import (
    ClassTokenTransformer,
    ConvolutionMix,
    CrossAttention,
    CrossFusionBaseConfig,
    GridTransformer,
    Groups,
    MagnificationMix,
    initialize,
    projection,
    run_layer,
)
from milsurv.aggregators.layout import SQUARE, Layout, Squares, Windows, groups_of, neighbours
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
        self.batches = not self.requires_grid
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
        return self.forward_batch([bag])[0]

    def forward_batch(self, bags: Sequence[Bag]) -> Tensor:
        if len(bags) > 1 and not self.batches:
            return super().forward_batch(bags)
        layout, seen = self._squares(bags) if len(bags) > 1 else self._places(bags[0])
        output: Tensor = self.head(self.final(self._fused(self._tokens(bags), layout, seen), layout))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """Attention of the class token at the source; at the others, propagated through the cross-attention."""
        layout, seen = self._places(bag)
        tokens = self._tokens([bag])
        source = tokens[self.source]
        weights = {self.source: self.final.attention(self._fused(tokens, layout, seen), layout, len(source))}
        for m in self.others:
            cross_attention = cast(CrossAttention, self.cross_attentions[str(m)])
            weights[m] = cross_attention.carry(weights[self.source], source, tokens[m], seen[m])
        return weights

    def _squares(self, bags: Sequence[Bag]) -> tuple[Layout, dict[int, Groups | None]]:
        """Layout of the source patches of several bags, and the groups of patches of each bag."""
        device = bags[0].features[self.source].device
        groups = {m: groups_of([bag.sizes[m] for bag in bags], device) for m in (self.source, *self.others)}
        layout = Squares([bag.sizes[self.source] for bag in bags], device)
        return layout, {m: (groups[self.source], groups[m]) for m in self.others}

    def _places(self, bag: Bag) -> tuple[Layout, dict[int, Groups | None]]:
        """Layout of the source patches, and the patches of the others that they attend to (None: all)."""
        if not self.requires_grid:
            return SQUARE, dict.fromkeys(self.others)
        if bag.grid is None:
            raise MilsurvError(
                f"aggregator '{self.name}' with attention 'local' needs the grid of the patches, which these features "
                "do not have; extract them with milsurv, or set aggregator.attention to dense"
            )
        source = bag.grid[self.source]
        each = torch.arange(len(source), device=source.device).unsqueeze(1)
        covered = {m: neighbours(source, bag.grid[m], self.source, m) for m in self.others}
        return Windows(source), {m: (each, patches) for m, patches in covered.items()}

    def _tokens(self, bags: Sequence[Bag]) -> dict[int, Tensor]:
        return {m: self.projections[str(m)](stacked(bags, m)) for m in (self.source, *self.others)}

    def _fused(self, tokens: dict[int, Tensor], layout: Layout, seen: dict[int, Groups | None]) -> Tensor:
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
    batches = True

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
        return self.forward_batch([bag])[0]

    def forward_batch(self, bags: Sequence[Bag]) -> Tensor:
        features = stacked(bags, self.magnification)
        sizes = [bag.sizes[self.magnification] for bag in bags]
        layout = Squares(sizes, features.device) if len(bags) > 1 else SQUARE
        output: Tensor = self.head(self.final(self._mixed(features, layout), layout))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """Attention of the class token, mean over heads and layers."""
        features = bag.features[self.magnification]
        weights = self.final.attention(self._mixed(features, SQUARE), SQUARE, len(features))
        return {self.magnification: weights}

    def _mixed(self, features: Tensor, layout: Layout) -> Tensor:
        mixed: Tensor = self.convolution_mix(self.transformer(self.projection(features), layout), layout)
        return mixed
