"""Every built-in aggregator, loss and backbone keeps the contract that other people's plugins are held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from milsurv import PluginConfig
from milsurv.aggregators.crossfusion import CrossFusion
from milsurv.backbones.timm_hub import TimmBackbone
from milsurv.backbones.timm_model import TimmModel
from milsurv.backbones.vision_transformers import PathologyTransformer
from milsurv.testing import check_backbone, parametrize_with_checks, plugins_of
from tests.backbones.formula import tensors_like

NARROW = {"embed_dim": 16, "num_heads": 2, "hidden_dim": 16, "input_px": 64}
"""Sizes that make bags of 5,000 patches quick; the checks do not depend on them."""
WITH_GRID = CrossFusion, CrossFusion.Config(attention="local", embed_dim=16)


def narrow(plugin: type[Any]) -> tuple[type[Any], PluginConfig]:
    settings = {name: value for name, value in NARROW.items() if name in plugin.Config.model_fields}
    return plugin, plugin.Config(**settings)


def needs_weights(plugin: type[Any]) -> bool:
    return "weights" in plugin.Config.model_fields


BUILT_IN = plugins_of("milsurv")
WITHOUT_WEIGHTS = [narrow(plugin) for plugin in BUILT_IN if not needs_weights(plugin)]


@parametrize_with_checks([*WITHOUT_WEIGHTS, WITH_GRID])
def test_contract(check: Callable[[], None]) -> None:
    check()


def shallow(plugin: type[Any]) -> type[Any]:
    """The plugin itself, or its full width with one block alone where it is a large transformer."""
    if not issubclass(plugin, PathologyTransformer):
        return plugin
    return type(
        plugin.__name__, (plugin,), {"__doc__": plugin.__doc__, "arguments": {**plugin.arguments, "depth": 1}}
    )


def settings_of(plugin: type[Any]) -> dict[str, Any]:
    if plugin is TimmModel:
        return {"model": "vit_tiny_patch16_224"}
    return {"input_px": 64} if "input_px" in plugin.Config.model_fields else {}


def network_of(plugin: type[Any], settings: dict[str, Any]) -> nn.Module:
    if plugin is TimmModel:
        return timm.create_model(settings["model"])
    backbone: TimmBackbone = plugin(plugin.Config(**settings))
    return backbone.build()


@pytest.mark.parametrize("plugin", [plugin for plugin in BUILT_IN if needs_weights(plugin)])
def test_contract_of_backbones_from_the_hub(plugin: type[Any], tmp_path: Path) -> None:
    """With weights of the architecture, made by a formula, in a local file."""
    checked, settings = shallow(plugin), settings_of(plugin)
    with torch.device("meta"):
        state = network_of(checked, settings).state_dict()
    save_file(tensors_like(state), tmp_path / "made.safetensors")
    check_backbone(checked, checked.Config(weights=tmp_path / "made.safetensors", **settings))
