"""A run's folder, found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from milsurv.errors import MilsurvError
from milsurv.run_folder import METRICS, find_run
from tests.test_comparison import make


def test_runs_are_found_by_their_own_folder_or_the_one_above(tmp_path: Path) -> None:
    folder = make(tmp_path, "one")
    assert find_run(folder) == find_run(folder.parent) == folder
    make(tmp_path, "one", "def")
    with pytest.raises(MilsurvError, match="several runs are finished here; name one of abc, def"):
        find_run(folder.parent)
    with pytest.raises(MilsurvError, match="there is no such folder"):
        find_run(tmp_path / "nowhere")
    (folder / METRICS).unlink()
    with pytest.raises(MilsurvError, match=r"no finished run is here .* again to finish it"):
        find_run(folder)
