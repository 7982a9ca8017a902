"""Errors that the user can fix: printed as one line each, exit status 2. Any other exception is a bug."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class MilsurvError(Exception):
    """An error that the user can fix. The message says what is wrong, where, what is allowed, and what to do."""


class ProblemsError(MilsurvError):
    """Several problems, reported together with one line each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[ProblemsError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class ConfigError(ProblemsError):
    """Problems of a configuration."""


class CohortError(ProblemsError):
    """Problems of a cohort's table, slides folder or splits."""


class PluginError(MilsurvError):
    """A plugin is unknown, ambiguous, or broken."""


class SlideError(MilsurvError):
    """The slide cannot be used and is excluded; the message is the reason in ``slides.csv``. The run continues."""


TABLE_ADVICE = (
    "add a column with the µm per level-0 pixel to the cohort table and name it in cohort.columns.mpp"
)


class ResolutionError(SlideError):
    """A slide's µm/px is unknown, impossible or unsuitable; the message ends with how to set it."""

    def __init__(self, problem: str, advice: str = TABLE_ADVICE):
        super().__init__(problem, advice)
        self.problem = problem

    def __str__(self) -> str:
        return "; ".join(self.args)

    def advised(self, advice: str) -> str:
        """The message for a command that takes the µm/px from elsewhere than the cohort table."""
        return f"{self.problem}; {advice}" if self.args[1] == TABLE_ADVICE else str(self)


class SlideFaultError(SlideError):
    """Reading the slide raised an unexpected exception, which is the ``__cause__``."""

    def __init__(self, problem: str, where: str):
        super().__init__(problem, where)
        self.fault = f"{problem.partition(':')[0]} at {where}"
        """Exception type and source line; equal for slides that fail in the same way."""

    def __str__(self) -> str:
        problem, where = self.args
        return f"failed unexpectedly: {problem} (in {where})"


def slide_reason(error: SlideError, mpp_advice: str) -> str:
    """Why a slide is excluded, in one line."""
    return error.advised(mpp_advice) if isinstance(error, ResolutionError) else str(error)


class WeightsError(MilsurvError):
    """The weights of a backbone are not available."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or an empty string if no known name is similar."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def size(count: float) -> str:
    """A number of bytes for display, such as ``24 GB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def first_line(error: Exception) -> str:
    """The first line of a library's error message."""
    return str(error).strip().partition("\n")[0]


@contextmanager
def name_file_on_full_disk(path: Path) -> Iterator[None]:
    """Convert an OSError of a full disk or quota, raised while writing ``path``, into a MilsurvError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MilsurvError(
            f"the disk is full: cannot write {path} ({error.strerror}); finished work is kept: free some space "
            "or move the workspace to a larger disk, then run the same command again"
        ) from error
