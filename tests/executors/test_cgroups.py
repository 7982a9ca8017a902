"""Limits of control groups, read from made-up trees of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from milsurv.executors.cgroups import cpu_limit, memory_limit

GB = 10**9
NO_LIMIT = "9223372036854771712"
"""What version 1 says where nothing is limited."""


def _tree(folder: Path, own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """What /proc/self/cgroup says, and the files below /sys/fs/cgroup."""
    groups, mount = folder / "own", folder / "mount"
    groups.write_text(own)
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(content)
    return groups, mount


SLURM = "system.slice/slurmstepd.scope/job_7"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": f"{3 * GB}\n"}, 3 * GB),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {}, None),
        ("", {"memory.max": f"{GB}\n"}, None),
        ("nonsense\n\n", {"memory.max": f"{GB}\n"}, None),
        # Slurm limits the job; its step and task, in which a process is, have no limit of their own.
        (
            f"0::/{SLURM}/step_0/user/task_0\n",
            {
                "memory.max": "max",
                f"{SLURM}/memory.max": f"{16 * GB}\n",
                f"{SLURM}/step_0/memory.max": "max\n",
                f"{SLURM}/step_0/user/task_0/memory.max": "max\n",
            },
            16 * GB,
        ),
        ("0::/a/b/c\n", {"a/memory.max": str(5 * GB), "a/b/memory.max": str(2 * GB)}, 2 * GB),
        ("0::/a/b\n", {"a/memory.max": str(2 * GB), "a/b/memory.max": str(5 * GB)}, 2 * GB),
        ("0::/a\n", {"a/memory.max": "max", "a/memory.high": str(GB)}, GB),
        ("0::/a\n", {"a/memory.max": "0"}, None),
        ("0::/a b\n", {"a b/memory.max": str(GB)}, GB),
        ("0::/a:b\n", {"a:b/memory.max": str(GB)}, GB),
        # In a container the host's path is told, and the container's own group is mounted as the root.
        ("0::/docker/8a7f\n", {"memory.max": str(GB)}, GB),
        # The process lives outside its namespace's root: nothing above the mount is looked at.
        ("0::/../other\n", {"memory.max": str(2 * GB), "other/memory.max": str(GB)}, 2 * GB),
        # Version 1, with version 2 beside it.
        (
            "12:cpu,cpuacct:/\n4:memory:/slurm/uid_1/job_7/step_0\n0::/init.scope\n",
            {
                "memory/memory.limit_in_bytes": NO_LIMIT,
                "memory/slurm/uid_1/job_7/memory.limit_in_bytes": f"{8 * GB}\n",
                "memory/slurm/uid_1/job_7/step_0/memory.limit_in_bytes": NO_LIMIT,
                "unified/init.scope/cgroup.procs": "1",
            },
            8 * GB,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "-1"}, None),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": NO_LIMIT}, None),
        ("4:memory,hugetlb:/a\n", {"memory,hugetlb/a/memory.limit_in_bytes": str(GB)}, GB),
        ("1:name=systemd:/a\n0::/a\n", {"unified/a/memory.max": str(GB)}, GB),
        (
            "4:memory:/a\n0::/b\n",
            {"memory/a/memory.limit_in_bytes": str(3 * GB), "b/memory.max": str(GB)},
            GB,
        ),
    ],
)
def test_the_least_limit_of_memory_on_the_way_up_counts(
    own: str, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    assert memory_limit(*_tree(tmp_path, own, files)) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": ""}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        (
            "5:cpu,cpuacct:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("5:cpuset:/job\n", {"cpuset/job/cpu.cfs_quota_us": "1", "cpuset/job/cpu.cfs_period_us": "1"}, None),
        ("5:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_least_limit_of_cores_on_the_way_up_counts(
    own: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    assert cpu_limit(*_tree(tmp_path, own, files)) == expected


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "none", tmp_path) is None
    assert cpu_limit(tmp_path / "none", tmp_path) is None
