"""The hooks that a plugin can implement, each marked with ``milsurv.hookimpl``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pluggy

from milsurv.plugin.kinds import KINDS, Kind

PROJECT = "milsurv"
PLUGIN_API = 1
"""Incremented when plugins must change. A plugin module declares with ``milsurv_api = 1`` the API it is built for."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """Registers a plugin by name, without importing it."""

    def __call__(self, name: str, target: str, *, summary: str) -> None:
        """``target`` is ``"package.module:Class"``; ``summary`` is one line for ``milsurv list-plugins``."""


def _registering_hook(kind: Kind) -> Callable[[Register], None]:
    def hook(register: Register) -> None: ...

    hook.__name__ = kind.hook
    hook.__doc__ = f"Called once at discovery, to register {kind.registers}."
    return hookspec(hook)


REGISTERING = type("RegisteringHooks", (), {kind.hook: _registering_hook(kind) for kind in KINDS.values()})
"""The registering hooks, one per kind of plugin."""


@hookspec
def milsurv_run_started(config: dict[str, Any], folder: Path) -> None:
    """Called in the driving process when a run's folder has been created, before training starts.

    ``config`` is the complete configuration, ``folder`` the run's folder.
    """


@hookspec
def milsurv_epoch_finished(seed: int, fold: int, epoch: int, values: dict[str, float], folder: Path) -> None:
    """Called in the driving process after each epoch of each fold, with the values of its row in ``history.csv``.

    ``folder`` is the fold's folder. When a killed run is resumed, epochs that had not been saved are reported again
    with the same values; ``history.csv`` contains each epoch once when the fold is finished.
    """


@hookspec
def milsurv_fold_finished(seed: int, fold: int, folder: Path) -> None:
    """Called in the driving process when a fold's model and predictions are complete in ``folder``."""


@hookspec
def milsurv_run_finished(folder: Path, metrics: dict[str, Any]) -> None:
    """Called in the driving process when the report is written; ``metrics`` is the content of ``metrics.json``."""
