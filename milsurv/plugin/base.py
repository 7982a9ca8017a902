"""What every plugin's ``Config`` derives from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PluginConfig(BaseModel):
    """Settings of a plugin, as they stand in its section of the YAML. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
