"""Dual-stream multiple instance learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from milsurv.aggregators.base import MAX_WIDTH, Aggregator, require_magnification
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig


class DSMILConfig(PluginConfig):
    """Settings of DSMIL."""

    magnification: PositiveInt = 20
    """Magnification of the patches."""
    query_dim: int = Field(default=128, ge=1, le=MAX_WIDTH)
    """Size of the queries."""


class DSMIL(Aggregator):
    """Dual-stream MIL (Li et al., CVPR 2021): patches weighted by similarity to the critical patch of each output.

    As in the baselines of CrossFusion, only the bag stream gives the output; the instance stream selects the critical
    patches and gets no gradient.
    """

    Config = DSMILConfig
    expected_failures: ClassVar[Mapping[str, str]] = {
        "gradients_reach_all": "the instance stream is not trained, as in the released code"
    }

    def __init__(self, config: DSMILConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnification = config.magnification
        dim = require_magnification(feature_dims, config.magnification, "dsmil")
        self.instance = nn.Linear(dim, n_outputs)
        self.query = nn.Sequential(
            nn.Linear(dim, config.query_dim),
            nn.ReLU(),
            nn.Linear(config.query_dim, config.query_dim),
            nn.Tanh(),
        )
        self.head = nn.Conv1d(n_outputs, n_outputs, dim)

    def forward(self, bag: Bag) -> Tensor:
        patches = bag.features[self.magnification]
        bag_vectors = self._weights(patches) @ patches
        output: Tensor = self.head(bag_vectors.unsqueeze(0)).flatten()
        return output

    @torch.no_grad()
    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """Mean over the outputs."""
        return {self.magnification: self._weights(bag.features[self.magnification]).mean(dim=0)}

    def _weights(self, patches: Tensor) -> Tensor:
        """``(n, dim)`` -> ``(n_outputs, n)``; each row sums to 1."""
        critical = self.instance(patches).argmax(dim=0)
        queries: Tensor = self.query(patches)
        return (queries[critical] @ queries.t() / math.sqrt(queries.shape[-1])).softmax(dim=-1)
