"""The hooks that a plugin can implement, each marked with ``milsurv.hookimpl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pluggy

PROJECT = "milsurv"
PLUGIN_API = 1
"""Rises when plugins must change; a plugin module says ``milsurv_api = 1`` for the one that it was built for."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """Names a plugin class without importing it."""

    def __call__(self, name: str, target: str, *, summary: str) -> None:
        """``target`` is ``"package.module:Class"``; ``summary`` is one line for ``milsurv list-plugins``."""


@hookspec
def milsurv_register_readers(register: Register) -> None:
    """Called once at discovery, to name slide readers (see ``milsurv.slides.reader``)."""


@hookspec
def milsurv_register_tissue(register: Register) -> None:
    """Called once at discovery, to name tissue segmentations (see ``milsurv.slides.tissue``)."""


@hookspec
def milsurv_register_backbones(register: Register) -> None:
    """Called once at discovery, to name backbones (see ``milsurv.Backbone``)."""


@hookspec
def milsurv_register_aggregators(register: Register) -> None:
    """Called once at discovery, to name aggregators (see ``milsurv.Aggregator``)."""


@hookspec
def milsurv_register_losses(register: Register) -> None:
    """Called once at discovery, to name losses (see ``milsurv.Loss``)."""


@hookspec
def milsurv_run_started(config: dict[str, Any], folder: Path) -> None:
    """Called in the driving process when a run's folder is laid out, before the first fold trains.

    ``config`` is the whole resolved configuration, ``folder`` the run's folder.
    """


@hookspec
def milsurv_epoch_finished(seed: int, fold: int, epoch: int, values: dict[str, float], folder: Path) -> None:
    """Called in the driving process after each epoch of each fold, with the numbers of its row in ``history.csv``.

    ``folder`` is the fold's. After a kill, an epoch that was saved is not told again, and one that was not is told once
    more with the same numbers; ``history.csv`` has each once when the fold is finished.
    """


@hookspec
def milsurv_fold_finished(seed: int, fold: int, folder: Path) -> None:
    """Called in the driving process when a fold's model and predictions are whole in ``folder``."""


@hookspec
def milsurv_run_finished(folder: Path, metrics: dict[str, Any]) -> None:
    """Called in the driving process when the report stands; ``metrics`` is what ``metrics.json`` holds."""
