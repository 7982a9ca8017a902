"""Creates the package of a new plugin: installable, tested, and small."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milsurv._version import __version__
from milsurv.errors import MilsurvError
from milsurv.plugin.kinds import KINDS
from milsurv.plugin.registry import Registry
from milsurv.plugin.spec import PLUGIN_API, PROJECT

Kind = Literal["aggregator", "backbone", "loss"]
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class NewPlugin:
    """The plugin to create."""

    kind: Kind
    name: str
    """Name in a configuration: lower-case letters, digits and ``_``."""

    @property
    def distribution(self) -> str:
        return f"{PROJECT}-{self.name.replace('_', '-')}"

    @property
    def module(self) -> str:
        return f"{PROJECT}_{self.name}"

    @property
    def class_name(self) -> str:
        return "".join(part.capitalize() for part in self.name.split("_"))


def new_plugin(kind: Kind, name: str, parent: Path, registry: Registry) -> Path:
    """Create the package of a plugin in a new folder in ``parent`` and return the folder.

    Raises MilsurvError if the name is invalid or taken by a plugin of that kind, or if the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise MilsurvError(
            f"'{name}' is not a valid plugin name: start with a lower-case letter, then letters, digits and single '_'"
        )
    taken = [info for info in registry.plugins if (info.kind, info.name) == (kind, name)]
    if taken:
        raise MilsurvError(f"{kind} '{name}' already exists in {taken[0].distribution}; choose another name")
    plugin = NewPlugin(kind, name)
    folder = parent / plugin.distribution
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise MilsurvError(f"{folder} already exists; remove it or choose another name") from None
    for path, text in _files(plugin).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def _files(plugin: NewPlugin) -> dict[str, str]:
    """Path in the package -> content."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    values = {
        "plugin": plugin,
        "hook": KINDS[plugin.kind].hook,
        "api": PLUGIN_API,
        "version": __version__,
    }

    def rendered(template: str) -> str:
        return environment.get_template(template).render(values)

    source = f"src/{plugin.module}"
    return {
        "pyproject.toml": rendered("pyproject.toml.jinja"),
        "README.md": rendered("README.md.jinja"),
        "LICENSE": distribution(PROJECT).read_text("licenses/LICENSE") or "",
        ".gitignore": rendered("gitignore.jinja"),
        f"{source}/__init__.py": rendered("init.py.jinja"),
        f"{source}/py.typed": "",
        f"{source}/plugin.py": rendered("plugin.py.jinja"),
        f"{source}/{plugin.kind}.py": rendered(f"{plugin.kind}.py.jinja"),
        "tests/test_contract.py": rendered("test_contract.py.jinja"),
    }
