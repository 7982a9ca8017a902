"""milsurv: survival models from whole-slide images.

The names below are the public API. They are imported when first used, so that ``import milsurv`` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from milsurv._version import __version__
from milsurv.errors import MilsurvError
from milsurv.plugin.base import PluginConfig
from milsurv.plugin.spec import hookimpl

if TYPE_CHECKING:
    from milsurv.aggregators.base import Aggregator
    from milsurv.backbones.base import Backbone
    from milsurv.features.bag import Bag
    from milsurv.losses.base import Loss

_LAZY = {
    "Aggregator": "milsurv.aggregators.base",
    "Backbone": "milsurv.backbones.base",
    "Bag": "milsurv.features.bag",
    "Loss": "milsurv.losses.base",
}

__all__ = [
    "Aggregator",
    "Backbone",
    "Bag",
    "Loss",
    "MilsurvError",
    "PluginConfig",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'milsurv' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name]), name)
