"""What a plugin's class must be, by kind. Imports torch: only for verifying."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from milsurv.plugin.base import PluginConfig

_CONTRACTS = {
    "reader": "milsurv.slides.reader:Reader",
    "tissue": "milsurv.slides.tissue:TissueSegmenter",
    "backbone": "milsurv.backbones.base:Backbone",
    "aggregator": "milsurv.aggregators.base:Aggregator",
    "loss": "milsurv.losses.base:Loss",
}


def problem_of(kind: str, plugin_class: Any) -> str | None:
    """Why a class cannot be a plugin of its kind; None when it can. ``milsurv.testing`` checks what it does."""
    module, _, name = _CONTRACTS[kind].partition(":")
    contract = getattr(import_module(module), name)
    if not (isinstance(plugin_class, type) and issubclass(plugin_class, contract)):
        return f"does not derive from {name}"
    missing = [method for method, value in inspect.getmembers(plugin_class) if _is_abstract(value)]
    if missing:
        return f"does not define {', '.join(missing)}"
    config = plugin_class.Config  # type: ignore[attr-defined]
    if not (isinstance(config, type) and issubclass(config, PluginConfig)):
        return "has a Config that does not derive from PluginConfig"
    return None


def _is_abstract(value: Any) -> bool:
    return getattr(value, "__isabstractmethod__", False) is True
