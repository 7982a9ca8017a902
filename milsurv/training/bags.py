"""Reads bags for training and prediction, ahead of their use, and keeps in memory what fits."""

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
"""Bags that are read ahead."""
MEMORY_SHARE = 0.5
"""Default share of the host's memory, or of the free memory of a GPU, that bags may occupy."""


@dataclass(frozen=True)
class CachePlan:
    """Where one worker keeps bags, and up to how many bytes."""

    place: Literal["device", "host", "none"]
    bytes: int


def plan_cache(files: Iterable[Path], context: Context) -> tuple[CachePlan, str]:
    """The plan for a worker that reads all of ``files``, and a description of it.

    Workers of one GPU share the memory that is free there now; all workers share the host's. For a GPU bags are kept
    in pinned memory on the host, which takes more than their size.
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
        limit = _share(bound, free_device_memory(context.device), context.placement.workers_per_gpu)
        if settings.cache == "device" or (settings.cache == "auto" and needed <= limit):
            plan, where, takes = CachePlan("device", limit), "on the GPU", needed
    each = f" by each of {workers} workers" if workers > 1 else ""
    if takes <= plan.bytes:
        return plan, f"{size(needed)}, read once and kept {where}{each}"
    kept = f"{size(plan.bytes)} are kept {where}{each}"
    return plan, f"{size(needed)}, of which {kept} and the rest is read ahead in each epoch"


def _share(bound: int | None, available: int, sharers: int) -> int:
    return int((MEMORY_SHARE * available if bound is None else bound) / sharers)


class BagCache:
    """Loads the bags of feature files to the device, in the dtype that is stored.

    Bags are kept as far as the plan allows; the others are read by threads shortly before they are needed.
    """

    def __init__(self, device: torch.device, plan: CachePlan):
        self._device = device
        self._pins = device.type == "cuda"
        self._place = plan.place
        self._free = plan.bytes
        self._kept: dict[tuple[Path, int], Bag] = {}
        self._expected: deque[Path] = deque()
        self._ahead: dict[Path, Future[Bag]] = {}
        self._readers = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="bags")

    def expect(self, files: Sequence[Path]) -> None:
        """Set the files that are read next, in their order, and forget those set before."""
        self._ahead.clear()
        self._expected = deque(files)
        self._read_ahead()

    def read(self, file: Path) -> Bag:
        """The bag, on the device. Raises MilsurvError if the file cannot be read."""
        key = _key(file)
        bag = self._kept.get(key)
        if bag is None:
            read_ahead = self._ahead.pop(file, None)
            bag = self._load(file) if read_ahead is None else read_ahead.result()
            if self._place == "device":
                bag = bag.to(self._device)
            takes = bag.pinned_nbytes if self._place == "host" and self._pins else bag.nbytes
            if self._place != "none" and takes <= self._free:
                self._free -= takes
                self._kept[key] = bag
        self._read_ahead()
        return bag.to(self._device)

    def close(self) -> None:
        """Release the bags and stop the reading threads."""
        self._expected.clear()
        self._ahead.clear()
        self._kept.clear()
        self._readers.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        while self._expected and len(self._ahead) < READ_AHEAD:
            file = self._expected.popleft()
            if file not in self._ahead and _key(file) not in self._kept:
                self._ahead[file] = self._readers.submit(self._load, file)

    def _load(self, file: Path) -> Bag:
        bag = read_bag(file)
        return bag.pinned() if self._pins else bag


def _key(file: Path) -> tuple[Path, int]:
    """Identifies a version of a file."""
    return file, file.stat().st_mtime_ns


def shared_bags(context: Context, files: Sequence[Path]) -> BagCache:
    """The bag cache that the units of this worker share.

    It is planned for the ``files`` of the first unit; an event ``bags`` reports the plan.
    """

    def make() -> BagCache:
        plan, description = plan_cache(files, context)
        context.report({"event": "bags", "plan": description})
        return BagCache(torch.device(context.device), plan)

    return context.shared.get("bags", make)
