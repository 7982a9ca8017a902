"""Kind of plugin -> the class that its plugins derive from. Imports torch: only for building and verifying."""

from __future__ import annotations

from importlib import import_module

_CONTRACTS = {
    "reader": "milsurv.slides.reader:Reader",
    "tissue": "milsurv.slides.tissue:TissueSegmenter",
    "backbone": "milsurv.backbones.base:Backbone",
    "aggregator": "milsurv.aggregators.base:Aggregator",
    "loss": "milsurv.losses.base:Loss",
}


def contract_of(kind: str) -> type:
    """The contract's base class."""
    module, _, name = _CONTRACTS[kind].partition(":")
    contract: type = getattr(import_module(module), name)
    return contract
