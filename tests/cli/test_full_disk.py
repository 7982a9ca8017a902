"""A workspace on a disk that is full: a small tmpfs, mounted where this test alone sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import features_of, hidden_files, results_of, run_milsurv
from tests.conftest import WriteConfig

pytestmark = pytest.mark.acceptance

PAGE = 4096


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs in a mount namespace that a process holds open."""

    holder: int
    folder: Path
    """Where processes in the namespace see it."""

    @property
    def content(self) -> Path:
        """Where everybody else sees it."""
        return Path(f"/proc/{self.holder}/root{self.folder}")

    def resize(self, size: int) -> None:
        subprocess.run([*self.inside, "mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    @property
    def inside(self) -> list[str]:
        """What a command begins with to run in the namespace."""
        return ["nsenter", "--preserve-credentials", "-U", "-m", "-t", str(self.holder)]

    def run(self, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        workspace = ["--workspace", str(self.folder / "workspace")]
        command = [*self.inside, sys.executable, "-m", "milsurv", "run", str(config), *workspace, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = 'mount -t tmpfs -o size=64k small "$0" && echo mounted && exec sleep 3600'
    holder = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("no tmpfs can be mounted here, neither by root nor in a user namespace")
        yield SmallDisk(holder.pid, folder)
    finally:
        holder.kill()
        holder.wait()


def _assert_full(done: subprocess.CompletedProcess[str], disk: SmallDisk) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith(f"error: the disk is full: cannot write {disk.folder / 'workspace'}/")
    assert "free some space" in line
    assert "run the same command again" in line
    assert hidden_files(disk.content) == []


def _whole_features(workspace: Path, oracle: dict[str, dict[str, bytes]]) -> int:
    """How many feature files there are, each of them whole."""
    features = features_of(workspace)
    assert features.items() <= oracle.items()
    return len(features)


def test_a_full_disk_stops_a_run_and_spoils_nothing(
    small_disk: SmallDisk, write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(splits={"folds": 2}, evaluation={"bootstraps": 0})
    undisturbed = run_milsurv("run", config, cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    oracle = features_of(tmp_path / "workspace")
    workspace = small_disk.content / "workspace"
    pages = sum(-(-path.stat().st_size // PAGE) for path in (tmp_path / "workspace").rglob("*.h5"))

    small_disk.resize(pages * PAGE // 2)  # full while features are written, by worker processes
    _assert_full(small_disk.run(config, "--set", "executor.workers=2"), small_disk)
    assert 0 < _whole_features(workspace, oracle) < len(oracle)
    assert not (workspace / "runs").exists()

    small_disk.resize((pages + 8) * PAGE)  # full when the run's own files are written
    _assert_full(small_disk.run(config), small_disk)
    assert _whole_features(workspace, oracle) == len(oracle)
    assert not list(workspace.rglob("report.html"))

    small_disk.resize(64 * 2**20)
    done = small_disk.run(config)
    assert done.returncode == 0, done.stderr
    assert _whole_features(workspace, oracle) == len(oracle)
    assert results_of(workspace) == results_of(tmp_path / "workspace")
    assert len(results_of(workspace)) == 2 * 3 + 3
    (events,) = (workspace / "runs").rglob("events.jsonl")
    assert all(json.loads(line) for line in events.read_text().splitlines())
    assert hidden_files(small_disk.content) == []


def test_a_line_is_added_whole_or_not_at_all(small_disk: SmallDisk) -> None:
    """Lines are added until the disk is full, some room is made, and lines are added again."""
    script = (
        "import sys; from pathlib import Path; from milsurv.storage.atomic import append_line\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    append_line(Path(sys.argv[1]), f'{number} ' + number % 1000 * 'x' + ' end')\n"
    )
    command = [*small_disk.inside, sys.executable, "-c", script, str(small_disk.folder / "lines")]
    counts = []
    for size in (2**17, 2**18):
        small_disk.resize(size)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "MilsurvError: the disk is full" in done.stderr
        content = (small_disk.content / "lines").read_text()
        assert content.endswith(" end\n")
        assert all(line.endswith(" end") and line[0].isdigit() for line in content.splitlines())
        counts.append(len(content))
    assert counts[0] < counts[1]
