"""Models of timm with published weights, from the hub or from a local file."""

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
    """An architecture of timm whose weights are in a repository of the hub."""

    Config: ClassVar[type[PluginConfig]] = HubConfig
    architecture: ClassVar[str]
    """Name of the model in timm."""
    arguments: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of ``timm.create_model``."""
    repo: ClassVar[str]
    """``owner/name`` on the hub."""

    def __init__(self, config: HubConfig):
        self.weights = config.weights
        self.revision = config.revision

    @property
    def name(self) -> str:
        """The registered name of the backbone."""
        return name_of(type(self))

    def weights_id(self) -> str:
        return f"hub:{self.repo}@{self.revision}" if self.weights is None else file_id(self.weights)

    def find_weights(self) -> FoundWeights:
        if self.weights is not None:
            return FoundWeights(self.weights)
        return find_weights(self.repo, self.revision, self.gated)

    def source(self) -> Path:
        """The file with the published tensors. Raises WeightsError if it is not available."""
        return fetch_weights(self.repo, self.revision, self.gated) if self.weights is None else self.weights

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        source = self.source()
        published = read_state(source)
        network = self.build()
        try:
            fill_network(network, self.renamed(published, network), self.name, source)
        except WeightsError as error:
            raise explain_mismatch(error, published, self.name) from None
        return PatchEncoder(self.embedder(network), self).to(device, dtype).eval()

    def build(self) -> nn.Module:
        """The network without a classifier, with random weights."""
        return timm.create_model(self.architecture, pretrained=False, num_classes=0, **self.arguments)

    def renamed(self, published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        """The published tensors under the names of ``network``, without those after the embedding."""
        return published

    def embedder(self, network: nn.Module) -> nn.Module:
        """A module from normalized pixels ``(n, 3, input_px, input_px)`` to embeddings ``(n, dim)``."""
        return network


def name_of(backbone: type[TimmBackbone]) -> str:
    """The name under which a backbone is registered, else that of its class."""
    target = f"{backbone.__module__}:{backbone.__qualname__}"
    names = [info.name for info in get_registry().plugins if info.target == target]
    return names[0] if names else backbone.__name__


def explain_mismatch(error: WeightsError, published: Mapping[str, Tensor], expected: str) -> WeightsError:
    """The error about a file that does not fit the backbone ``expected``, with the backbone whose weights it has."""
    found = describe_weights(published)
    return error if found == _weights_of(expected) else WeightsError(f"{error}; {found}")


def describe_weights(published: Mapping[str, Tensor]) -> str:
    """Short description of the timm backbone to which these tensors belong."""
    for name, backbone in _timm_backbones():
        with torch.device("meta"):
            network = backbone.build()
        found = backbone.renamed(dict(published), network)
        if _shapes(found) == _shapes(network.state_dict()):
            return _weights_of(name)
    return "the file contains weights of no registered backbone"


def _weights_of(name: str) -> str:
    return f"the file contains weights of {name}"


def _timm_backbones() -> Iterator[tuple[str, TimmBackbone]]:
    registry = get_registry()
    for info in registry.plugins:
        if info.kind == "backbone" and info.status == "ok":
            plugin = registry.load(info.kind, info.name)
            if issubclass(plugin, TimmBackbone) and hasattr(plugin, "architecture"):
                yield info.name, plugin(plugin.Config())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
