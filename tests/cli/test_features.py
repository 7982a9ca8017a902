"""Imported features from end to end, and ``milsurv features``, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from milsurv.config.loading import load_config
from milsurv.errors import MilsurvError
from milsurv.features.store import read_bag
from milsurv.runs.checks import check_run
from milsurv.runs.pipeline import RunResult
from tests.command import run_milsurv
from tests.features.importers.make_foreign import (
    MAGNIFICATIONS,
    import_config,
    make_features,
    slide_ids,
    trident_file,
    write_pt,
    write_table,
    write_trident,
    write_trident_cohort,
)
from tests.sessions import run

LOCAL = {"name": "crossfusion", "embed_dim": 8, "num_heads": 2, "attention": "local"}


def _write_config(folder: Path, layout: str, source: Any, **sections: Any) -> Path:
    path = folder / "imported.yaml"
    path.write_text(yaml.safe_dump(import_config(folder, layout, source, **sections)))
    return path


def _run(path: Path, *overrides: str) -> RunResult:
    config, registry = load_config(str(path), overrides)
    return run(config, registry)


@pytest.fixture(scope="module")
def trident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of features that TRIDENT made, by a model that needs the grid."""
    folder = tmp_path_factory.mktemp("trident")
    ids = write_trident_cohort(folder / "trident")
    write_table(folder / "table.csv", [*ids, "C99-1"])
    trident_file(folder / "trident", ids[0], 10).unlink()
    config = _write_config(
        folder, "trident", str(folder / "trident"), aggregator=LOCAL, executor={"workers": 2}
    )
    done = run_milsurv("run", config, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"20x 10x 5x, imported from {folder / 'trident'} (trident)" in done.stdout
    assert "importing features: 12 slides" in done.stdout
    assert "11 cases, 8 events, 11 slides used, 2 excluded" in done.stdout
    assert "slide C00-1 is excluded: has no 10x features" in done.stderr
    assert "Traceback" not in done.stderr
    assert "RuntimeWarning" not in done.stderr
    return folder


def test_a_run_on_tridents_features_tells_what_it_ran_on(trident: Path) -> None:
    (folder,) = (trident / "workspace" / "runs" / "imported").iterdir()
    slides = pd.read_csv(folder / "slides.csv").set_index("slide_id")
    assert slides["status"].value_counts().to_dict() == {"used": 11, "excluded": 2}
    assert "no 10x features" in str(slides["reason"]["C00-1"])
    assert "no file for this slide" in str(slides["reason"]["C99-1"])
    assert slides["path"]["C01-1"] == str(trident_file(trident / "trident", "C01-1", 20))
    assert (trident / "workspace" / str(slides["features"]["C01-1"])).is_file()
    plugins = json.loads((folder / "plugins.json").read_text())
    assert [plugin["name"] for plugin in plugins] == ["trident", "crossfusion", "nll"]
    page = (folder / "report.html").read_text()
    assert f"imported from {trident / 'trident'}, layout trident, encoder uni_v1" in page
    assert "The features were imported, so there are no slides" in page
    assert ">nan<" not in page
    assert load_config(str(folder / "config.yaml"))[0].features is not None


def test_the_same_command_has_nothing_left_to_do_until_a_file_changes(trident: Path) -> None:
    config = trident / "imported.yaml"
    first = _run(config)
    assert [first.folder] == list((trident / "workspace" / "runs" / "imported").iterdir())
    path = trident_file(trident / "trident", "C03-1", 5)
    before = path.read_bytes()
    try:
        write_trident(trident / "trident", "C03-1", 5, np.argwhere(np.ones((2, 2))), make_features(4, 77))
        second = _run(config, f"workspace={trident / 'workspace'}", "evaluation.bootstraps=0")
    finally:
        path.write_bytes(before)
    assert second.folder != first.folder
    config_of_both = load_config(str(config))[0]
    (folder,) = (config_of_both.workspace / "features").iterdir()
    assert torch.equal(read_bag(folder / "C03-1.h5").features[5], torch.from_numpy(make_features(4, 77)))


def test_check_tells_what_a_run_would_leave_out(trident: Path) -> None:
    findings = check_run(*load_config(str(trident / "imported.yaml")))
    assert findings.problems == []
    assert "11 slides have features at every magnification" in findings.facts
    assert any("slide C00-1 will be excluded: has no 10x features" in line for line in findings.warnings)
    config = load_config(str(trident / "imported.yaml"), ["features.encoder=uni_v2"])
    (problem,) = check_run(*config).problems
    assert "did you mean 'uni_v1'?" in problem


def test_check_counts_many_rows_left_out_by_their_reasons(trident: Path, tmp_path: Path) -> None:
    table = pd.read_csv(trident / "table.csv")
    unusable = pd.DataFrame({column: table[column].iloc[0] for column in table}, index=range(13))
    unusable = unusable.assign(case_id=[f"Z{n:02}" for n in range(13)], time=[0] * 9 + [-1, -2, -3, ""])
    pd.concat([table, unusable]).to_csv(tmp_path / "table.csv", index=False)
    overrides = [f"cohort.table={tmp_path / 'table.csv'}", "cohort.on_invalid=drop"]
    findings = check_run(*load_config(str(trident / "imported.yaml"), overrides))
    told = next(n for n, line in enumerate(findings.warnings) if "rows or cases" in line)
    first = len(table) + 2
    assert findings.warnings[told : told + 3] == [
        "13 rows or cases of the table are excluded, see a run's report:",
        f"  12 × time is …, such as row {first} (case Z00)",
        f"  1 × time is empty, such as row {first + 12} (case Z12)",
    ]


def test_features_are_verified_listed_and_exported(trident: Path, tmp_path: Path) -> None:
    done = run_milsurv("features", "list", trident / "workspace", "--json", cwd=tmp_path)
    (listed,) = json.loads(done.stdout)
    assert (listed["name"], listed["slides"], listed["unreadable"]) == ("uni_v1", 11, 0)
    folder = Path(listed["folder"])
    done = run_milsurv("features", "export", folder, "-o", "out", "--layout", "clam", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out" / "5x" / "h5_files").iterdir())) == 11
    done = run_milsurv("features", "verify", trident / "workspace", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "11 of 11 feature files are valid\n")
    cut = tmp_path / "cut.h5"
    cut.write_bytes((folder / "C01-1.h5").read_bytes()[:-100])
    done = run_milsurv("features", "verify", folder, cut, cwd=tmp_path)
    assert done.returncode == 1
    assert str(cut) in done.stderr
    assert "11 of 12" in done.stdout
    assert run_milsurv("features", "verify", cwd=tmp_path).returncode == 2


def test_a_run_on_the_authors_tensors_needs_no_coordinates(tmp_path: Path) -> None:
    ids = slide_ids()
    write_table(tmp_path / "table.csv", ids)
    for number, slide in enumerate(ids):
        for m in MAGNIFICATIONS:
            path = tmp_path / "ctranspath" / f"x{m}" / "pt_files" / f"{slide}.pt"
            write_pt(path, torch.from_numpy(make_features(m, number, shift=number / 12)))
    config = _write_config(tmp_path, "authors", str(tmp_path / "ctranspath"))
    done = run_milsurv("run", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 slides used, 0 excluded" in done.stdout
    report = Path(done.stdout.rpartition("Report: ")[2].strip()).read_text()
    assert "<dt>Source of µm/px</dt><dd>unknown</dd>" in report
    assert ">nan<" not in report
    with pytest.raises(MilsurvError, match="needs a patch grid, but the features of slide"):
        _run(config, "aggregator.attention=local")


def test_features_of_two_encoders_stop_the_run_before_training(tmp_path: Path) -> None:
    ids = slide_ids()
    write_table(tmp_path / "table.csv", ids)
    for number, slide in enumerate(ids):
        write_pt(
            tmp_path / "clam" / "pt_files" / f"{slide}.pt", torch.full((3, 4 + number // 11), 1.0 + number)
        )
    tiling = {"magnifications": [20]}
    config = _write_config(
        tmp_path, "clam", str(tmp_path / "clam"), tiling=tiling, aggregator={"name": "abmil"}
    )
    with pytest.raises(
        MilsurvError, match=r"4 values in 11 \(C00-1, C01-1, C02-1, …\); 5 values in 1 \(C11-1\)"
    ):
        _run(config)
    assert not (tmp_path / "workspace" / "runs").exists()
