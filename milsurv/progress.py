"""What a run says while it works: bars on a terminal, plain lines elsewhere, nothing but problems when quiet."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from milsurv.artifacts import append_line


def silence_libraries() -> None:
    """Keep what libraries say of their own future, here and in worker processes, from the user."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


LINE_EVERY = 15.0
"""Seconds between two plain lines of one stage."""


class Stage:
    """One stage under way, counted in ``unit``."""

    def __init__(self, progress: RunProgress, title: str, total: int, unit: str, bars: Progress | None):
        self._progress = progress
        self._title, self._total, self._unit = title, total, unit
        self._bars = bars
        self._task: TaskID | None = bars.add_task(title, total=total, rate="") if bars else None
        self._started = self._spoken = time.monotonic()
        self.done = 0

    def advance(self, count: int = 1, note: object = "") -> None:
        """``count`` more are done. ``note`` stands at the end of the line."""
        self.done += count
        if self._bars is not None and self._task is not None:
            rate = f"{self._rate()} {note}".strip()
            self._bars.update(self._task, completed=self.done, rate=rate)
        if time.monotonic() - self._spoken > LINE_EVERY and self.done < self._total:
            self._spoken = time.monotonic()
            left = (
                (self._total - self.done) * (self._spoken - self._started) / self.done if self.done else None
            )
            told = f"{duration(left)} left" if left is not None else ""
            parts = (f"{self.done}/{self._total} {self._unit}", self._rate(), told, str(note))
            self._say(", ".join(part for part in parts if part), shown=self._bars is None)

    def wait_for(self, what: str) -> None:
        """Say that another run has ``what`` in hand."""
        self._say(f"waiting for {what}, which another run has in hand")

    def finish(self) -> None:
        """Say how long it took."""
        elapsed = time.monotonic() - self._started
        if self._total == 0:
            self._say("nothing left to do")
        else:
            self._say(f"{self.done} {self._unit} in {duration(elapsed)}", shown=self._bars is None)

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return f"{self.done / elapsed:.1f} {self._unit}/s"

    def _say(self, text: str, shown: bool = True) -> None:
        self._progress.say(f"{self._title}: {text}", shown)


class RunProgress:
    """Prints a run's plan, stages, warnings and results; all of it goes to a log file as well, if there is one."""

    def __init__(self, quiet: bool = False):
        self.console = Console(quiet=quiet)
        self.problems = Console(stderr=True)
        self._log: Path | None = None

    def log_to(self, file: Path) -> None:
        """Add every line from now on, with the time, to ``file``, quiet or not."""
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._log = file

    def log(self, text: str) -> None:
        """Lines for the log file alone. One that cannot be written is no reason to stop."""
        if self._log is not None and text:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            with suppress(OSError):
                append_line(self._log, "\n".join(f"{at} {line}" for line in text.splitlines()))

    def say(self, text: str = "", shown: bool = True) -> None:
        """A line of the plan or the result; ``shown`` False when a bar tells it already."""
        self.log(text)
        if shown:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """A line that the user should not miss, also when quiet."""
        self.log(f"warning: {text}")
        self.problems.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    def error(self, text: str) -> None:
        """Something that the user must mend."""
        self.log(f"error: {text}")
        self.problems.print(f"error: {text}", style="bold red", highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Stage]:
        """Show progress through ``total`` of ``unit`` until the block ends."""
        bars = self._bars() if total and self.console.is_terminal and not self.console.quiet else None
        stage = Stage(self, title, total, unit, bars)
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
