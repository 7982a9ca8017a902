"""Tells plugins how a run goes, without letting one of them spoil it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pluggy


@dataclass(frozen=True)
class HookFailure:
    """A plugin that raised in a life-cycle hook, and is told nothing more of this run."""

    plugin: str
    """Its entry point's name, or its file."""
    hook: str
    error: str
    """Type and message on one line."""
    traceback: str


class LifeCycle:
    """Calls life-cycle hooks in every plugin; one that raises is reported once and switched off."""

    def __init__(self, manager: pluggy.PluginManager, on_failure: Callable[[HookFailure], None]):
        self._manager = manager
        self._on_failure = on_failure
        self._off: set[object] = set()

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call ``hook`` in all plugins that have it and are still on."""
        implementations = reversed(getattr(self._manager.hook, hook).get_hookimpls())  # as pluggy calls them
        plugins = [implementation.plugin for implementation in implementations]
        for plugin in plugins:
            if plugin in self._off:
                continue
            others = [other for other in plugins if other is not plugin]
            try:
                self._manager.subset_hook_caller(hook, others)(**arguments)
            except (Exception, SystemExit) as error:
                self._off.add(plugin)
                name = self._manager.get_name(plugin) or "?"
                line = f"{type(error).__name__}: {error}"
                self._on_failure(HookFailure(name, hook, line, traceback.format_exc()))
