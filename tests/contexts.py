"""Contexts in which tests call units of work themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milsurv.executors.base import Context, Placement, Report


def on_cpu(
    report: Report = lambda _event: None, raise_if_stopped: Callable[[], Any] = lambda: None
) -> Context:
    """A context of its own on the CPU."""
    return Context(Placement(device="cpu"), report, raise_if_stopped)
