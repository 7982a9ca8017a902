"""TransMIL: a transformer with Nyström attention."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from milsurv.aggregators.base import MAX_WIDTH, Aggregator, require_magnification
from milsurv.aggregators.blocks import PositionEncoding, fold_padding
from milsurv.aggregators.layout import SQUARE
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig

HEADS = 8
PSEUDO_INVERSE_STEPS = 6
RESIDUAL_KERNEL = 33


class TransMILConfig(PluginConfig):
    """Settings of TransMIL."""

    magnification: PositiveInt = 20
    """Magnification of the patches."""
    embed_dim: int = Field(default=512, ge=HEADS, le=MAX_WIDTH, multiple_of=HEADS)
    """Embedding size, split over 8 heads; the number of landmarks is half of it."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after each attention's output projection."""


class TransMIL(Aggregator):
    """TransMIL (Shao et al., NeurIPS 2021): class token, Nyström attention, PPEG, Nyström attention."""

    Config = TransMILConfig
    order_matters = True

    def __init__(self, config: TransMILConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        dim = config.embed_dim
        feature_dim = require_magnification(feature_dims, config.magnification, "transmil")
        self.projection = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, dim))
        self.norm1 = nn.LayerNorm(dim)
        self.attention1 = NystromAttention(dim, config.dropout)
        self.position = PositionEncoding(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attention2 = NystromAttention(dim, config.dropout)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_outputs)

    def forward(self, bag: Bag) -> Tensor:
        tokens = self._before_last_attention(bag)
        tokens = tokens + self.attention2(self.norm2(tokens))
        output: Tensor = self.head(self.norm(tokens[0]))
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """The class token's attention in the last layer, mean over heads.

        Small negative weights of the approximation are set to 0.
        """
        n = len(bag.features[self.magnification])
        weights = self.attention2.first_token_weights(self.norm2(self._before_last_attention(bag)))
        return {self.magnification: fold_padding(weights[1:].clamp_min(0), n)}

    def _before_last_attention(self, bag: Bag) -> Tensor:
        tokens = SQUARE.pad(self.projection(bag.features[self.magnification]))
        tokens = torch.cat([self.class_token, tokens])
        tokens = tokens + self.attention1(self.norm1(tokens))
        return torch.cat([tokens[:1], self.position(tokens[1:], SQUARE)])


class NystromAttention(nn.Module):
    """Nyström attention (Xiong et al., AAAI 2021), with time and memory linear in n.

    ``softmax(Q K̃ᵀ) · softmax(Q̃ K̃ᵀ)⁺ · softmax(Q̃ Kᵀ) · V`` with landmarks Q̃, K̃, the means of segments of the
    tokens, plus a depthwise convolution of V along the tokens. Leading zero tokens make the segments equally long.
    """

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.landmarks = dim // 2
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Conv2d(
            HEADS, HEADS, (RESIDUAL_KERNEL, 1), padding=(RESIDUAL_KERNEL // 2, 0), groups=HEADS, bias=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, dim)`` -> ``(n, dim)``."""
        query, key, value = self._heads(tokens)
        to_landmarks, between, from_landmarks = self._factors(query, key)
        attended = to_landmarks @ (pseudo_inverse(between) @ (from_landmarks @ value))
        attended = attended + self.residual(value.unsqueeze(0))[0]
        output: Tensor = self.dropout(self.out(attended.transpose(0, 1).flatten(1)[-len(tokens) :]))
        return output

    def first_token_weights(self, tokens: Tensor) -> Tensor:
        """The first token's attention to all ``(n, dim)`` tokens, mean over heads: ``(n,)``; can be negative."""
        query, key, _ = self._heads(tokens)
        to_landmarks, between, from_landmarks = self._factors(query, key)
        first = to_landmarks[:, -len(tokens)].unsqueeze(1)
        return (first @ pseudo_inverse(between) @ from_landmarks).mean(dim=(0, 1))[-len(tokens) :]

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        missing = -len(tokens) % self.landmarks
        padded = F.pad(tokens, (0, 0, missing, 0))
        query, key, value = (
            part.view(len(padded), HEADS, -1).transpose(0, 1) for part in self.qkv(padded).chunk(3, dim=-1)
        )
        return query * query.shape[-1] ** -0.5, key, value

    def _factors(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_landmarks = query.reshape(HEADS, self.landmarks, -1, query.shape[-1]).mean(dim=2)
        key_landmarks = key.reshape(HEADS, self.landmarks, -1, key.shape[-1]).mean(dim=2)
        return (
            (query @ key_landmarks.transpose(1, 2)).softmax(dim=-1),
            (query_landmarks @ key_landmarks.transpose(1, 2)).softmax(dim=-1),
            (query_landmarks @ key.transpose(1, 2)).softmax(dim=-1),
        )


def pseudo_inverse(matrices: Tensor) -> Tensor:
    """Moore-Penrose inverses of ``(heads, m, m)`` by the iteration of Razavi et al. (Xiong et al., equation 11).

    The initial value is the transpose divided by the largest column sum times the largest row sum of all matrices.
    """
    largest = matrices.abs().sum(dim=-1).max() * matrices.abs().sum(dim=-2).max()
    inverse = matrices.transpose(-1, -2) / largest
    identity = torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)
    for _ in range(PSEUDO_INVERSE_STEPS):
        product = matrices @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = 0.25 * inverse @ (13 * identity - product @ inner)
    return inverse
