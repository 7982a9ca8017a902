"""milsurv: survival models from whole-slide images.

The names below are the public API. They are imported when first used, so that ``import milsurv`` loads neither torch
nor pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from milsurv._version import __version__
from milsurv.errors import MilsurvError, SlideError, WeightsError
from milsurv.plugin.spec import Register, hookimpl

if TYPE_CHECKING:
    from milsurv.aggregators.base import Aggregator, require_magnification
    from milsurv.backbones.base import Backbone, FoundWeights, PatchEncoder
    from milsurv.backbones.hub import fetch_weights, find_weights
    from milsurv.backbones.weights import file_id, fill_network, read_state
    from milsurv.evaluation.intervals import NotComputableError
    from milsurv.evaluation.metrics import MetricSpec
    from milsurv.evaluation.plugin_metrics import bootstrapped
    from milsurv.evaluation.strata import Stratum
    from milsurv.features.bag import Bag
    from milsurv.features.importers.base import FeatureLayout, ImportedPatches
    from milsurv.losses.base import Loss
    from milsurv.plugin.base import PluginConfig
    from milsurv.runs.finished import FinishedRun, load_run
    from milsurv.slides.reader import Reader, Slide
    from milsurv.slides.tissue import TissueMask, TissueSegmenter

_LAZY = {
    "Aggregator": "milsurv.aggregators.base",
    "Backbone": "milsurv.backbones.base",
    "Bag": "milsurv.features.bag",
    "FeatureLayout": "milsurv.features.importers.base",
    "FinishedRun": "milsurv.runs.finished",
    "FoundWeights": "milsurv.backbones.base",
    "ImportedPatches": "milsurv.features.importers.base",
    "Loss": "milsurv.losses.base",
    "MetricSpec": "milsurv.evaluation.metrics",
    "NotComputableError": "milsurv.evaluation.intervals",
    "PatchEncoder": "milsurv.backbones.base",
    "PluginConfig": "milsurv.plugin.base",
    "Reader": "milsurv.slides.reader",
    "Slide": "milsurv.slides.reader",
    "Stratum": "milsurv.evaluation.strata",
    "TissueMask": "milsurv.slides.tissue",
    "TissueSegmenter": "milsurv.slides.tissue",
    "bootstrapped": "milsurv.evaluation.plugin_metrics",
    "fetch_weights": "milsurv.backbones.hub",
    "file_id": "milsurv.backbones.weights",
    "fill_network": "milsurv.backbones.weights",
    "find_weights": "milsurv.backbones.hub",
    "load_run": "milsurv.runs.finished",
    "read_state": "milsurv.backbones.weights",
    "require_magnification": "milsurv.aggregators.base",
}

__all__ = [
    "Aggregator",
    "Backbone",
    "Bag",
    "FeatureLayout",
    "FinishedRun",
    "FoundWeights",
    "ImportedPatches",
    "Loss",
    "MetricSpec",
    "MilsurvError",
    "NotComputableError",
    "PatchEncoder",
    "PluginConfig",
    "Reader",
    "Register",
    "Slide",
    "SlideError",
    "Stratum",
    "TissueMask",
    "TissueSegmenter",
    "WeightsError",
    "__version__",
    "bootstrapped",
    "executors",
    "fetch_weights",
    "file_id",
    "fill_network",
    "find_weights",
    "hookimpl",
    "load_run",
    "read_state",
    "require_magnification",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in ("executors", "testing"):
        return import_module(f"milsurv.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'milsurv' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
