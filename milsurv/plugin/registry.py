"""Discovery of plugins: built in, installed (entry points of the group ``milsurv``), and local files.

A plugin that fails to import or to register is listed as broken, with its distribution and the reason, and affects
only runs that use it. ``MILSURV_LOAD_PLUGINS=a,b`` limits which entry points are loaded; empty means none. A plugin
module declares with ``milsurv_api = 1`` the plugin API that it is built for; the default is 1.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from milsurv._version import __version__
from milsurv.errors import PluginError, nearest
from milsurv.plugin import builtins, spec
from milsurv.plugin.kinds import KINDS
from milsurv.plugin.sources import source_fingerprint

if TYPE_CHECKING:
    from milsurv.plugin.base import PluginSection

TRACKER = "tracker"
"""Kind of plugins that register nothing and only have life-cycle hooks."""
HOOK_PREFIX = "milsurv_"
LOCAL = "local file"
LIMIT = "MILSURV_LOAD_PLUGINS"
"""Environment variable with the entry points or distributions to load."""


@dataclass(frozen=True)
class PluginInfo:
    """A row of ``milsurv list-plugins``. The kind is ``-`` if a distribution is broken before it registers anything."""

    kind: str
    name: str
    summary: str
    distribution: str
    version: str
    status: str
    """``ok`` or ``broken``."""
    reason: str | None = None
    target: str | None = None
    """``package.module:Class``, imported when first used."""


class Registry:
    """The plugins of this process: built in, installed, and the given local files."""

    def __init__(self, files: Iterable[Path] = ()):
        self.manager = pluggy.PluginManager(spec.PROJECT)
        self.manager.add_hookspecs(spec)
        self.manager.add_hookspecs(spec.REGISTERING)
        self.plugins: list[PluginInfo] = []
        self._origins: dict[tuple[str, str], str] = {}
        own = distribution(spec.PROJECT)
        self._add(lambda: builtins, "milsurv.plugin.builtins", own.name, own.version)
        for entry_point in _entry_points():
            source = entry_point.dist
            name, version = (source.name, source.version) if source else ("?", "?")
            self._add(entry_point.load, entry_point.name, name, version)
        for file in files:
            self._add(partial(_load_file, file), str(file), str(file), LOCAL)

    def _add(self, load: Callable[[], Any], name: str, source: str, version: str) -> None:
        """Load a plugin module and collect its registrations, or list it as broken."""
        found: list[PluginInfo] = []
        module = None
        try:
            module = load()
            _require_api(module)
            _require_hooks(module, list(vars(self.manager.hook)))
            self.manager.register(module, name=name)
            self.manager.check_pending()
            for kind in KINDS.values():
                if implementation := getattr(module, kind.hook, None):
                    implementation(_collector(found, kind.name, source, version))
        except (Exception, SystemExit) as error:
            if module is not None and self.manager.get_plugin(name) is module:
                self.manager.unregister(module)
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            broken = [replace(info, status="broken", reason=reason, target=None) for info in found]
            self.plugins += broken or [PluginInfo("-", name, "", source, version, "broken", reason)]
            return
        if not found and module is not builtins:
            summary = (module.__doc__ or "").strip().partition("\n")[0]
            found.append(PluginInfo(TRACKER, name, summary, source, version, "ok"))
        for info in found:
            self._keep(info)

    def _keep(self, info: PluginInfo) -> None:
        taken = [other for other in self.plugins if (other.kind, other.name) == (info.kind, info.name)]
        if taken:
            reason = f"{info.kind} '{info.name}' is also registered by {taken[0].distribution}"
            info = replace(info, status="broken", reason=reason)
        self.plugins.append(info)

    def names(self, kind: str) -> list[str]:
        """The names of the usable plugins of a kind, in alphabetical order."""
        return sorted(info.name for info in self.plugins if info.kind == kind and info.status == "ok")

    def find(self, kind: str, name: str) -> PluginInfo:
        """The plugin of that kind and name. Raises PluginError if it is unknown, ambiguous or broken."""
        matches = [info for info in self.plugins if (info.kind, info.name) == (kind, name)]
        if not matches:
            raise PluginError(self._unknown(kind, name))
        if len(matches) > 1:
            sources = " and ".join(f"{info.distribution} {info.version}" for info in matches)
            raise PluginError(
                f"{kind} '{name}' is registered by {sources}; uninstall one, or limit what is loaded with {LIMIT}"
            )
        if matches[0].status != "ok":
            raise PluginError(f"{kind} '{name}' of {matches[0].distribution} is broken: {matches[0].reason}")
        return matches[0]

    def _unknown(self, kind: str, name: str) -> str:
        known = sorted({info.name for info in self.plugins if info.kind == kind})
        broken = [info for info in self.plugins if info.kind == "-"]
        hint = "".join(f"; {info.distribution} failed to load: {info.reason}" for info in broken)
        if LIMIT in os.environ:
            hint += f"; {LIMIT}={os.environ[LIMIT]} limits what is loaded"
        return f"unknown {kind} '{name}'{nearest(name, known)}; available: {', '.join(known)}{hint}"

    def load(self, kind: str, name: str) -> Any:
        """The plugin's class, imported. Raises PluginError like :meth:`find`, or if the import fails."""
        info = self.find(kind, name)
        module_name, _, class_name = str(info.target).partition(":")
        try:
            return getattr(importlib.import_module(module_name), class_name)
        except Exception as error:
            raise PluginError(
                f"{kind} '{name}' of {info.distribution} cannot be imported from {info.target}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def create(self, kind: str, section: PluginSection, *arguments: Any) -> Any:
        """The plugin selected by a section of the configuration, created with its settings and ``arguments``."""
        return self.load(kind, section.name)(self.config(kind, section), *arguments)

    def config(self, kind: str, section: PluginSection) -> Any:
        """A section's settings as the ``Config`` of its plugin, with defaults."""
        return self.load(kind, section.name).Config(**section.settings)

    def describe(self, kind: str, name: str) -> str:
        """A plugin in an error message: its kind, name and distribution."""
        info = self.find(kind, name)
        source = info.distribution if info.version == LOCAL else f"{info.distribution} {info.version}"
        return f"{kind} '{name}' of {source}"

    def origin(self, kind: str, name: str) -> str:
        """The fingerprint of a plugin's source, see :mod:`milsurv.plugin.sources`.

        It is computed once, since Python does not import changed code again either.
        """
        if (kind, name) not in self._origins:
            self._origins[kind, name] = self._source(kind, name)
        return self._origins[kind, name]

    def own_origin(self, kind: str, name: str) -> str:
        """The same without the modules of milsurv that the plugin imports, so that it is stable across its versions."""
        return self._source(kind, name, with_milsurv=False)

    def _source(self, kind: str, name: str, with_milsurv: bool = True) -> str:
        info = self.find(kind, name)
        modules = [str(info.target).partition(":")[0]]
        if info.version == LOCAL:
            modules.append(Path(info.distribution).stem)
        try:
            return source_fingerprint(
                *modules, distribution_name=info.distribution, with_milsurv=with_milsurv
            )
        except OSError as error:
            raise PluginError(f"{self.describe(kind, name)}: its source cannot be read: {error}") from error

    def require_unchanged(self) -> None:
        """Raise PluginError if a plugin's source has changed since this process imported it."""
        for (kind, name), origin in self._origins.items():
            if self._source(kind, name) != origin:
                raise PluginError(
                    f"{self.describe(kind, name)} has changed since it was imported; restart Python to use the new code"
                )

    def require_origins(self, expected: Mapping[tuple[str, str], str]) -> None:
        """Raise PluginError unless plugins, by kind and name, have these source fingerprints in this process."""
        for (kind, name), origin in expected.items():
            if self.origin(kind, name) != origin:
                raise PluginError(
                    f"{self.describe(kind, name)} changed during the run; run the command again, which starts from the "
                    "beginning with the new code"
                )

    def verified(self) -> list[PluginInfo]:
        """The plugins after importing every class and checking the interface of its kind."""
        return [self._verify(info) for info in self.plugins]

    def _verify(self, info: PluginInfo) -> PluginInfo:
        if info.status != "ok" or info.kind == TRACKER:
            return info
        try:
            plugin_class = self.load(info.kind, info.name)
        except PluginError as error:
            return replace(info, status="broken", reason=str(error))
        problem = KINDS[info.kind].problem_of(plugin_class)
        return replace(info, status="broken", reason=f"{info.target} {problem}") if problem else info


def _collector(found: list[PluginInfo], kind: str, source: str, version: str) -> spec.Register:
    def register(name: str, target: str, *, summary: str) -> None:
        if ":" not in target:
            raise ValueError(f"{kind} '{name}': target must be 'package.module:Class', not '{target}'")
        found.append(PluginInfo(kind, name, summary, source, version, "ok", None, target))

    return register


def _require_api(module: Any) -> None:
    built_for = getattr(module, "milsurv_api", 1)
    if built_for != spec.PLUGIN_API:
        raise PluginError(
            f"built for plugin API {built_for}, but milsurv {__version__} has plugin API {spec.PLUGIN_API}; "
            "install compatible versions of the plugin and of milsurv"
        )


def _require_hooks(module: Any, known: Sequence[str]) -> None:
    """Raise PluginError for functions that look like hooks but would never be called."""
    for name, value in vars(module).items():
        if not name.startswith(HOOK_PREFIX) or not inspect.isroutine(value):
            continue
        if name not in known:
            raise PluginError(f"there is no hook '{name}'{nearest(name, known)}")
        if not hasattr(value, f"{spec.PROJECT}_impl"):
            raise PluginError(f"the function '{name}' is not marked with @milsurv.hookimpl")


def _entry_points() -> list[EntryPoint]:
    found = sorted(entry_points(group=spec.PROJECT), key=lambda entry_point: entry_point.name)
    wanted = os.environ.get(LIMIT)
    if wanted is None:
        return found
    names = {name.strip() for name in wanted.split(",")}
    return [e for e in found if e.name in names or (e.dist is not None and e.dist.name in names)]


def _load_file(file: Path) -> ModuleType:
    """Import a local plugin file under its stem, so that its targets are ``stem:Class``."""
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or module_spec is None or module_spec.loader is None:
        raise FileNotFoundError(f"no Python file at {file}")
    known = sys.modules.get(file.stem)
    if known is not None and _is_file(file, getattr(known, "__file__", None)):
        return known
    if "." in file.stem:
        raise ImportError("a name with dots cannot be imported; rename the file")
    if known is not None or _another_module(file):
        raise ImportError(f"there is another module named '{file.stem}'; rename the file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[file.stem] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module


def _is_file(file: Path, origin: str | None) -> bool:
    return origin is not None and Path(origin).exists() and file.samefile(origin)


def _another_module(file: Path) -> bool:
    """Whether another module of the file's name can be imported; the file's own folder may be on the path."""
    found = importlib.util.find_spec(file.stem)
    if found is not None and _is_file(file, found.origin):
        folder = file.parent.resolve()
        others = [entry for entry in sys.path if Path(entry).resolve() != folder]
        found = importlib.machinery.PathFinder.find_spec(file.stem, others)
    return found is not None


_loading = threading.RLock()
"""Held while plugins are imported, since other threads would see partially imported modules."""


def get_registry(files: Iterable[Path] = ()) -> Registry:
    """The registry of this process, with these local plugin files, each loaded once."""
    with _loading:
        return _cached_registry(tuple(dict.fromkeys(file.absolute() for file in files)))


@cache
def _cached_registry(files: tuple[Path, ...]) -> Registry:
    return Registry(files)
