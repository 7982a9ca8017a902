"""What a run says while it works: bars on a terminal, plain lines elsewhere, nothing but problems when quiet."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def silence_libraries() -> None:
    """Keep what libraries say of their own future, here and in worker processes, from the user."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


LINE_EVERY = 15.0
"""Seconds between two plain lines of one stage."""


class Stage:
    """One stage under way, counted in ``unit``."""

    def __init__(self, console: Console, title: str, total: int, unit: str, bars: Progress | None):
        self._console = console
        self._title, self._total, self._unit = title, total, unit
        self._bars = bars
        self._task: TaskID | None = bars.add_task(title, total=total, rate="") if bars else None
        self._started = self._spoken = time.monotonic()
        self.done = 0

    def advance(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self.done, rate=self._rate())
        elif time.monotonic() - self._spoken > LINE_EVERY and self.done < self._total:
            self._spoken = time.monotonic()
            left = (self._total - self.done) * (self._spoken - self._started) / max(self.done, 1)
            self._say(f"{self.done}/{self._total} {self._unit}, {self._rate()}, {duration(left)} left")

    def wait_for(self, what: str) -> None:
        """Say that another run has ``what`` in hand."""
        self._say(f"waiting for {what}, which another run has in hand")

    def finish(self) -> None:
        """Say how long it took."""
        elapsed = time.monotonic() - self._started
        if self._total == 0:
            self._say("nothing left to do")
        elif self._bars is None:
            self._say(f"{self.done} {self._unit} in {duration(elapsed)}")

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return f"{self.done / elapsed:.1f} {self._unit}/s"

    def _say(self, text: str) -> None:
        self._console.print(f"{self._title}: {text}", highlight=False, soft_wrap=True)


class RunProgress:
    """Prints a run's plan, stages, warnings and results."""

    def __init__(self, quiet: bool = False):
        self.console = Console(quiet=quiet)
        self.problems = Console(stderr=True)

    def say(self, text: str = "") -> None:
        """A line of the plan or the result."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """A line that the user should not miss, also when quiet."""
        self.problems.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    def error(self, text: str) -> None:
        """Something that the user must mend."""
        self.problems.print(f"error: {text}", style="bold red", highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Stage]:
        """Show progress through ``total`` of ``unit`` until the block ends."""
        bars = self._bars() if total and self.console.is_terminal and not self.console.quiet else None
        stage = Stage(self.console, title, total, unit, bars)
        if bars is None:
            yield stage
        else:
            with bars:
                yield stage
        stage.finish()

    def _bars(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
        )


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
