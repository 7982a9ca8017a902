"""Building blocks of CrossFusion and its ablations.

Tokens are ``(n, dim)``, without a batch dimension: those of several bags follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from milsurv.aggregators.attention import Dropout, MultiHeadAttention
from milsurv.aggregators.base import MAX_WIDTH
from milsurv.aggregators.layout import Layout
from milsurv.plugin.base import PluginConfig

Groups = tuple[Tensor, Tensor]
"""Rows of the queries ``(groups, a)`` and of the context ``(groups, b)`` of each group, padded with -1."""


class CrossFusionBaseConfig(PluginConfig):
    """Sizes and dropout rates of the CrossFusion models; the defaults are the released settings."""

    embed_dim: int = Field(default=512, ge=2, le=MAX_WIDTH, multiple_of=2)
    """Embedding size."""
    num_heads: int = Field(default=4, ge=1, le=MAX_WIDTH)
    """Attention heads; must divide ``embed_dim``."""
    num_layers: int = Field(default=1, ge=1, le=1000)
    """Layers before and after each position encoding."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout in feed-forward and convolutional layers."""
    attention_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on self-attention weights; cross-attention has none."""
    attention_dropout_in_eval: bool = False
    """Keep attention dropout in evaluation, as the released code does."""


def projection(feature_dim: int, dim: int) -> nn.Module:
    """Features to tokens: Linear and LayerNorm, or the identity if the sizes are equal."""
    if feature_dim == dim:
        return Unprojected()
    return nn.Sequential(nn.Linear(feature_dim, dim), nn.LayerNorm(dim))


class Unprojected(nn.Module):
    """Features as tokens; 16-bit features become float32, because autocast does not mix float16 and bfloat16."""

    def forward(self, features: Tensor) -> Tensor:
        """``(n, dim)`` -> ``(n, dim)``."""
        return features.float() if features.itemsize == 2 else features


def run_layer(layer: nn.Module, layout: Layout, *inputs: object) -> Tensor:
    """Output of the layer; its activations are recomputed in the backward pass if the layout requires it."""
    if layout.recompute and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(layer, *inputs, use_reentrant=False))
    return cast(Tensor, layer(*inputs))


class FeedForward(nn.Sequential):
    """Linear d→2d, GELU, dropout, Linear 2d→d, dropout."""

    def __init__(self, dim: int, dropout: float):
        layers = (nn.Linear(dim, 2 * dim), nn.GELU(), Dropout(dropout), nn.Linear(2 * dim, dim))
        super().__init__(*layers, Dropout(dropout))


class CrossAttention(nn.Module):
    """Source tokens attend to the tokens of another magnification.

    A learned embedding is added to the queries and keys of the attention, but not to the residual connection.
    """

    def __init__(self, config: CrossFusionBaseConfig):
        super().__init__()
        self.scale_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.embed_dim), std=0.02))
        self.attention = MultiHeadAttention(config.embed_dim, config.num_heads)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.feed_forward = FeedForward(config.embed_dim, config.dropout)

    def forward(self, source: Tensor, context: Tensor, groups: Groups | None = None) -> Tensor:
        """``(n, dim)``, ``(m, dim)`` -> ``(n, dim)``; with ``groups``, attention is limited to them."""
        queries, keys = source + self.scale_embedding, context + self.scale_embedding
        attend = self.attention if groups is None else self.attention.grouped
        tokens: Tensor = self.norm(source + attend(queries, keys, *(groups or ())))
        return tokens + cast(Tensor, self.feed_forward(tokens))

    def carry(self, weights: Tensor, source: Tensor, context: Tensor, groups: Groups | None) -> Tensor:
        """Weights of the source tokens ``(n,)`` propagated through the attention to those of the context ``(m,)``.

        ``groups`` have one source token each.
        """
        queries, keys = source + self.scale_embedding, context + self.scale_embedding
        if groups is None:
            return self.attention.carry(weights, queries, keys)
        return self.attention.carry_grouped(weights, queries, keys, groups[1])


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each added to the *normalised* tokens, as in the released models."""

    def __init__(self, config: CrossFusionBaseConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim)
        self.attention = MultiHeadAttention(
            config.embed_dim, config.num_heads, config.attention_dropout, config.attention_dropout_in_eval
        )
        self.norm2 = nn.LayerNorm(config.embed_dim)
        self.feed_forward = FeedForward(config.embed_dim, config.dropout)

    def forward(self, tokens: Tensor, layout: Layout, class_token: bool = False) -> Tensor:
        """``(n, dim)`` -> ``(n, dim)``."""
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + layout.self_attention(self.attention, tokens, class_token))
        return tokens + cast(Tensor, self.feed_forward(tokens))

    def first_token_weights(self, tokens: Tensor) -> Tensor:
        """Attention of the first token to all tokens, mean over heads: ``(n,)``."""
        tokens = self.norm1(tokens)
        return self.attention.carry(tokens.new_ones(1), tokens[:1], tokens)


class SummedConvolutions(nn.Module):
    """The sum of convolutions of several odd sizes over the tokens as an image.

    Each is a grouped convolution with ``dim_out`` groups. They are computed as one depthwise convolution, whose kernel
    is the sum of all kernels, centred in the largest, followed by a sum over each group: several times faster on a CPU.
    """

    def __init__(self, dim_in: int, dim_out: int, sizes: Sequence[int]):
        super().__init__()
        self.largest = max(sizes)
        self.parts = nn.ModuleList(nn.Conv2d(dim_in, dim_out, size, groups=dim_out) for size in sizes)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """``(n, dim_in)`` -> ``(n, dim_out)``."""
        parts = [cast(nn.Conv2d, part) for part in self.parts]
        kernel = torch.stack(
            [F.pad(p.weight, [(self.largest - p.kernel_size[0]) // 2] * 4) for p in parts]
        ).sum(0)
        # Not stacked: the gradients of a stack are views of one tensor, and would accumulate into each other.
        bias = reduce(torch.add, [cast(Tensor, p.bias) for p in parts])
        dim = tokens.shape[-1]
        depthwise = kernel.view(dim, 1, self.largest, self.largest)
        image = F.conv2d(layout.to_image(tokens), depthwise, padding=self.largest // 2, groups=dim)
        summed = image.unflatten(1, (len(bias), -1)).sum(dim=2)
        return layout.to_tokens(summed) + bias


class PositionEncoding(nn.Module):
    """PPEG (Shao et al., NeurIPS 2021): tokens plus depthwise 7×7, 5×5 and 3×3 convolutions of their grid."""

    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = SummedConvolutions(dim, dim, sizes=(7, 5, 3))

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """``(n, dim)`` -> ``(n, dim)``."""
        return tokens + cast(Tensor, self.depthwise(tokens, layout))


def fold_padding(weights: Tensor, n: int) -> Tensor:
    """Weights of the padded tokens -> of the n tokens: the weight of a copy is added to its original; sum 1."""
    folded = weights[:n].clone()
    folded[: len(weights) - n] += weights[n:]
    return folded / folded.sum()


class GridTransformer(nn.Module):
    """Transformer layers, a position encoding on the grid, more transformer layers, LayerNorm."""

    def __init__(self, config: CrossFusionBaseConfig):
        super().__init__()
        self.before = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.position = PositionEncoding(config.embed_dim)
        self.after = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """``(n, dim)`` -> the padded tokens, ``(⌈√n⌉², dim)`` for a :class:`Square`."""
        tokens = layout.pad(tokens)
        for layer in self.before:
            tokens = run_layer(layer, layout, tokens, layout)
        tokens = self.position(tokens, layout)
        for layer in self.after:
            tokens = run_layer(layer, layout, tokens, layout)
        return cast(Tensor, self.norm(tokens))


class ClassTokenTransformer(nn.Module):
    """The final transformer: a class token, then the padded tokens; only the latter get a position encoding."""

    def __init__(self, config: CrossFusionBaseConfig):
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, config.embed_dim).normal_(std=1e-6))
        self.before = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.position = PositionEncoding(config.embed_dim)
        self.after = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, tokens: Tensor, layout: Layout, weights: list[Tensor] | None = None) -> Tensor:
        """``(n, dim)`` -> the class token of each bag, ``(bags, dim)``.

        The attention of the class token to itself and the tokens of its only bag is appended to ``weights``, for each
        layer.
        """
        tokens = torch.cat([self.class_token.expand(layout.bags, -1), tokens])
        for layer in self.before:
            tokens = self._through(layer, tokens, layout, weights)
        classes, tokens = tokens[: layout.bags], tokens[layout.bags :]
        tokens = torch.cat([classes, self.position(tokens, layout)])
        for layer in self.after:
            tokens = self._through(layer, tokens, layout, weights)
        return cast(Tensor, self.norm(tokens[: layout.bags]))

    def attention(self, tokens: Tensor, layout: Layout, n: int) -> Tensor:
        """Attention of the class token to the n tokens, mean over heads and layers: ``(n,)``, sum 1."""
        weights: list[Tensor] = []
        self(tokens, layout, weights)
        return fold_padding(torch.stack(weights).mean(dim=0)[1:], n)

    @staticmethod
    def _through(layer: nn.Module, tokens: Tensor, layout: Layout, weights: list[Tensor] | None) -> Tensor:
        if weights is not None:
            weights.append(cast(TransformerLayer, layer).first_token_weights(tokens))
        return run_layer(layer, layout, tokens, layout, True)


class ConvolutionMix(nn.Module):
    """Grouped convolutions of the grid (two features each), ReLU, channel dropout, Linear, LayerNorm."""

    def __init__(self, config: CrossFusionBaseConfig):
        super().__init__()
        half = config.embed_dim // 2
        self.grouped = SummedConvolutions(config.embed_dim, half, sizes=(7, 5, 3, 1))
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(half, config.embed_dim)
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """``(n, dim)`` -> ``(n, dim)``."""
        channels = self.grouped(tokens, layout).relu()
        kept = self.dropout(channels.new_ones(layout.bags, channels.shape[-1]))
        return cast(Tensor, self.norm(self.linear(channels * layout.repeat_for_tokens(kept))))


class MagnificationMix(nn.Module):
    """A weighted sum of the grids of all magnifications: one weight for each and a bias, shared by all features."""

    def __init__(self, magnifications: int):
        super().__init__()
        # Kaiming normal for a fan-out of 1.
        self.weight = nn.Parameter(torch.empty(magnifications).normal_(std=math.sqrt(2)))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        """One ``(n, dim)`` for each magnification -> ``(n, dim)``."""
        mixed: Tensor = torch.tensordot(self.weight, torch.stack(list(grids)), dims=1)
        return mixed + self.bias


def initialize(module: nn.Module) -> None:
    """Initialisation of the released models, for ``nn.Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
