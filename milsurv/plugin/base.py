"""The base class of every plugin's ``Config``, and a plugin's section of the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class PluginConfig(BaseModel):
    """Settings of a plugin, given in its section of the YAML.

    Unknown keys are rejected. The docstring below a field is its description in ``milsurv config schema``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PluginSection(BaseModel):
    """``{name: crossfusion, …}``: the plugin's name, and settings that its own ``Config`` validates."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})
