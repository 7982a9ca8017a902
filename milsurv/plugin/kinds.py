"""The kinds of plugins. A new kind is one entry in :data:`KINDS`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True)
class Kind:
    """A kind of plugin: its registering hook, what is registered, and what it decides."""

    name: str
    """As in ``list-plugins --kind`` and, for a section of the configuration, its key."""
    hook: str
    registers: str
    """What the hook registers, for its documentation."""
    contract: str | None = None
    """``package.module:Class`` that a plugin derives from, or is an instance of; None: any callable."""
    is_section: bool = False
    """Whether the configuration has a section ``{name: …, …}`` that selects one plugin of this kind."""
    decides: Literal["features", "models"] | None = None
    """What its source and settings change: the features extracted from slides, the models trained on features, or
    neither."""

    def problem_of(self, target: Any) -> str | None:
        """Why an imported target cannot be a plugin of this kind, or None. Imports the contract, and so torch.

        Only the interface is checked here; ``milsurv.testing`` checks the behaviour.
        """
        if self.contract is None:
            return None if callable(target) else "is not callable"
        from milsurv.plugin.base import PluginConfig

        module, _, name = self.contract.partition(":")
        contract = getattr(import_module(module), name)
        if isinstance(target, contract):
            return None
        if not (isinstance(target, type) and issubclass(target, contract)):
            return f"does not derive from {name}"
        if missing := [method for method, value in inspect.getmembers(target) if _is_abstract(value)]:
            return f"does not define {', '.join(missing)}"
        config = getattr(target, "Config", None)
        if self.is_section and not (isinstance(config, type) and issubclass(config, PluginConfig)):
            return "has a Config that does not derive from PluginConfig"
        return None


def _is_abstract(value: Any) -> bool:
    return getattr(value, "__isabstractmethod__", False) is True


_ALL = (
    Kind(
        "reader",
        "milsurv_register_readers",
        "slide readers (see ``milsurv.slides.reader``)",
        contract="milsurv.slides.reader:Reader",
        is_section=True,
        decides="features",
    ),
    Kind(
        "tissue",
        "milsurv_register_tissue",
        "tissue segmentations (see ``milsurv.slides.tissue``)",
        contract="milsurv.slides.tissue:TissueSegmenter",
        is_section=True,
        decides="features",
    ),
    Kind(
        "backbone",
        "milsurv_register_backbones",
        "backbones (see ``milsurv.Backbone``)",
        contract="milsurv.backbones.base:Backbone",
        is_section=True,
        decides="features",
    ),
    Kind(
        "feature_layout",
        "milsurv_register_feature_layouts",
        "layouts of features that other tools made (see ``milsurv.FeatureLayout``)",
        contract="milsurv.features.importers.base:FeatureLayout",
        decides="features",
    ),
    Kind(
        "aggregator",
        "milsurv_register_aggregators",
        "aggregators (see ``milsurv.Aggregator``)",
        contract="milsurv.aggregators.base:Aggregator",
        is_section=True,
        decides="models",
    ),
    Kind(
        "loss",
        "milsurv_register_losses",
        "losses (see ``milsurv.Loss``)",
        contract="milsurv.losses.base:Loss",
        is_section=True,
        decides="models",
    ),
    Kind(
        "executor",
        "milsurv_register_executors",
        "executors (see ``milsurv.executors.base``)",
        contract="milsurv.executors.base:Executor",
        is_section=True,
    ),
    Kind(
        "metric",
        "milsurv_register_metrics",
        "additional metrics (see ``milsurv.MetricSpec``)",
        contract="milsurv.evaluation.metrics:MetricSpec",
    ),
    Kind(
        "command",
        "milsurv_register_commands",
        "commands: ``milsurv NAME`` runs the typer app or click command",
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
"""Name -> kind, in the order in which ``list-plugins`` shows them."""
SECTIONS = tuple(kind.name for kind in KINDS.values() if kind.is_section)
"""Kinds that are sections of the configuration."""


def kinds_that_decide(*what: Literal["features", "models"]) -> tuple[str, ...]:
    """Names of the kinds that decide the features, the models, or both."""
    return tuple(kind.name for kind in KINDS.values() if kind.decides in what)
