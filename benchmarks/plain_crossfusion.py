"""CrossFusion as one would write it down: whole attention matrices, each convolution by itself.

Parameters carry the released checkpoints' names, so that
:func:`milsurv.models.interop.from_authors_checkpoint` makes ours of it with the same weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from milsurv.features.bag import Bag


class Attention(nn.Module):
    """Softmax(QKᵀ/√d) with dropout, times V."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            project(tokens).view(len(tokens), self.heads, -1).transpose(0, 1)
            for project, tokens in ((self.q_proj, queries), (self.k_proj, context), (self.v_proj, context))
        )
        weights = self.dropout(torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1))
        out: Tensor = self.out_proj((weights @ v).transpose(0, 1).flatten(1))
        return out


class CrossAttention(Attention):
    """Attention in which a learned embedding is added to both sides."""

    def __init__(self, dim: int, heads: int):
        super().__init__(dim, heads, dropout=0.0)
        self.scale_embeddings = nn.Parameter(torch.randn(1, 1, dim) * 0.02)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        return super().forward(queries + self.scale_embeddings[0], context + self.scale_embeddings[0])


class FeedForward(nn.Module):
    def __init__(self, dim: int, dropout: float):
        super().__init__()
        dropouts = nn.Dropout(dropout), nn.Dropout(dropout)
        self.net = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), dropouts[0], nn.Linear(2 * dim, dim), dropouts[1]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.net(tokens)
        return out


class Layers(nn.Module):
    """Layers of self-attention and feed-forward on normalised tokens."""

    def __init__(self, dim: int, heads: int, layers: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(dim),
                    Attention(dim, heads, attention_dropout),
                    nn.LayerNorm(dim),
                    FeedForward(dim, dropout),
                ]
            )
            for _ in range(layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            norm1, attention, norm2, feed_forward = layer.children()
            tokens = norm1(tokens)
            tokens = norm2(tokens + attention(tokens, tokens))
            tokens = tokens + feed_forward(tokens)
        return tokens


class PPEG(nn.Module):
    """The grid plus three depthwise convolutions of it."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj, self.proj1, self.proj2 = (
            nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim) for size in (7, 5, 3)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        image = to_image(tokens)
        return to_tokens(image + self.proj(image) + self.proj1(image) + self.proj2(image))


class Transformer(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.pre_layers, self.post_layers = (
            Layers(dim, heads, layers, dropout, attention_dropout) for _ in range(2)
        )
        self.ppeg = PPEG(dim)

    def forward(self, tokens: Tensor, class_tokens: int = 0) -> Tensor:
        tokens = self.pre_layers(tokens)
        tokens = torch.cat([tokens[:class_tokens], self.ppeg(tokens[class_tokens:])])
        out: Tensor = self.post_layers(tokens)
        return out


class GroupedConvolutions(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.x_proj, self.proj, self.proj1, self.proj2 = (
            nn.Conv2d(dim, dim // 2, size, padding=size // 2, groups=dim // 2) for size in (1, 7, 5, 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.x_proj(image) + self.proj(image) + self.proj1(image) + self.proj2(image)
        return out


class ConvolutionalFusion(nn.Module):
    """Three grids to one, then grouped convolutions."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.conv3d = nn.Conv3d(3, 1, 1)
        self.conv_block = nn.Sequential(GroupedConvolutions(dim), nn.ReLU(), nn.Dropout2d(dropout))
        self.linear = nn.Sequential(nn.Linear(dim // 2, dim), nn.LayerNorm(dim))

    def forward(self, grids: list[Tensor]) -> Tensor:
        volume = torch.stack([to_image(tokens) for tokens in grids], dim=1)
        out: Tensor = self.linear(to_tokens(self.conv_block(self.conv3d(volume)[:, 0])))
        return out


class PlainCrossFusion(nn.Module):
    """CrossFusion on 20x, 10x and 5x features of ``feature_dim``, with the released dropouts by default."""

    def __init__(
        self,
        feature_dim: int,
        dim: int = 512,
        heads: int = 4,
        layers: int = 1,
        n_outputs: int = 4,
        dropout: float = 0.3,
        attention_dropout: float = 0.2,
    ):
        super().__init__()
        for scale in "csf":
            projection = nn.Sequential(nn.Linear(feature_dim, dim), nn.LayerNorm(dim))
            self.add_module(f"{scale}_lin_proj", projection)
            transformer = Transformer(dim, heads, layers, dropout, attention_dropout)
            self.add_module(f"{scale}_transformer", transformer)
            self.add_module(f"{scale}_transformer_ln", nn.LayerNorm(dim))
        for scale in "cf":
            self.add_module(f"{scale}_cross_attn", CrossAttention(dim, heads))
            self.add_module(f"{scale}_cross_attn_ln", nn.LayerNorm(dim))
            self.add_module(f"{scale}_cross_attn_ffn", FeedForward(dim, dropout))
        self.conv_processor = ConvolutionalFusion(dim, dropout)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 1e-6)
        self.final_transformer = Transformer(dim, heads, layers, dropout, attention_dropout)
        self.final_ln = nn.LayerNorm(dim)
        self.mlp_head = nn.Sequential(nn.Linear(dim, n_outputs))

    def forward(self, bag: Bag) -> Tensor:
        """``(n_outputs,)``."""
        tokens = {
            scale: self._run(f"{scale}_lin_proj", bag.features[m])
            for scale, m in zip("csf", (5, 10, 20), strict=True)
        }
        source = tokens["s"]
        seen = {"s": source}
        for scale in "cf":
            attended = self.get_submodule(f"{scale}_cross_attn")(source, tokens[scale])
            y = self._run(f"{scale}_cross_attn_ln", source + attended)
            seen[scale] = y + self._run(f"{scale}_cross_attn_ffn", y)
        grids = [
            self._run(f"{scale}_transformer_ln", self._run(f"{scale}_transformer", pad(seen[scale])))
            for scale in "sfc"
        ]
        fused = torch.cat([self.cls_token[0], self.conv_processor(grids)])
        output: Tensor = self.mlp_head(self.final_ln(self.final_transformer(fused, class_tokens=1)[0]))
        return output

    def _run(self, module: str, tokens: Tensor) -> Tensor:
        output: Tensor = self.get_submodule(module)(tokens)
        return output


def pad(tokens: Tensor) -> Tensor:
    """Fill up to the next square with the first tokens."""
    side = math.ceil(math.sqrt(len(tokens)))
    return torch.cat([tokens, tokens[: side * side - len(tokens)]])


def to_image(tokens: Tensor) -> Tensor:
    """``(side², dim)`` -> ``(1, dim, side, side)``."""
    side = math.isqrt(len(tokens))
    return tokens.t().reshape(1, -1, side, side)


def to_tokens(image: Tensor) -> Tensor:
    """``(1, dim, side, side)`` -> ``(side², dim)``."""
    return image[0].flatten(1).t()
