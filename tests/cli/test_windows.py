"""Commands where Python lacks what it lacks on Windows; an open file is neither moved nor removed there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command import hidden_files, results_of, start_milsurv
from tests.conftest import DATA, WriteConfig

LIKE_WINDOWS = {"PYTHONPATH": os.pathsep.join((str(DATA / "windows_like"), os.environ.get("PYTHONPATH", "")))}


def _run(*arguments: object, cwd: Path, environment: dict[str, str]) -> str:
    process = start_milsurv(*arguments, cwd=cwd, environment=environment)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return printed


def test_help_and_plugins_are_told(tmp_path: Path) -> None:
    assert "--install-completion" in _run("--help", cwd=tmp_path, environment=LIKE_WINDOWS)
    assert "crossfusion" in _run("list-plugins", cwd=tmp_path, environment=LIKE_WINDOWS)


@pytest.mark.acceptance
def test_a_run_ends_with_the_bytes_of_any_other(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(executor={"workers": 2}, splits={"folds": 2}, training={"epochs": 1})
    for folder, environment in (("like", LIKE_WINDOWS), ("other", {})):
        _run("run", config, "--workspace", tmp_path / folder, cwd=tmp_path, environment=environment)
        assert hidden_files(tmp_path / folder) == []
    assert results_of(tmp_path / "like") == results_of(tmp_path / "other")
    assert len(results_of(tmp_path / "like")) == 2 * 3 + 3
