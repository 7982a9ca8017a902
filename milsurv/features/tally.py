"""What extraction has come to so far: for the line of progress, and for machines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from milsurv.errors import size
from milsurv.executors.base import Event
from milsurv.storage.atomic import append_event

EVENTS = "events.jsonl"


@dataclass
class Tally:
    """Counts what units report while features are made, and keeps what became of each slide in ``events.jsonl``."""

    folder: Path
    """Of the feature files."""
    patches: int = 0
    bytes: int = 0
    left_out: int = 0
    _started: float = field(default_factory=time.monotonic)

    def add(self, event: Event) -> None:
        """Take in what a unit reported."""
        if event["event"] == "patches":
            self.patches += event["count"]
            return
        if event["event"] == "slide":
            self.bytes += event.get("bytes", 0)
            self.left_out += event["reason"] is not None
        append_event(self.folder / EVENTS, {**event, "patches_so_far": self.patches})

    def __str__(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        parts = [f"{self.patches / elapsed:,.0f} patches/s"] if self.patches else []
        return ", ".join([*parts, f"{size(self.bytes)} written", f"{self.left_out} left out"])
