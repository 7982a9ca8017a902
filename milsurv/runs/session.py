"""The session that a command opens: a configuration, its plugins, and where the work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from milsurv.config.run import RunConfig
from milsurv.executors.base import (
    LOCKED,
    WORKER_DIED,
    Context,
    Event,
    Executor,
    SharedObjects,
    Unit,
)
from milsurv.executors.devices import Device
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress, Stage


@dataclass(frozen=True)
class Session:
    """Shared objects of all stages of a run; created only by :func:`open_session`."""

    config: RunConfig
    registry: Registry
    device: Device
    """The device that units of work compute on."""
    executor: Executor
    progress: RunProgress

    @contextmanager
    def context(self) -> Iterator[Context]:
        """A context for work in this process; its shared objects are closed when the block ends."""
        with SharedObjects() as shared:
            yield Context(self.executor.placement(), shared=shared)


@contextmanager
def open_session(config: RunConfig, registry: Registry, progress: RunProgress) -> Iterator[Session]:
    """Choose the device and start the executor, whose workers end with the block.

    Raises MilsurvError when the configured device does not exist, PluginError when the source of a plugin changed
    after it was imported.
    """
    registry.require_unchanged()
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by PyTorch's documentation
    with registry.create("executor", config.executor, config.device) as executor:
        yield Session(config, registry, executor.device, executor, progress)


def advance(stage: Stage, done: str, unit: Unit, event: Event, note: object = "") -> None:
    """Advance a stage by each event named ``done``, and report units that wait or are restarted."""
    if event["event"] == LOCKED:
        stage.wait_for(unit.name)
    elif event["event"] == WORKER_DIED:
        stage.run_again(unit.name, event["how"])
    stage.advance(event["event"] == done, note)
