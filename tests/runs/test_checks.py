"""A check and a run agree: what the run refuses before its first epoch the check refuses in the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from numpy.typing import NDArray

from milsurv.config.loading import load_config
from milsurv.errors import MilsurvError
from milsurv.runs.checks import Findings, check_run
from tests.conftest import WriteConfig
from tests.features.importers.make_foreign import (
    import_config,
    make_features,
    slide_ids,
    write_h5,
    write_pt,
    write_table,
)
from tests.sessions import run

Array = NDArray[Any]
Write = Callable[[int, Path, Array], None]
"""Writes the features of the slide of this number to a path without a suffix."""


def _h5(change: Callable[[int, Array], Any]) -> Write:
    return lambda number, path, features: write_h5(
        path.with_suffix(".h5"), {"features": change(number, features)}, {}, on=""
    )


def _pt(change: Callable[[int, Array], Any]) -> Write:
    return lambda number, path, features: write_pt(path.with_suffix(".pt"), change(number, features))


def _at_10x(_number: int, path: Path, features: Array) -> None:
    arrays = {"features": features, "coords": np.zeros((len(features), 2), int)}
    write_h5(path.with_suffix(".h5"), arrays, {"target_magnification": 10})


def _text(_number: int, path: Path, _features: Array) -> None:
    path.with_suffix(".h5").write_text("this is no HDF5")


FILES: dict[str, Write] = {
    "float32": _h5(lambda _, f: f),
    "float64": _h5(lambda _, f: f.astype(float)),
    "leading 1": _h5(lambda _, f: f[None]),
    "leading 1 in pt": _pt(lambda _, f: torch.from_numpy(f)[None]),
    "bfloat16": _pt(lambda _, f: torch.from_numpy(f).bfloat16()),
    "one patch": _h5(lambda _, f: f[:1]),
    "one without patches": _h5(lambda number, f: f[: 4 * number]),
    "no patches": _h5(lambda _, f: f[:0]),
    "integers": _h5(lambda _, f: f.astype(int)),
    "integers in pt": _pt(lambda _, f: torch.from_numpy(f).int()),
    "a dict": _pt(lambda _, f: {"features": torch.from_numpy(f)}),
    "NaN": _h5(lambda _, f: np.vstack([f, f[:1] * np.nan])),
    "all but one NaN": _h5(lambda number, f: f if number == 5 else np.vstack([f, f[:1] * np.nan])),
    "the last is narrower": _h5(lambda number, f: f if number < 11 else f[:, :4]),
    "at 10x": _at_10x,
    "text": _text,
}
EVENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "follow-up": lambda _: {},
    "two deaths": lambda n: {"event": [1, 1, *[0] * (n - 2)]},
    "no death": lambda n: {"event": [0] * n},
    "ties": lambda n: {"time": [1, 2, 3] * (n // 3)},
}
REFUSED: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "bins, two deaths": ("float32", "two deaths", (), "fold 0: follow-up cannot be divided into 2 bins"),
    "bins, ties": ("float32", "ties", ("loss={name: nll, bins: 4}",), "cannot be divided into 4 bins"),
    "no death, nll": ("float32", "no death", (), "no training case has an event"),
    "no death, cox": ("float32", "no death", ("loss={name: cox}",), "loss 'cox' needs events"),
    "no choosing event": (
        "float32",
        "two deaths",
        ("loss={name: cox}",),
        "no inner validation case has an event",
    ),
    "no such magnification": (
        "float32",
        "follow-up",
        ("aggregator={name: crossfusion}",),
        "needs features at 10x",
    ),
    "another magnification": (
        "float32",
        "follow-up",
        ("aggregator.magnification=5",),
        "needs features at 5x",
    ),
    "heads": (
        "float32",
        "follow-up",
        ("aggregator={name: crossfusion_single, embed_dim: 10, num_heads: 4}",),
        "10 is not a multiple of 4",
    ),
    "no grid": (
        "float32",
        "follow-up",
        ("plugins=[gridded.py]", "aggregator={name: gridded}"),
        "needs a patch grid",
    ),
    "no patches": ("no patches", "follow-up", (), "(0, 6); (n, d) is expected"),
    "integers": ("integers", "follow-up", (), "'features' is int64"),
    "integers in pt": ("integers in pt", "follow-up", (), "holds a torch.int32 tensor"),
    "a dict": ("a dict", "follow-up", (), "holds a dict (features)"),
    "NaN": ("NaN", "follow-up", (), "NaN or infinite"),
    "all but one NaN": ("all but one NaN", "follow-up", (), "the cohort has 1 cases"),
    "widths": (
        "the last is narrower",
        "follow-up",
        (),
        "6 values in 11 (C00-1, C01-1, C02-1, …); 4 values in 1",
    ),
    "at 10x": ("at 10x", "follow-up", (), "its attribute target_magnification is 10"),
    "text": ("text", "follow-up", (), "not a valid HDF5 file"),
    "no folder": ("float32", "follow-up", ("features.import=nowhere",), "there is no such folder"),
    "folds": ("float32", "follow-up", ("splits.folds=13",), "splits.folds is 13"),
    "split files": ("float32", "follow-up", ("splits={files: nowhere.csv}",), "file not found"),
    "sites": ("float32", "follow-up", ("splits.group_by=site",), "not TCGA barcodes"),
    "subgroups": ("float32", "follow-up", ("evaluation.subgroups=[word]",), "12 distinct values"),
    "clinical": ("float32", "follow-up", ("evaluation.clinical=[word]",), "12 distinct values"),
    "no column": ("float32", "follow-up", ("evaluation.clinical=[sex]",), "no column 'sex'"),
}
"""Kind -> kind of feature files, kind of follow-up, settings, and what the message says."""
ACCEPTED = [
    ("float64", ()),
    ("leading 1", ("loss={name: cox}",)),
    ("leading 1 in pt", ("training.precision=bfloat16",)),
    ("bfloat16", ("training.precision=float16",)),
    ("one patch", ("training={epochs: 1, bag: case, standardize: true}",)),
    ("one without patches", ("training.max_patches=1", "evaluation.times=[1, 1000]")),
]
GRIDDED = """
from milsurv import hookimpl
from milsurv.aggregators.pooling import MeanPool

class Gridded(MeanPool):
    requires_grid = True

@hookimpl
def milsurv_register_aggregators(register):
    register("gridded", f"{__name__}:Gridded", summary="Mean, but only of features with a grid")
"""


@pytest.fixture
def write_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes feature files of a kind, a table of a kind, and a configuration that imports them at 20x."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gridded.py").write_text(GRIDDED)

    def write(files: str, follow_up: str) -> Path:
        ids = slide_ids()
        (tmp_path / "made" / "h5_files").mkdir(parents=True)
        (tmp_path / "made" / "pt_files").mkdir()
        for number, slide in enumerate(ids):
            of_pt = files in ("leading 1 in pt", "bfloat16", "integers in pt", "a dict")
            folder = tmp_path / "made" / ("pt_files" if of_pt else "h5_files")
            FILES[files](number, folder / slide, make_features(20, number))
        table = pd.read_csv(write_table(tmp_path / "table.csv", ids))
        words = [f"word {number}" for number in range(len(ids))]
        table.assign(word=words, **EVENTS[follow_up](len(ids))).to_csv(tmp_path / "table.csv", index=False)
        sections: dict[str, Any] = {"tiling": {"magnifications": [20]}, "aggregator": {"name": "meanpool"}}
        path = tmp_path / "imported.yaml"
        path.write_text(yaml.safe_dump(import_config(tmp_path, "clam", str(tmp_path / "made"), **sections)))
        return path

    return write


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_run_refuses_its_check_refuses_in_the_same_words(
    kind: str, write_import: Callable[[str, str], Path]
) -> None:
    files, follow_up, overrides, message = REFUSED[kind]
    config, registry = load_config(str(write_import(files, follow_up)), overrides)
    problems = check_run(config, registry).problems
    with pytest.raises(MilsurvError) as refused:
        run(config, registry)
    assert message in str(refused.value)
    assert "\n".join(problems) == str(refused.value)
    assert not list(config.workspace.rglob("*.safetensors"))


@pytest.mark.parametrize(("files", "overrides"), ACCEPTED)
def test_what_a_check_passes_runs(
    files: str, overrides: tuple[str, ...], write_import: Callable[[str, str], Path]
) -> None:
    path = write_import(files, "follow-up")
    config, registry = load_config(str(path), ("splits.folds=2", "evaluation.bootstraps=0", *overrides))
    before = {file for file in path.parent.rglob("*") if file.is_file()}
    findings = check_run(config, registry, only_fold=1)
    assert findings.problems == []
    assert {file for file in path.parent.rglob("*") if file.is_file()} == before
    result = run(config, registry, only_fold=1)
    left_out = [line for line in findings.warnings if "will be excluded" in line]
    assert len(left_out) == result.slides_excluded == (files == "one without patches")
    late = [line for line in findings.warnings if line.startswith("evaluation.times: 1000 is beyond")]
    assert len(late) == (files == "one without patches")
    assert set(late) <= set(result.metrics["cohort"]["warnings"])


def test_a_fold_that_is_not_there_is_a_problem(write_import: Callable[[str, str], Path]) -> None:
    config, registry = load_config(str(write_import("float32", "follow-up")))
    assert check_run(config, registry, only_fold=2).problems == ["--fold 2: there are folds 0, 1"]
    assert check_run(config, registry, only_fold=0).problems == []


def _check(path: Path, *overrides: str) -> Findings:
    return check_run(*load_config(str(path), overrides))


def test_slides_without_tissue_and_weights_that_cannot_be_had_are_problems(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    path = write_config()
    assert _check(path).problems == []
    assert not (tmp_path / "workspace").exists()
    (problem,) = _check(path, "tiling.min_tissue=1", "tiling.patch_px=640").problems
    assert "no case has a usable slide; the reasons: no tissue" in problem
    for backbone in ("resnet50", "uni"):
        (problem,) = _check(path, f"backbone={{name: {backbone}}}").problems
        assert "cannot be downloaded from the hub" in problem
        assert ("HF_TOKEN" in problem) == (backbone == "uni")


def test_a_synthetic_cohort_is_checked_without_its_slides(tmp_path: Path) -> None:
    overrides = [f"workspace={tmp_path / 'workspace'}", "cohort.cases=20", "backbone.input_px=32"]
    findings = check_run(*load_config("demo", overrides))
    assert findings.problems == []
    assert any("20 cases" in fact for fact in findings.facts)
    findings = check_run(*load_config("demo", [*overrides, "loss={name: nll, bins: 15}"]))
    assert any("cannot be divided into 15 bins" in problem for problem in findings.problems)
    assert not (tmp_path / "workspace").exists()
