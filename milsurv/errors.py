"""Errors that the user can mend: printed as one line each, exit status 2. Anything else is a bug."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class MilsurvError(Exception):
    """Something is wrong that the user can mend. The message says what, where, what is allowed, what to do."""


class ProblemsError(MilsurvError):
    """Problems found together and reported together, one line each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[ProblemsError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class ConfigError(ProblemsError):
    """Everything that is wrong with a configuration."""


class CohortError(ProblemsError):
    """Everything that is wrong with a cohort's table, slides folder or splits."""


class PluginError(MilsurvError):
    """A plugin is unknown, ambiguous, or broken."""


class SlideError(MilsurvError):
    """This slide cannot be used; the message is the reason given in ``slides.csv``. The run goes on."""


TABLE_ADVICE = (
    "give the µm per level-0 pixel in a column of the cohort table and name it in cohort.columns.mpp"
)


class ResolutionError(SlideError):
    """A slide's µm/px is unknown, impossible or unfit; the message ends with where to give the right value."""

    def __init__(self, what: str, advice: str = TABLE_ADVICE):
        super().__init__(what, advice)
        self.what = what

    def __str__(self) -> str:
        return "; ".join(self.args)

    def advised(self, advice: str) -> str:
        """The message with the advice of a command that takes the µm/px from elsewhere than a cohort's table."""
        return f"{self.what}; {advice}" if self.args[1] == TABLE_ADVICE else str(self)


class SlideFaultError(SlideError):
    """Reading one slide raised an exception that nothing foresaw; it is the ``__cause__``."""

    def __init__(self, what: str, where: str):
        super().__init__(what, where)
        self.fault = f"{what.partition(':')[0]} at {where}"
        """Kind and place, the same for every slide that fails in the same way."""

    def __str__(self) -> str:
        what, where = self.args
        return f"failed unexpectedly: {what} (in {where})"


def slide_reason(error: SlideError, mpp_advice: str) -> str:
    """Why a slide is left out, in one line."""
    return error.advised(mpp_advice) if isinstance(error, ResolutionError) else str(error)


class WeightsError(MilsurvError):
    """A backbone's weights cannot be had."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing when no known name is like ``name``."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def first_line(error: Exception) -> str:
    """What a library's exception says first, for a message of one line."""
    return str(error).strip().partition("\n")[0]


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the OSError of a full disk, or a used-up quota, met in writing ``path`` into a MilsurvError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MilsurvError(
            f"the disk is full: {path} cannot be written ({error.strerror}); what is finished is kept: "
            "make room there, or move the workspace to a larger disk, and run the same command again"
        ) from error
