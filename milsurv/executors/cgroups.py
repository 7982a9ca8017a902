"""Limits that a control group puts on this process: a container's, or those of a Slurm job, in version 1 or 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
"""Lines of ``number:controllers:path``; version 2 has no controllers."""
MOUNT = Path("/sys/fs/cgroup")
MEMORY_FILES = ("memory.max", "memory.high", "memory.limit_in_bytes")
"""Of version 2, where beyond ``high`` a process is slowed down until it hardly moves, and of version 1."""

UNLIMITED = 2**62
"""Version 1 writes the largest number there is, rounded down to whole pages, where nothing is limited."""


def memory_limit(own: Path = OWN_GROUPS, mount: Path = MOUNT) -> int | None:
    """Bytes of memory that this process's control group and all those above it allow; None without a limit.

    Args:
        own: tells the groups of the process.
        mount: where the hierarchies are mounted.
    """
    limits = [
        limit
        for folder in _groups("memory", own, mount)
        for name in MEMORY_FILES
        if (limit := _number(folder / name)) is not None and 0 < limit < UNLIMITED
    ]
    return min(limits, default=None)


def cpu_limit(own: Path = OWN_GROUPS, mount: Path = MOUNT) -> float | None:
    """Cores whose time this process's control group and all those above it may use; None without a limit."""
    limits = [limit for folder in _groups("cpu", own, mount) if (limit := _cores(folder)) is not None]
    return min(limits, default=None)


def _cores(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(file: Path) -> int | None:
    """What stands in a file; None for ``max``, and where there is no such file."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _groups(controller: str, own: Path, mount: Path) -> Iterator[Path]:
    """The folders of the process's groups that may limit what ``controller`` controls, each with all above it.

    In a container the path may be the host's, of which nothing is mounted but the end: the mount itself is looked at
    in any case. A path out of the own namespace begins with ``/..``, and only the mount is left of it.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if not controllers:
            roots = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            roots = [mount / controllers, mount / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts:
            parts = []
        for root in roots:
            for depth in range(len(parts), -1, -1):
                yield root.joinpath(*parts[:depth])
