"""Networks of timm with published weights: from the hub, or from a local file, never at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

from milsurv.backbones.base import Backbone, FoundWeights, PatchEncoder
from milsurv.backbones.hub import fetch_weights, find_weights
from milsurv.backbones.weights import file_id, fill_network, read_state
from milsurv.config import AbsolutePath
from milsurv.errors import WeightsError
from milsurv.plugin.base import PluginConfig


class HubConfig(PluginConfig):
    """Where the weights come from."""

    weights: AbsolutePath | None = None
    """A local file (safetensors, or .pth of tensors by name); by default the weights of the hub."""
    revision: str = "main"
    """Branch, tag or commit of the hub's repository; a commit always means the same weights."""


class TimmBackbone(Backbone):
    """An architecture of timm whose weights stand in a repository of the hub."""

    Config: ClassVar[type[PluginConfig]] = HubConfig
    architecture: ClassVar[str]
    """timm's name of the network."""
    arguments: ClassVar[Mapping[str, Any]] = {}
    """What ``timm.create_model`` is told besides."""
    repo: ClassVar[str]
    """``owner/name`` on the hub."""

    def __init__(self, config: HubConfig):
        self.weights = config.weights
        self.revision = config.revision

    @property
    def name(self) -> str:
        """What a configuration calls the backbone."""
        from milsurv.backbones.recognition import name_of

        return name_of(type(self))

    def weights_id(self) -> str:
        return f"hub:{self.repo}@{self.revision}" if self.weights is None else file_id(self.weights)

    def find_weights(self) -> FoundWeights:
        if self.weights is not None:
            return FoundWeights(self.weights)
        return find_weights(self.repo, self.revision, self.gated)

    def source(self) -> Path:
        """The file with the published tensors. Raises WeightsError when it cannot be had."""
        return fetch_weights(self.repo, self.revision, self.gated) if self.weights is None else self.weights

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        source = self.source()
        published = read_state(source)
        network = self.build()
        try:
            fill_network(network, self.renamed(published, network), self.name, source)
        except WeightsError as error:
            from milsurv.backbones.recognition import explained

            raise explained(error, published, self.name) from None
        return PatchEncoder(self.embedder(network), self).to(device, dtype).eval()

    def build(self) -> nn.Module:
        """The network without a classifier, with random weights."""
        return timm.create_model(self.architecture, pretrained=False, num_classes=0, **self.arguments)

    def renamed(self, published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        """The published tensors under the names of ``network``, without those that stand behind the embedding."""
        return published

    def embedder(self, network: nn.Module) -> nn.Module:
        """What makes embeddings ``(n, dim)`` of normalised pixels ``(n, 3, input_px, input_px)``."""
        return network
