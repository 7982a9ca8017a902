"""Every built-in aggregator, loss and backbone keeps the contract that other people's plugins are held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file

from milsurv import PluginConfig
from milsurv.aggregators.crossfusion import CrossFusion
from milsurv.testing import Check, checks_of, parametrize_with_checks, plugins_of

NARROW = {"embed_dim": 16, "num_heads": 2, "hidden_dim": 16, "input_px": 64}
"""Sizes that make bags of 5,000 patches quick; the promises do not depend on them."""
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


@pytest.fixture(scope="module", params=[plugin for plugin in BUILT_IN if needs_weights(plugin)])
def checks_with_weights(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Check]:
    """The checks of a backbone from the hub, with random weights of its architecture in a local file."""
    file: Path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    build = getattr(request.param(request.param.Config()), "build", None)
    network = build() if build else timm.create_model(request.param.model, num_classes=0)
    save_file(network.state_dict(), file)
    small = {"input_px": 64} if "input_px" in request.param.Config.model_fields else {}
    return checks_of((request.param, request.param.Config(weights=file, **small)))


def test_contract_of_backbones_from_the_hub(checks_with_weights: list[Check]) -> None:
    for check in checks_with_weights:
        check()
