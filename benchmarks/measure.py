"""Time and memory of work in fresh processes, ours and the plain implementation in turn.

The computer may be shared: what is compared runs alternately, and medians are taken.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median

MB = 10**6


@dataclass(frozen=True)
class Usage:
    """What some work took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, over all threads."""
    peak: float
    """Most memory that the process held at once, its libraries included, in MB."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    unit: str
    ours: float
    plain: float | None
    """None where there is nothing to compare with."""
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.plain is None:
            return None
        return self.ours / self.plain if self.more_is_better else self.plain / self.ours


def rows_of(what: str, ours: Usage, plain: Usage | None, kinds: Sequence[str]) -> Iterator[Row]:
    """A line for each of ``kinds``: wall, cpu, peak."""
    names = {"wall": ("wall time", "s"), "cpu": ("CPU time", "s"), "peak": ("peak memory", "MB")}
    for kind in kinds:
        name, unit = names[kind]
        yield Row(
            f"{what}, {name}", unit, getattr(ours, kind), None if plain is None else getattr(plain, kind)
        )


def in_turn(repeats: int, measurements: Mapping[str, Callable[[], Usage]]) -> dict[str, Usage]:
    """Medians over ``repeats`` rounds, in each of which every measurement is taken once."""
    rounds = [{name: measure() for name, measure in measurements.items()} for _ in range(repeats)]
    return {
        name: Usage(*(median(values) for values in zip(*(astuple(r[name]) for r in rounds), strict=True)))
        for name in measurements
    }


def command(*arguments: str) -> Callable[[], Usage]:
    """Measures a whole Python process, its start included (its memory is not measured)."""

    def measure() -> Usage:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Usage(wall, cpu, float("nan"))

    return measure


def fresh(prepare: Callable[..., Callable[[], object]], *arguments: str | float) -> Callable[[], Usage]:
    """Measures the work that ``prepare(*arguments)`` gives, in a process of its own; preparing is not timed."""
    target = f"{prepare.__module__}:{prepare.__name__}"
    return partial(_measure_in_child, target, json.dumps(arguments))


def _measure_in_child(target: str, arguments: str) -> Usage:
    child = [sys.executable, "-W", "ignore", "-m", "benchmarks.measure", target, arguments]
    done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
    return Usage(*json.loads(done.stdout))


def _child(target: str, arguments: str) -> None:
    module, _, name = target.partition(":")
    work = getattr(import_module(module), name)(*json.loads(arguments))
    started, cpu_before = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_before
    print(json.dumps([wall, cpu, _peak_memory()]))


def _peak_memory() -> float:
    """MB. Where the system tells it, of this program alone: getrusage counts what stood before exec, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        (kilobytes,) = (
            line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")
        )
        return int(kilobytes) * 1024 / MB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


if __name__ == "__main__":
    _child(*sys.argv[1:])
