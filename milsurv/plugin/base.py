"""A plugin's section of the configuration, and what every plugin's ``Config`` derives from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class PluginConfig(BaseModel):
    """Settings of a plugin, as they stand in its section of the YAML. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginSection(BaseModel):
    """``{name: crossfusion, …}``: which plugin, and the settings that its own ``Config`` validates."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})
