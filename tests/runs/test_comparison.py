"""Runs from their folders: found, named, and refused when they cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from milsurv.errors import MilsurvError
from milsurv.runs.comparison import compare_runs
from milsurv.storage.checksums import write_checked
from tests.command import run_milsurv
from tests.report.make_run import make_config, make_follow_up, make_run


def make(tmp_path: Path, name: str, fingerprint: str = "abc", cases: int = 60, **config: object) -> Path:
    folder = tmp_path / "runs" / name / fingerprint
    make_run(folder, make_config(tmp_path, name=name, **config), make_follow_up(cases, 3))
    return folder


def test_other_cases_folds_or_follow_up_are_told(tmp_path: Path) -> None:
    one, fewer = make(tmp_path, "one"), make(tmp_path, "fewer", cases=57)
    with pytest.raises(
        MilsurvError, match=r"were not tested on the same cases .* 3 are only in one \(CASE-057 in fold 0"
    ):
        compare_runs([one, fewer], 100, 1)
    other = make(tmp_path, "other")
    table = pd.read_csv(other / "predictions.csv")
    table.loc[table["case_id"] == "CASE-004", "time"] += 1
    write_checked(other / "predictions.csv", table.to_csv(index=False))
    with pytest.raises(MilsurvError, match=r"different follow-up of 1 cases: CASE-004"):
        compare_runs([one, other], 100, 1)
    with pytest.raises(MilsurvError, match="the same run is given twice"):
        compare_runs([one, one], 100, 1)


def test_several_seeds_are_compared_as_their_ensemble(tmp_path: Path) -> None:
    one, three = make(tmp_path, "one"), make(tmp_path, "three", seeds=[1, 2, 3])
    found = compare_runs([one.parent, three], 100, 1)
    metrics = json.loads((three / "metrics.json").read_text())
    assert found["runs"][1]["harrell_c_index"]["value"] == pytest.approx(
        metrics["ensemble"]["metrics"]["harrell_c_index"]["value"]
    )
    alone = json.loads((one / "metrics.json").read_text())["pooled"][0]["metrics"]["harrell_c_index"]["value"]
    assert found["runs"][0]["harrell_c_index"]["value"] == pytest.approx(alone)


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    honest = make(tmp_path, "honest")
    flattered = make(tmp_path, "flattered", training={"epochs": 12, "selection": "reported_fold"}, seeds=[2])
    done = run_milsurv("compare", honest, flattered, "--figure", "forest.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"honest +0\.\d{3} +0\.\d{3}–0\.\d{3} +inner validation", done.stdout)
    assert re.search(r"flattered +0\.\d{3} +0\.\d{3}–0\.\d{3} +optimistic", done.stdout)
    assert re.search(r"honest - flattered +-?0\.\d{3} +-?0\.\d{3} to -?0\.\d{3} +[<\d. ]+", done.stdout)
    assert "Optimistic: the epoch of such a run was selected by its test cases" in done.stdout
    assert (tmp_path / "forest.svg").read_text().count("<path") > 10
    as_json = run_milsurv("compare", honest, flattered, "--json", cwd=tmp_path)
    found = json.loads(as_json.stdout)
    assert found == compare_runs([honest, flattered], 2000, 1)
    alone = run_milsurv("compare", honest, cwd=tmp_path)
    assert alone.returncode == 2
    assert "give the folders of at least two runs" in alone.stderr
