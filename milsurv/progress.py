"""Progress output: bars on a terminal, plain lines elsewhere, only warnings and errors when quiet."""

from __future__ import annotations

import io
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from milsurv.storage.atomic import append_line


def silence_libraries() -> None:
    """Suppress future and deprecation warnings of libraries, here and in worker processes."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def accept_any_text() -> None:
    """Print characters that the terminal cannot encode, and undecodable file names, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard buffered output that cannot be written, so that the interpreter does not fail on it at exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and undecodable bytes of file names."""


class PlainConsole(Console):
    """A console without markup and emoji that prints control characters as escapes."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False):
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """``text`` with control characters as escapes such as ``\\x1b``, except newlines and tabs."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


LINE_EVERY = 15.0
"""Seconds between plain lines of a stage."""


class Stage:
    """Progress of one stage, counted in ``unit``."""

    def __init__(self, progress: RunProgress, title: str, total: int, unit: str, bars: Progress | None):
        self._progress = progress
        self._title, self._total, self._unit = title, total, unit
        self._bars = bars
        self._task: TaskID | None = bars.add_task(title, total=total, rate="") if bars else None
        self._started = self._last_line = time.monotonic()
        self.done = 0

    def advance(self, count: int = 1, note: object = "") -> None:
        """Add ``count`` finished units. ``note`` is shown at the end of the line."""
        self.done += count
        if self._bars is not None and self._task is not None:
            rate = f"{self._rate()} {note}".strip()
            self._bars.update(self._task, completed=self.done, rate=rate)
        if time.monotonic() - self._last_line > LINE_EVERY and self.done < self._total:
            self._last_line = time.monotonic()
            parts = [f"{self.done}/{self._total} {self._unit}", self._rate()]
            if self.done:
                per_unit = (self._last_line - self._started) / self.done
                parts.append(f"{duration((self._total - self.done) * per_unit)} left")
            parts.append(str(note))
            self._say(", ".join(part for part in parts if part), shown=self._bars is None)

    def wait_for(self, what: str) -> None:
        """Print that another run is working on ``what``."""
        self._say(f"waiting for {what}, which another run is working on")

    def run_again(self, what: str, how: str) -> None:
        """Warn that the worker process of ``what`` died, and that it is done again."""
        self._progress.warn(
            f"{self._title}: the worker process of {what} died ({how}), perhaps because memory ran out; it is run again"
        )

    def finish(self) -> None:
        """Print the elapsed time."""
        elapsed = time.monotonic() - self._started
        if self._total == 0:
            self._say("already finished")
        else:
            self._say(f"{self.done} {self._unit} in {duration(elapsed)}", shown=self._bars is None)

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return f"{self.done / elapsed:.1f} {self._unit}/s"

    def _say(self, text: str, shown: bool = True) -> None:
        self._progress.say(f"{self._title}: {text}", shown)


class RunProgress:
    """Prints the plan, stages, warnings and results of a run, and writes them to a log file if there is one."""

    def __init__(self, quiet: bool = False):
        self.console = PlainConsole(quiet=quiet)
        self.problems = PlainConsole(stderr=True)
        self._log: Path | None = None

    def log_to(self, file: Path) -> None:
        """Append all further lines to ``file``, with the time, also when quiet."""
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._log = file

    def log(self, text: str) -> None:
        """Write lines only to the log file. Failure to write is ignored."""
        if self._log is not None and text:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            with suppress(OSError):
                append_line(self._log, "\n".join(f"{at} {line}" for line in printable(text).splitlines()))

    def say(self, text: str = "", shown: bool = True) -> None:
        """Print a line; with ``shown=False`` only log it, because a bar shows it already."""
        self.log(text)
        if shown:
            self.console.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, also when quiet."""
        self.log(f"warning: {text}")
        self.problems.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def error(self, text: str) -> None:
        """Print an error."""
        self.log(f"error: {text}")
        self.problems.print(f"error: {text}", style="bold red", soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Stage]:
        """Show the progress of ``total`` units until the block ends."""
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
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
        )


def duration(seconds: float) -> str:
    """A duration for display, such as ``2 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
