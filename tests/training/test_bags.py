from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from milsurv.errors import MilsurvError
from milsurv.executors.base import Context, ExecutorConfig, Placement
from milsurv.executors.memory import host_memory, pinned_size
from milsurv.features.bag import Bag
from milsurv.features.store import MagnificationFeatures, read_bag, write_features
from milsurv.training.bags import BagCache, CachePlan, plan_cache


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Feature files of 8 bags, each of 20 patches of width 4."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.h5" for number in range(8)]
    for path in paths:
        write_features(path, {20: MagnificationFeatures(rng.normal(size=(20, 4)).astype(np.float16))}, {})
    return paths


def _read_all(cache: BagCache, files: Sequence[Path]) -> list[torch.Tensor]:
    cache.expect(files)
    return [cache.read(file).features[20] for file in files]


@pytest.mark.parametrize(("place", "room"), [("host", 10**6), ("host", 400), ("none", 0)])
def test_bags_are_what_the_files_hold_wherever_they_are_kept(
    files: list[Path], place: Literal["host", "none"], room: int
) -> None:
    cache = BagCache(torch.device("cpu"), CachePlan(place, room))
    order = [files[i] for i in (3, 0, 0, 5, 1, 7, 7, 2, 6, 4, 0)]
    for _ in range(2):
        for features, file in zip(_read_all(cache, order), order, strict=True):
            assert features.dtype == torch.float16
            assert torch.equal(features, read_bag(file).features[20])


def test_what_is_kept_is_read_from_disk_once(files: list[Path]) -> None:
    """Two bags of 160 bytes fit in 400; the others are read again, which fails once they hold something else."""
    cache = BagCache(torch.device("cpu"), CachePlan("host", 400))
    before = _read_all(cache, files)
    times = {file: file.stat().st_mtime_ns for file in files}
    for file in files:
        with file.open("r+b") as opened:
            opened.write(b"\0" * 100)
        os.utime(file, ns=(times[file], times[file]))
    assert torch.equal(cache.read(files[0]).features[20], before[0])
    assert torch.equal(cache.read(files[1]).features[20], before[1])
    with pytest.raises(MilsurvError, match=r"2\.h5 cannot be read"):
        cache.read(files[2])


def test_a_file_that_was_made_anew_is_read_anew(files: list[Path]) -> None:
    cache = BagCache(torch.device("cpu"), CachePlan("host", 10**6))
    cache.read(files[0])
    files[1].replace(files[0])
    assert torch.equal(cache.read(files[0]).features[20], read_bag(files[0]).features[20])


def test_other_bags_than_expected_are_read_all_the_same(files: list[Path]) -> None:
    cache = BagCache(torch.device("cpu"), CachePlan("none", 0))
    cache.expect(files[:4])
    assert torch.equal(cache.read(files[6]).features[20], read_bag(files[6]).features[20])
    cache.expect(files[4:])
    assert torch.equal(cache.read(files[0]).features[20], read_bag(files[0]).features[20])


def test_a_damaged_file_that_was_read_ahead_is_named(files: list[Path]) -> None:
    files[2].write_bytes(b"no features")
    cache = BagCache(torch.device("cpu"), CachePlan("none", 0))
    with pytest.raises(MilsurvError, match=r"2\.h5 cannot be read .*delete it and run again"):
        _read_all(cache, files)


def _context(device: str = "cpu", workers: int = 1, **settings: Any) -> Context:
    context = Context(Placement(ExecutorConfig(**settings), device, workers))
    vars(context)["device"] = device  # that of another machine
    return context


def test_the_plan_says_where_bags_are_kept(files: list[Path]) -> None:
    needed = sum(file.stat().st_size for file in files)
    plan, told = plan_cache(files, _context(workers=4))
    assert plan == CachePlan("host", int(host_memory() / 8))
    assert told.endswith("read once and kept in memory by each of 4 workers")
    plan, told = plan_cache(files, _context(cache_gb=needed / 2e9))
    assert plan == CachePlan("host", needed // 2)
    assert "are kept in memory and the rest is read ahead" in told
    plan, told = plan_cache(files, _context(cache="none"))
    assert plan == CachePlan("none", 0)
    assert told.endswith("read ahead from disk in each epoch")


def test_the_plan_for_a_gpu_counts_what_is_free_and_what_pinned_blocks_take(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's free memory is said by a stand-in; all else is as on a machine with one."""
    sizes = [file.stat().st_size for file in files]
    pinned = sum(map(pinned_size, sizes))
    assert sum(sizes) < pinned
    free = 4 * sum(sizes)
    monkeypatch.setattr("milsurv.training.bags.free_device_memory", lambda *_: free)
    plan, told = plan_cache(files, _context(device="cuda:0"))
    assert plan == CachePlan("device", free // 2)
    assert told.endswith("read once and kept on the GPU")
    free = sum(sizes)
    plan, told = plan_cache(files, _context(device="cuda:0"))
    assert (plan.place, "in pinned memory" in told) == ("host", True)
    between = (sum(sizes) + pinned) / 2e9
    plan, told = plan_cache(files, _context(device="cuda:0", cache="host", cache_gb=between))
    assert "the rest is read ahead" in told


def test_a_bag_knows_what_it_takes_when_it_is_pinned() -> None:
    bag = Bag({20: torch.zeros(3, 5, dtype=torch.float16)}, {20: torch.zeros(3, 2, dtype=torch.int64)})
    assert (bag.nbytes, bag.pinned_nbytes) == (30 + 48, 32 + 64)
