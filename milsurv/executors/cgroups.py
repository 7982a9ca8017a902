"""Memory and CPU limits of this process's control groups (version 1 or 2), as set by containers and Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
"""Lines of ``number:controllers:path``; in version 2 ``controllers`` is empty."""
MOUNT = Path("/sys/fs/cgroup")
MEMORY_FILES = ("memory.max", "memory.high", "memory.limit_in_bytes")
"""Files of versions 2 and 1 with memory limits; above ``memory.high``, a process is heavily throttled."""

UNLIMITED = 2**62
"""Larger values mean no limit: version 1 then reports the largest multiple of the page size."""


def memory_limit(own: Path = OWN_GROUPS, mount: Path = MOUNT) -> int | None:
    """Memory limit in bytes, the lowest of this process's control group and its ancestors; None without a limit.

    Args:
        own: file that lists the groups of the process.
        mount: folder where the hierarchies are mounted.
    """
    limits = [
        limit
        for folder in _groups("memory", own, mount)
        for name in MEMORY_FILES
        if (limit := _number(folder / name)) is not None and 0 < limit < UNLIMITED
    ]
    return min(limits, default=None)


def cpu_limit(own: Path = OWN_GROUPS, mount: Path = MOUNT) -> float | None:
    """CPU limit in cores, the lowest of this process's control group and its ancestors; None without a limit."""
    limits = [limit for folder in _groups("cpu", own, mount) if (limit := _cores(folder)) is not None]
    return min(limits, default=None)


def _cores(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(file: Path) -> int | None:
    """The integer in a file; None for ``max`` or if the file does not exist."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _groups(controller: str, own: Path, mount: Path) -> Iterator[Path]:
    """Folders of the process's groups of ``controller`` and of their ancestors.

    In a container, the path may be that on the host, where only its last part is mounted, so the mount itself is
    always included. A path outside of the namespace begins with ``/..``; then only the mount is used.
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
