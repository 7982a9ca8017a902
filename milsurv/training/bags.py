"""Bags for the loop: read from disk once while they fit in memory, else ahead of their use, never changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from milsurv.errors import size
from milsurv.executors.base import Context
from milsurv.executors.memory import free_device_memory, host_memory, pinned_size
from milsurv.features.bag import Bag
from milsurv.features.store import read_bag

READING_THREADS = 2
READ_AHEAD = 4
"""Bags that are read before they are needed."""
SHARE_OF_MEMORY = 0.5
"""Of the host's memory, or of what is free of a GPU's, that bags take when nothing else is said."""


@dataclass(frozen=True)
class CachePlan:
    """Where one worker keeps bags, and how much of them."""

    place: Literal["device", "host", "none"]
    bytes: int


def plan_cache(files: Iterable[Path], context: Context) -> tuple[CachePlan, str]:
    """The plan for a worker that reads all of ``files``, and a description of it.

    Workers of one GPU share the memory that is free there now; all workers share the host's. For a GPU bags are kept
    in pinned memory on the host, which takes more than they hold.
    """
    settings, workers = context.placement.config, context.placement.workers
    sizes = [file.stat().st_size for file in files]
    needed = sum(sizes)
    if settings.cache == "none":
        return CachePlan("none", 0), f"{size(needed)}, read ahead from disk in each epoch"
    bound = None if settings.cache_gb is None else int(settings.cache_gb * 1e9)
    plan = CachePlan("host", _share(bound, host_memory(), workers))
    where, takes = "in memory", needed
    if context.device != "cpu":
        where, takes = "in pinned memory", sum(map(pinned_size, sizes))
        most = _share(bound, free_device_memory(context.device), context.placement.workers_per_gpu)
        if settings.cache == "device" or (settings.cache == "auto" and needed <= most):
            plan, where, takes = CachePlan("device", most), "on the GPU", needed
    each = f" by each of {workers} workers" if workers > 1 else ""
    if takes <= plan.bytes:
        return plan, f"{size(needed)}, read once and kept {where}{each}"
    kept = f"{size(plan.bytes)} are kept {where}{each}"
    return plan, f"{size(needed)}, of which {kept} and the rest is read ahead in each epoch"


def _share(bound: int | None, there_is: int, sharers: int) -> int:
    return int((SHARE_OF_MEMORY * there_is if bound is None else bound) / sharers)


class BagCache:
    """Gives the bags of feature files on the device, in the type that is stored.

    What the plan has room for stays where the plan says; the rest is read by threads shortly before its turn.
    """

    def __init__(self, device: torch.device, plan: CachePlan):
        self._device = device
        self._pins = device.type == "cuda"
        self._place = plan.place
        self._room = plan.bytes
        self._kept: dict[tuple[Path, int], Bag] = {}
        self._coming: deque[Path] = deque()
        self._ahead: dict[Path, Future[Bag]] = {}
        self._readers = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="bags")

    def expect(self, files: Sequence[Path]) -> None:
        """Say which files are read next, in their order, in place of what was said before."""
        self._ahead.clear()
        self._coming = deque(files)
        self._read_ahead()

    def read(self, file: Path) -> Bag:
        """The bag on the device. Raises MilsurvError when the file cannot be read."""
        key = _key(file)
        bag = self._kept.get(key)
        if bag is None:
            coming = self._ahead.pop(file, None)
            bag = self._load(file) if coming is None else coming.result()
            if self._place == "device":
                bag = bag.to(self._device)
            takes = bag.pinned_nbytes if self._place == "host" and self._pins else bag.nbytes
            if self._place != "none" and takes <= self._room:
                self._room -= takes
                self._kept[key] = bag
        self._read_ahead()
        return bag.to(self._device)

    def close(self) -> None:
        """Let the bags go, and end the threads that read."""
        self._coming.clear()
        self._ahead.clear()
        self._kept.clear()
        self._readers.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        while self._coming and len(self._ahead) < READ_AHEAD:
            file = self._coming.popleft()
            if file not in self._ahead and _key(file) not in self._kept:
                self._ahead[file] = self._readers.submit(self._load, file)

    def _load(self, file: Path) -> Bag:
        bag = read_bag(file)
        return bag.pinned() if self._pins else bag


def _key(file: Path) -> tuple[Path, int]:
    """A file that was made anew is another one."""
    return file, file.stat().st_mtime_ns


def shared_bags(context: Context, files: Sequence[Path]) -> BagCache:
    """The bags of this worker, which the units that it runs one after the other share.

    Where they are kept is planned for the ``files`` of the first of them, and reported in an event ``bags``.
    """

    def make() -> BagCache:
        plan, description = plan_cache(files, context)
        context.report({"event": "bags", "plan": description})
        return BagCache(torch.device(context.device), plan)

    return context.shared.get("bags", make)
