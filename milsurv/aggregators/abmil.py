"""Attention-based multiple instance learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import MAX_WIDTH, Aggregator, bag_of_rows, choose_magnifications, stacked
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig


class ABMILConfig(PluginConfig):
    """Settings of attention MIL."""

    magnification: PositiveInt | Literal["all"] = 20
    """Magnification of the patches. ``all``: patches of all magnifications, each with a projection of its own."""
    hidden_dim: int = Field(default=512, ge=1, le=MAX_WIDTH)
    """Size of the projected patch features."""
    attention_dim: int = Field(default=256, ge=1, le=MAX_WIDTH)
    """Hidden size of the attention network."""
    gated: bool = True
    """Gated attention (equation 9) instead of plain attention (equation 8)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout after the projection."""


class ABMIL(Aggregator):
    """Attention MIL (Ilse, Tomczak and Welling, ICML 2018, equations 7 to 9).

    ``Σ_i a_i · h_i`` with ``h = ReLU(Linear(features))`` and ``a = softmax_i(w · tanh(V h_i) ⊙ sigmoid(U h_i))``;
    without gating, the factor with the sigmoid is omitted.
    """

    Config = ABMILConfig
    batches = True

    def __init__(self, config: ABMILConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnifications = choose_magnifications(feature_dims, config.magnification, "abmil")
        hidden = config.hidden_dim
        self.projections = nn.ModuleDict(
            {
                str(m): nn.Sequential(
                    nn.Linear(feature_dims[m], hidden), nn.ReLU(), nn.Dropout(config.dropout)
                )
                for m in self.magnifications
            }
        )
        self.value = nn.Linear(hidden, config.attention_dim)
        self.gate = nn.Linear(hidden, config.attention_dim) if config.gated else None
        self.score = nn.Linear(config.attention_dim, 1)
        self.head = nn.Linear(hidden, n_outputs)

    def forward(self, bag: Bag) -> Tensor:
        patches = torch.cat(list(self._patches([bag]).values()))
        output: Tensor = self.head(self._scores(patches).softmax(dim=0) @ patches)
        return output

    def forward_batch(self, bags: Sequence[Bag]) -> Tensor:
        patches = torch.cat(list(self._patches(bags).values()))
        bag_of = torch.cat([bag_of_rows(bags, m) for m in self.magnifications])
        scores = self._scores(patches)
        largest = scores.new_full((len(bags),), -torch.inf).scatter_reduce(0, bag_of, scores.detach(), "amax")
        weights = (scores - largest[bag_of]).exp()
        totals = weights.new_zeros(len(bags)).index_add(0, bag_of, weights)
        share = (weights / totals[bag_of]).unsqueeze(1)
        pooled = patches.new_zeros(len(bags), patches.shape[1]).index_add(0, bag_of, share * patches)
        output: Tensor = self.head(pooled)
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """Attention, normalised within each magnification."""
        return {m: self._scores(patches).softmax(dim=0) for m, patches in self._patches([bag]).items()}

    def _patches(self, bags: Sequence[Bag]) -> dict[int, Tensor]:
        return {m: self.projections[str(m)](stacked(bags, m)) for m in self.magnifications}

    def _scores(self, patches: Tensor) -> Tensor:
        hidden = self.value(patches).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(patches).sigmoid()
        scores: Tensor = self.score(hidden).squeeze(-1)
        return scores
