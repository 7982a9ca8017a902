"""Loads a run configuration from YAML and reports all of its problems at once.

Unlike plain PyYAML, ``1e-4`` is parsed as a number and duplicate keys are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from milsurv.config.cohort import COHORT_SOURCES
from milsurv.config.run import RunConfig, plugin_name
from milsurv.config.training import Training
from milsurv.errors import ConfigError, MilsurvError, PluginError, nearest
from milsurv.plugin.base import PluginSection
from milsurv.plugin.kinds import SECTIONS
from milsurv.plugin.registry import LOCAL, Registry, get_registry
from milsurv.storage.documents import YAMLError, compose_yaml, construct_yaml, read_yaml_text

Place = tuple[str | int, ...]
MESSAGES = {
    "model_type": "must be a mapping, such as {name: …}",
    "model_attributes_type": "must be a mapping, such as {name: …}",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list, such as [1, 2]",
    "path_type": "must be a path",
}
"""pydantic error type -> message."""


def load_config(
    source: str, overrides: Sequence[str] = (), plugin_files: Sequence[Path] = ()
) -> tuple[RunConfig, Registry]:
    """Return the validated configuration, and a registry that includes its local plugins.

    ``source`` is a YAML file or the name of a bundled configuration such as ``demo``; ``overrides`` are strings
    ``key.subkey=value``. Plugin settings are validated against the plugin's ``Config`` and completed with its
    defaults. Raises ConfigError with all problems, each with file and line.
    """
    path = find_config(source)
    document = _Document(path)
    document.apply(overrides)
    data = document.data
    data.setdefault("name", path.stem)
    local = _local_plugins(document, plugin_files)
    data["plugins"] = local
    registry = get_registry(local)
    document.problems += [
        f"plugin file {info.distribution} is broken: {info.reason}"
        for info in registry.plugins
        if info.version == LOCAL and info.status != "ok"
    ]
    problems: list[str] = list(document.problems)
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        problems += [document.describe(detail, RunConfig) for detail in error.errors()]
    settings = _plugin_settings(document, registry, problems)
    problems += _problems_of_layout(document, registry)
    if config is not None and "loss" in settings:
        problems += _problems_of_coupling(document, registry, settings["loss"][0], config.training)
    if problems or config is None:
        raise ConfigError(problems)
    sections = {
        kind: type(getattr(config, kind))(name=name, **values) for kind, (name, values) in settings.items()
    }
    return config.model_copy(update=sections), registry


def _problems_of_layout(document: _Document, registry: Registry) -> list[str]:
    """An unknown layout of imported features."""
    section = document.data.get("features")
    layout = section.get("layout") if isinstance(section, dict) else None
    if not isinstance(layout, str):
        return []
    try:
        registry.find("feature_layout", layout)
    except PluginError as error:
        return [f"{document.where(('features', 'layout'))}: features.layout: {error}"]
    return []


def _problems_of_coupling(
    document: _Document, registry: Registry, loss: str, training: Training
) -> list[str]:
    """Settings that cannot be combined with a loss that couples the cases of a batch."""
    if not registry.load("loss", loss).couples_cases:
        return []
    conflicts = {"sampling": ("balanced", "uniform"), "rows": ("slide", "case")}
    return [
        f"{document.where(('training', key))}: training.{key}: {value} can repeat a case within a batch, but loss "
        f"'{loss}' compares the cases of a batch and needs each once; use {instead}, or a loss that does not couple "
        "cases, such as nll"
        for key, (value, instead) in conflicts.items()
        if getattr(training, key) == value
    ]


def _local_plugins(document: _Document, plugin_files: Sequence[Path]) -> list[Path]:
    """Plugin files given in the configuration and on the command line, without duplicates."""
    named = document.data.get("plugins") or []
    if not isinstance(named, list) or not all(isinstance(file, str) for file in named):
        document.problems.append(
            f"{document.where(('plugins',))}: plugins: must be a list of files, such as [./my_plugin.py]"
        )
        named = []
    return list(dict.fromkeys(Path(file).expanduser().absolute() for file in (*named, *plugin_files)))


def find_config(source: str) -> Path:
    """The file for ``source``, a path or the name of a bundled configuration. Raises MilsurvError if there is none."""
    path = Path(source)
    return path if path.is_file() else find_bundled(source)


def find_bundled(name: str) -> Path:
    """The file of a bundled configuration. Raises MilsurvError for an unknown name."""
    known = bundled_configs()
    if name not in known:
        raise MilsurvError(
            f"{name}: no such file or bundled configuration{nearest(name, known)}; "
            f"bundled are: {', '.join(known)}"
        )
    return known[name]


def bundled_configs() -> dict[str, Path]:
    """Name -> file of the bundled configurations."""
    installed = Path(str(files("milsurv"))) / "configs"
    folder = installed if installed.is_dir() else installed.parent.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _plugin_settings(
    document: _Document, registry: Registry, problems: list[str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and complete settings of each plugin section; appends to ``problems``."""
    complete = {}
    for kind in SECTIONS:
        default = RunConfig.model_fields[kind].default
        given = document.data.get(kind, default.model_dump() if isinstance(default, PluginSection) else None)
        if not isinstance(given, dict) or not isinstance(name := plugin_name(kind, given), str):
            continue
        values = {key: value for key, value in given.items() if key != "name"}
        try:
            plugin_config = registry.load(kind, name).Config
            complete[kind] = (name, plugin_config.model_validate(values).model_dump(mode="json"))
        except PluginError as error:
            problems.append(f"{document.where((kind, 'name'))}: {kind}.name: {error}")
        except ValidationError as error:
            problems += [document.describe(detail, plugin_config, (kind,)) for detail in error.errors()]
    return complete


class _Document:
    """The data of a YAML file, with the line of each key."""

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[str] = []
        self.lines: dict[Place, str] = {}
        try:
            root = compose_yaml(read_yaml_text(path))
            if root is not None:
                self._index(root, ())
            data = construct_yaml(root) or {}
        except YAMLError as error:
            line = f":{error.line}" if error.line else ""
            raise ConfigError([f"{path}{line}: {error}"]) from None
        if not isinstance(data, dict):
            raise ConfigError([f"{path}:1: must be a mapping, such as 'cohort:'"])
        self.data: dict[str, Any] = {key: value for key, value in data.items() if value is not None}

    def _index(self, node: yaml.Node, place: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.value in seen:
                    self.problems.append(
                        f"{self.path}:{line}: duplicate key '{key.value}', first given in line {seen[key.value]}; "
                        "remove one"
                    )
                seen.setdefault(key.value, line)
                self.lines[(*place, key.value)] = f"{self.path}:{line}"
                self._index(value, (*place, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self.lines[(*place, position)] = f"{self.path}:{item.start_mark.line + 1}"
                self._index(item, (*place, position))

    def apply(self, overrides: Sequence[str]) -> None:
        """Apply ``key.subkey=value`` overrides; plugin names first, because they reset the plugin's section."""
        plugin_names = {f"{kind}.name" for kind in SECTIONS}
        for override in sorted(
            overrides, key=lambda item: item.partition("=")[0].strip() not in plugin_names
        ):
            key, equals, text = override.partition("=")
            steps = key.strip().split(".")
            if not equals or not all(steps):
                raise ConfigError([f"--set {override}: write key.subkey=value, such as training.epochs=5"])
            try:
                value = construct_yaml(compose_yaml(text))
            except YAMLError:
                raise ConfigError([f"--set {override}: the value is not valid YAML"]) from None
            section = self.data
            for step in steps[:-1]:
                section = section.setdefault(step, {})
                if not isinstance(section, dict):
                    raise ConfigError([f"--set {override}: '{step}' is a value, not a section"])
            if key.strip() in plugin_names and plugin_name(steps[0], section) != value:
                section.clear()  # these are the settings of another plugin
            section[steps[-1]] = value
            self.lines[tuple(steps)] = f"--set {override}"

    def where(self, place: Place) -> str:
        """File and line of a key, or of the innermost section around it."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return f"{self.path}"

    def describe(self, detail: ErrorDetails, model: type[BaseModel], section: Place = ()) -> str:
        """One line for a pydantic error of ``model``, which validates ``section``."""
        loc = detail["loc"]
        if section == () and len(loc) > 1 and loc[0] == "cohort":  # loc[1] is the union's tag
            section, model, loc = ("cohort",), COHORT_SOURCES[str(loc[1])], loc[2:]
        place = (*section, *loc)
        message = MESSAGES.get(detail["type"], detail["msg"].removeprefix("Value error, "))
        message = message[0].lower() + message[1:]
        if detail["type"] == "extra_forbidden":
            known = _fields(model, loc)
            message = f"unknown key{nearest(str(loc[-1]), known)}; allowed are: {', '.join(known)}"
        elif detail["type"] == "missing":
            message = "this key is missing"
        elif detail["type"] == "union_tag_invalid":
            place, message = ("cohort", "source"), "must be 'table' or 'synthetic'"
        elif detail["type"] == "slides":
            place = ("cohort", "slides")
        elif place == ("name",) and place not in self.lines:
            message = "the file name is not a valid run name; add 'name:' with only letters, digits, '.', '_' and '-'"
        elif detail["type"] != "backbone" and not isinstance(detail["input"], dict):
            message += f", not {detail['input']!r}"
        return f"{self.where(place)}: {'.'.join(str(step) for step in place)}: {message}"


def _fields(model: type[BaseModel], loc: Place) -> list[str]:
    """Field names that are allowed at ``loc``."""
    models = [model]
    for step in loc[:-1]:
        models = [
            inner
            for outer in models
            if step in outer.model_fields
            for inner in _models(outer.model_fields[str(step)])
        ]
    return sorted({field.alias or name for inner in models for name, field in inner.model_fields.items()})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models in a field's annotation."""
    annotation = getattr(annotation, "annotation", annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
