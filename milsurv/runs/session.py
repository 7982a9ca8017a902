"""The session that a command opens: a configuration, its plugins, and where the work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from milsurv.config.run import RunConfig
from milsurv.executors.base import Executor
from milsurv.executors.devices import choose_device, count_workers, visible_gpus
from milsurv.executors.local import LocalExecutor
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress


@dataclass(frozen=True)
class Session:
    """What every stage of a run works with; made by :func:`open_session` and nowhere else."""

    config: RunConfig
    registry: Registry
    device: str
    """Device on which the networks compute: ``cpu``, ``cuda`` or one GPU such as ``cuda:1``."""
    executor: Executor
    workers: int
    """Units of work that the executor runs at the same time."""
    progress: RunProgress


@contextmanager
def open_session(config: RunConfig, registry: Registry, progress: RunProgress) -> Iterator[Session]:
    """Choose the device and start the executor; its workers end with the block.

    Raises MilsurvError when the configured device does not exist, PluginError when the source of a plugin changed
    after it was imported.
    """
    registry.require_unchanged()
    device = choose_device(config.device)
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by PyTorch's documentation
    workers = count_workers(config.executor.workers, device)
    with LocalExecutor(workers, config.executor.threads, visible_gpus(device)) as executor:
        yield Session(config, registry, device, executor, workers, progress)
