"""Tells whose weights a file holds, for the message about a file that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from milsurv.backbones.timm_hub import TimmBackbone
from milsurv.plugin.registry import get_registry


def described(published: Mapping[str, Tensor]) -> str:
    """Whose tensors these are, in a few words, or that none of the backbones of timm has such."""
    for name, backbone in _timm_backbones():
        with torch.device("meta"):
            network = backbone.build()
        found = backbone.renamed(dict(published), network)
        if _shapes(found) == _shapes(network.state_dict()):
            return f"the file holds weights for {name}"
    return "the file holds weights for none of the backbones that milsurv lists"


def _timm_backbones() -> Iterator[tuple[str, TimmBackbone]]:
    registry = get_registry()
    for info in registry.plugins:
        if info.kind == "backbone" and info.status == "ok":
            plugin = registry.load(info.kind, info.name)
            if issubclass(plugin, TimmBackbone) and hasattr(plugin, "architecture"):
                yield info.name, plugin(plugin.Config())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
