"""What an executor needs to know: units of work, which read artifacts, write artifacts, and can be run again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from milsurv.storage.locks import try_lock

Event = dict[str, Any]
"""What a unit reports while it works; sent to the process that drives the run."""
Report = Callable[[Event], None]
"""Called by a unit; raises :class:`Stopped` when the run is to stop."""


class Stopped(BaseException):
    """The run was asked to stop. A unit that lets this pass leaves nothing half done."""


@dataclass(frozen=True)
class Unit:
    """One piece of work: ``work(report, **arguments)``.

    ``work`` is a function of a module, and the arguments and the result can be sent to another process. It begins by
    looking whether its artifact is there already: another run may have made it.
    """

    name: str
    work: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    artifact: Path | None = None
    """What the unit makes, and locks while it works, so that runs that share a workspace share the units."""

    def do(self, report: Report) -> Any:
        """The result, or ``IN_OTHER_HANDS``."""
        if self.artifact is None:
            return self.work(report, **self.arguments)
        with try_lock(self.artifact) as locked:
            return self.work(report, **self.arguments) if locked else IN_OTHER_HANDS


IN_OTHER_HANDS = "in other hands"
"""In place of a unit's result: another process is doing it. Its driver hears an event of this name."""


class Executor(ABC):
    """Runs units somewhere. A context manager: workers live between ``__enter__`` and ``__exit__``."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Let the workers go."""

    @abstractmethod
    def run(
        self,
        units: Sequence[Unit],
        on_event: Callable[[Unit, Event], None],
        side_by_side: int = 1,
        after: Callable[[], None] | None = None,
    ) -> list[Any]:
        """The units' results, in their order. ``on_event`` is called in this process.

        A worker does ``side_by_side`` units at a time, each in a thread: for units that often wait for a device.
        ``after``, a function of a module, is called in each worker when its units are done: it frees what they shared.

        An exception of a unit is raised here, and the other units are stopped. Units in other hands are passed over
        and tried again once the rest is done; ``on_event`` hears of each of them once.
        """
