"""Networks of timm with published weights: from the hub, or from a local file, never at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

from milsurv.backbones.base import Backbone, FoundWeights, PatchEncoder
from milsurv.backbones.hub import fetch_weights, find_weights
from milsurv.backbones.weights import file_id, fill_network, read_state
from milsurv.config.section import AbsolutePath
from milsurv.errors import WeightsError
from milsurv.plugin.base import PluginConfig
from milsurv.plugin.registry import get_registry


class HubConfig(PluginConfig):
    """Where the weights come from."""

    weights: AbsolutePath | None = None
    """Local weights file (safetensors, or .pth of named tensors); by default downloaded from the hub."""
    revision: str = "main"
    """Branch, tag or commit of the repository on the hub; only a commit is fixed."""


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


def name_of(backbone: type[TimmBackbone]) -> str:
    """The name under which a backbone is registered; that of its class when it is not."""
    target = f"{backbone.__module__}:{backbone.__qualname__}"
    names = [info.name for info in get_registry().plugins if info.target == target]
    return names[0] if names else backbone.__name__


def explained(misfit: WeightsError, published: Mapping[str, Tensor], asked: str) -> WeightsError:
    """The error about a file that does not fit the backbone ``asked``, with whose weights it holds instead."""
    found = described(published)
    return misfit if found == _whose(asked) else WeightsError(f"{misfit}; {found}")


def described(published: Mapping[str, Tensor]) -> str:
    """Whose tensors these are, in a few words, or that none of the backbones of timm has such."""
    for name, backbone in _timm_backbones():
        with torch.device("meta"):
            network = backbone.build()
        found = backbone.renamed(dict(published), network)
        if _shapes(found) == _shapes(network.state_dict()):
            return _whose(name)
    return "the file holds weights for none of the backbones that milsurv lists"


def _whose(name: str) -> str:
    return f"the file holds weights for {name}"


def _timm_backbones() -> Iterator[tuple[str, TimmBackbone]]:
    registry = get_registry()
    for info in registry.plugins:
        if info.kind == "backbone" and info.status == "ok":
            plugin = registry.load(info.kind, info.name)
            if issubclass(plugin, TimmBackbone) and hasattr(plugin, "architecture"):
                yield info.name, plugin(plugin.Config())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
