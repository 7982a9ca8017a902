"""A run's folder, found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from milsurv.errors import MilsurvError
from milsurv.runs.folder import find_run
from milsurv.storage.run_files import METRICS
from tests.runs.test_comparison import make


def test_runs_are_found_by_their_own_folder_or_the_one_above(tmp_path: Path) -> None:
    folder = make(tmp_path, "one")
    assert find_run(folder) == find_run(folder.parent) == folder
    make(tmp_path, "one", "def")
    with pytest.raises(MilsurvError, match="contains several finished runs; specify one of abc, def"):
        find_run(folder.parent)
    with pytest.raises(MilsurvError, match="no such folder"):
        find_run(tmp_path / "nowhere")
    (folder / METRICS).unlink()
    with pytest.raises(MilsurvError, match=r"no finished run .* again to finish it"):
        find_run(folder)


def test_several_finished_runs_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    runs = {
        "abc": make(tmp_path, "one", "abc"),
        "def": make(tmp_path, "one", "def", evaluation={"bootstraps": 100, "times": [12]}),
        "ghi": make(tmp_path, "one", "ghi", seeds=[2]),
    }
    said = (
        r"specify one of abc \(evaluation\.times=null, seeds=\[1\]\), "
        r"def \(evaluation\.times=\[12\.0\], seeds=\[1\]\), ghi \(evaluation\.times=null, seeds=\[2\]\)$"
    )
    with pytest.raises(MilsurvError, match=said):
        find_run(runs["abc"].parent)
    (runs["ghi"] / "config.yaml").write_text("[}")
    with pytest.raises(MilsurvError, match=r"specify one of abc \(.*, ghi \("):
        find_run(runs["abc"].parent)
