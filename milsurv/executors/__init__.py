"""Where units of work run. The names below are the public API for executors of plugins."""

from __future__ import annotations

from milsurv.executors.base import (
    LOCKED,
    WORKER_DIED,
    Context,
    Event,
    Executor,
    ExecutorConfig,
    OnEvent,
    Placement,
    Report,
    Resources,
    Stopped,
    Unit,
)
from milsurv.executors.devices import Device
from milsurv.executors.worker import Done, Failed, Message, Reported, packed, run_units

__all__ = [
    "LOCKED",
    "WORKER_DIED",
    "Context",
    "Device",
    "Done",
    "Event",
    "Executor",
    "ExecutorConfig",
    "Failed",
    "Message",
    "OnEvent",
    "Placement",
    "Report",
    "Reported",
    "Resources",
    "Stopped",
    "Unit",
    "packed",
    "run_units",
]
