"""An aggregator that is only fitted, through every command that uses a model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.command import run_milsurv
from tests.conftest import COLOUR_BACKBONE, WriteConfig

pytestmark = pytest.mark.acceptance


def _milsurv(folder: Path, *arguments: object) -> str:
    done = run_milsurv(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_every_command_takes_a_fitted_model(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    config = write_config(aggregator={"name": "mean_cox"})
    assert "is ready to run" in _milsurv(tmp_path, "check", config)
    _milsurv(tmp_path, "run", config)
    _milsurv(tmp_path, "run", write_config("pooled", aggregator={"name": "meanpool"}))
    runs = tmp_path / "workspace" / "runs"
    plugin = ("--plugin", COLOUR_BACKBONE)
    slide = small_cohort / "slides" / "P00-1.svs"

    def predicted(model: Path) -> pd.DataFrame:
        target = tmp_path / f"{model.name}.csv"
        _milsurv(tmp_path, "predict", model, slide, "-o", target, *plugin)
        return pd.read_csv(target)

    _milsurv(tmp_path, "export", runs / "small", "-o", tmp_path / "exported", *plugin)
    pd.testing.assert_frame_equal(predicted(runs / "small"), predicted(tmp_path / "exported"))
    compared = json.loads(_milsurv(tmp_path, "compare", runs / "small", runs / "pooled", "--json"))
    assert {run["name"].split("/")[0] for run in compared["runs"]} == {"small", "pooled"}
    _milsurv(tmp_path, "heatmap", runs / "small", "P00-1", "-o", tmp_path / "maps", *plugin)
    assert list((tmp_path / "maps").rglob("occlusion_*"))
    table = pd.read_csv(small_cohort / "follow_up.csv")
    table["case_id"] = "N" + table["case_id"]
    table.to_csv(tmp_path / "other.csv", index=False)
    page = _milsurv(
        tmp_path,
        "evaluate",
        tmp_path / "exported",
        "--cohort",
        tmp_path / "other.csv",
        "--slides",
        small_cohort / "slides",
        "--workspace",
        tmp_path / "workspace",
        *plugin,
    )
    assert "Harrell's C" in page
