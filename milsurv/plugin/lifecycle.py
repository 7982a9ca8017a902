"""Calling the life-cycle hooks of plugins, isolated from the run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pluggy


@dataclass(frozen=True)
class HookFailure:
    """A plugin that raised in a life-cycle hook, and is not called again in this run."""

    plugin: str
    """Name of its entry point, or its file."""
    hook: str
    error: str
    """Type and message in one line."""
    traceback: str


class LifeCycle:
    """Calls life-cycle hooks in every plugin. A plugin that raises is reported once and disabled."""

    def __init__(self, manager: pluggy.PluginManager, on_failure: Callable[[HookFailure], None]):
        self._manager = manager
        self._on_failure = on_failure
        self._disabled: set[object] = set()

    def call(self, hook: str, **arguments: Any) -> None:
        """Call ``hook`` in all plugins that implement it and are not disabled."""
        implementations = reversed(getattr(self._manager.hook, hook).get_hookimpls())  # in pluggy's order
        plugins = [implementation.plugin for implementation in implementations]
        for plugin in plugins:
            if plugin in self._disabled:
                continue
            others = [other for other in plugins if other is not plugin]
            try:
                self._manager.subset_hook_caller(hook, others)(**arguments)
            except (Exception, SystemExit) as error:
                self._disabled.add(plugin)
                name = self._manager.get_name(plugin) or "?"
                line = f"{type(error).__name__}: {error}"
                self._on_failure(HookFailure(name, hook, line, traceback.format_exc()))
