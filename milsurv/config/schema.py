"""JSON schema of a configuration, including the settings of every plugin that can be loaded."""

from __future__ import annotations

from typing import Any, Literal, Union

from pydantic import BaseModel, Field, create_model

from milsurv.config.run import RunConfig, plugin_name
from milsurv.plugin.kinds import SECTIONS
from milsurv.plugin.registry import PluginInfo, Registry


def config_schema(registry: Registry) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration file; a plugin's settings depend on the ``name`` of its section.

    Imports every plugin class and leaves out broken ones. Rules that involve several keys, such as ``backbone`` or
    ``features``, are not expressed; ``milsurv check`` tests them.
    """
    plugins = [info for info in registry.verified() if info.status == "ok"]
    sections: dict[str, Any] = {}
    for kind in SECTIONS:
        models = tuple(_section(registry, info) for info in plugins if info.kind == kind)
        field = RunConfig.model_fields[kind]
        sections[kind] = (Union[models], Field(field.default, description=field.description))  # noqa: UP007
    schema = create_model("Configuration", __base__=RunConfig, **sections).model_json_schema()
    schema["$defs"]["FeatureImport"]["properties"]["layout"]["enum"] = registry.names("feature_layout")
    schema["required"].remove("name")  # defaults to the name of the file
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _section(registry: Registry, info: PluginInfo) -> type[BaseModel]:
    """A model of ``{name: <the plugin's>, …}`` with the plugin's settings."""
    config: type[BaseModel] = registry.load(info.kind, info.name).Config
    default = info.name if plugin_name(info.kind, {}) == info.name else ...
    name: Any = (Literal[info.name], Field(default, description=f"The {info.kind}: {info.summary}"))
    return create_model(f"{info.kind}_{info.name}", __base__=config, __doc__=info.summary, name=name)
