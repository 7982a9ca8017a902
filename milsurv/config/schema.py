"""JSON schema of a configuration, with the settings of every plugin that can be loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from milsurv.config.run import RunConfig
from milsurv.errors import PluginError
from milsurv.plugin.registry import KINDS, Registry


def config_schema(registry: Registry) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a run's YAML file; plugin sections are told apart by their ``name``.

    Imports every plugin class. Broken plugins are left out. Rules that relate several keys are not part of the schema;
    ``milsurv check`` reports those.
    """
    sections: dict[str, Any] = {}
    for kind in SECTIONS:
        field = RunConfig.model_fields[kind]
        choices = tuple(filter(None, (_plugin_model(registry, kind, name) for name in registry.names(kind))))
        any_plugin = Annotated[choices[0] if len(choices) == 1 else _union(choices), ...]
        sections[kind] = (any_plugin, Field(field.default, description=field.description))
    schema = create_model("Configuration", __base__=RunConfig, **sections).model_json_schema(by_alias=True)
    schema["required"].remove("name")  # defaults to the name of the file
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
