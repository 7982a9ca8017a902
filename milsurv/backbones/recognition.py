"""Tells which backbone it is and whose weights a file holds, for the message about a file that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from milsurv.backbones.timm_hub import TimmBackbone
from milsurv.errors import WeightsError
from milsurv.plugin.registry import get_registry


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
