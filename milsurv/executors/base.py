"""The contract of executors: units of work, the context that a unit runs in, and the base class of executors."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import PositiveFloat, PositiveInt

from milsurv.errors import MilsurvError
from milsurv.executors.devices import Device, cores, find_device
from milsurv.executors.memory import release_device_memory
from milsurv.plugin.base import PluginConfig
from milsurv.storage.locks import try_lock

Event = Mapping[str, Any]
"""Message of a running unit to the driver: a dict with the event's name under ``event``."""
Report = Callable[[Event], None]

LOCKED = "locked"
"""Result of a unit whose artifact another process is making, and the event that says so."""
WORKER_DIED = "worker died"
"""Event of a unit that is run again because its worker died; ``how`` is the cause."""
MOST_ATTEMPTS = 3
"""Maximum number of starts of a unit whose workers die."""
RETRY_SECONDS = 1.0
"""Pause before locked units are tried again."""


class Stopped(BaseException):
    """The run should stop. Raised in units by :meth:`Context.raise_if_stopped`."""


class ExecutorConfig(PluginConfig):
    """Settings that every executor has, because units use them. Only ``threads`` changes results."""

    threads: PositiveInt = 1
    """Threads of each unit of work; sums differ between counts, so it is part of a run's fingerprint."""
    cache: Literal["auto", "device", "host", "none"] = "auto"
    """Where a worker keeps the bags that it has read: on the GPU, in host memory, or nowhere; bags that are not kept
    are read ahead in each epoch. auto: on the GPU if all bags fit, else in host memory."""
    cache_gb: PositiveFloat | None = None
    """Limit for the bags that all workers keep in host memory, or on one GPU, in 10⁹ bytes; null: half of the
    memory."""


@dataclass(frozen=True)
class Resources:
    """Resources of a unit. Executors of clusters request them; a worker uses them to run units in parallel."""

    cpus: int = 1
    gpus: float = 0
    """0.5 lets a worker run two units at a time on one GPU, which is useful if units often wait for their input."""
    memory_gb: float | None = None
    """In 10⁹ bytes; None when it is not known."""

    @property
    def units_at_once(self) -> int:
        """Number of units that one worker runs in parallel, each in a thread."""
        return int(1 / self.gpus) if 0 < self.gpus < 1 else 1


@dataclass(frozen=True)
class Placement:
    """The device of a worker, and the number of processes that share it. Created by the executor for its workers."""

    config: ExecutorConfig = field(default_factory=ExecutorConfig)
    device: str = "auto"
    """As configured: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``. The worker resolves it."""
    workers: int = 1
    """Processes that share the machine's cores and memory, this one included."""
    workers_per_gpu: int = 1
    """Processes that share this worker's GPU, this one included."""


class Closeable(Protocol):
    """An object that holds memory until it is closed."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closeable)


class SharedObjects:
    """Objects that the units of one worker share, such as a network. Closed when the ``with`` block ends."""

    def __init__(self) -> None:
        self._objects: dict[Hashable, Any] = {}
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The object of ``key``; ``make`` is called once, by the first unit that requests it."""
        with self._lock:
            if key not in self._objects:
                self._objects[key] = make()
            shared: T = self._objects[key]
            return shared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            for shared in self._objects.values():
                shared.close()
            if self._objects:
                self._objects.clear()
                release_device_memory()


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Context:
    """Where a unit runs and its connection to the driver: the first argument of :attr:`Unit.work`.

    Use ``Context()`` to call a unit's function directly, without an executor.
    """

    placement: Placement = field(default_factory=Placement)
    report: Report = _ignore
    """Send an event to the driver."""
    raise_if_stopped: Callable[[], None] = _ignore
    """Raises :class:`Stopped` when the run should stop. Units call it between steps that take over a second, at points
    where their state is consistent."""
    shared: SharedObjects = field(default_factory=SharedObjects)
    units_at_once: int = 1
    """Number of units that this worker runs in parallel."""

    @cached_property
    def device(self) -> str:
        """The device to compute on, such as ``cpu`` or ``cuda``. Raises MilsurvError when there is no such GPU here."""
        return find_device(self.placement.device).name

    @property
    def cpus(self) -> int:
        """This unit's share of the machine's cores, at least 1."""
        return max(1, cores() // (self.placement.workers * self.units_at_once))


@dataclass(frozen=True)
class Unit:
    """One piece of work: ``work(context, **arguments)``.

    ``work`` is a function of a module; the arguments and the result can be pickled. It first checks whether its
    artifact exists, since another run may have made it, and can be repeated at any time.
    """

    name: str
    work: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    artifact: Path | None = None
    """The file that the unit makes; locked while the unit runs, so that runs in the same workspace share the work."""
    resources: Resources = field(default_factory=Resources)

    def run(self, context: Context) -> Any:
        """The result, or ``LOCKED``."""
        if self.artifact is None:
            return self.work(context, **self.arguments)
        with try_lock(self.artifact) as locked:
            return self.work(context, **self.arguments) if locked else LOCKED


OnEvent = Callable[[Unit, Event], None]


class Executor(ABC):
    """Runs units somewhere. A context manager: workers live between ``__enter__`` and ``__exit__``.

    A plugin derives from it, implements :meth:`run_once` and ``workers``, and registers the class with
    ``milsurv_register_executors``; built-in executors do so in ``milsurv/plugin/builtins.py``.

    Args:
        config: the validated settings of the section ``executor``.
        wanted_device: ``device`` of the configuration.
    """

    Config: ClassVar[type[ExecutorConfig]] = ExecutorConfig

    def __init__(self, config: ExecutorConfig, wanted_device: str):
        self.config = config
        self.wanted_device = wanted_device
        self._deaths: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:  # noqa: B027 - not all executors have workers to end
        """Stop running units and end the workers."""

    @cached_property
    def device(self) -> Device:
        """The device that units compute on, for fingerprints and messages: by default, of this machine.

        An executor whose units run on other machines overrides it. Raises MilsurvError when there is no such GPU.
        """
        return find_device(self.wanted_device)

    @property
    @abstractmethod
    def workers(self) -> int:
        """Maximum number of workers at the same time, for messages and estimates."""

    def placement(self, workers: int = 1, workers_per_gpu: int = 1) -> Placement:
        """The placement that is sent to workers, with only those settings of the executor that units use."""
        settings = self.config.model_dump(include=set(ExecutorConfig.model_fields))
        return Placement(ExecutorConfig(**settings), self.wanted_device, workers, workers_per_gpu)

    @abstractmethod
    def run_once(self, units: Sequence[Unit], on_event: OnEvent) -> list[Any]:
        """Run each unit and return the results in the order of ``units``, ``LOCKED`` for units that are locked.

        ``on_event`` is called in this process. A unit's exception is raised here, after which the other units stop.
        When a worker dies, :meth:`worker_died` is called for each of its units, which are then run again.
        """

    def run(self, units: Sequence[Unit], on_event: OnEvent) -> list[Any]:
        """The units' results in the order of ``units``.

        Locked units are tried again, once all others are done, until they are free; ``on_event`` gets one ``LOCKED``
        event of each. Raises exceptions of units, and MilsurvError when a unit's workers keep dying.
        """
        self._deaths.clear()
        results = self.run_once(units, on_event)
        reported: set[int] = set()
        while locked := [
            i for i, result in enumerate(results) if isinstance(result, str) and result == LOCKED
        ]:
            for index in set(locked) - reported:
                on_event(units[index], {"event": LOCKED})
            reported.update(locked)
            time.sleep(RETRY_SECONDS)
            again = self.run_once([units[index] for index in locked], on_event)
            for index, result in zip(locked, again, strict=True):
                results[index] = result
        return results

    def worker_died(self, unit: Unit, how: str, on_event: OnEvent) -> None:
        """Report that the worker of ``unit`` died before it sent a result; the caller runs the unit again.

        ``how`` is the cause, such as ``SIGKILL``. Raises MilsurvError at the third death.
        """
        self._deaths[unit.name] += 1
        if self._deaths[unit.name] == MOST_ATTEMPTS:
            raise MilsurvError(
                f"{unit.name}: its worker process died {MOST_ATTEMPTS} times ({how}), perhaps because memory ran out; "
                "finished work is kept: run the same command again, with fewer executor.workers if memory is short"
            )
        on_event(unit, {"event": WORKER_DIED, "how": how, "attempt": self._deaths[unit.name]})
