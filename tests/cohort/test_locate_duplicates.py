"""One content under several names: found whatever the files are called, and on no two sides of a fold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from milsurv.cohort.cases import Case, Cohort, SlideRef
from milsurv.cohort.locate import without_duplicates
from milsurv.config.loading import load_config
from milsurv.errors import CohortError
from milsurv.features.extraction import CONTENT_KEYS
from milsurv.features.importers.clam import Clam
from milsurv.runs.checks import check_run
from milsurv.slides.reader import HASHED_BYTES
from tests.cohort.tables import columns, write
from tests.sessions import run


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Slides ``a`` to ``d`` of one size whose ends are the same, so that only their middle tells them apart."""
    ends = np.random.default_rng(0).bytes(HASHED_BYTES)
    found = {name: tmp_path / f"{name}.svs" for name in "abcd"}
    for name, path in found.items():
        path.write_bytes(ends + name.encode() * 50 + ends)
    return found


def cohort(files: dict[str, Path], **cases: str) -> Cohort:
    """Case id -> its slides, a letter each."""
    return Cohort(
        tuple(
            Case(case_id, 5.0, 1, tuple(SlideRef(name, files[name]) for name in slides))
            for case_id, slides in cases.items()
        ),
        "months",
        "OS",
    )


COPY: list[Callable[[Path, Path], object]] = [shutil.copy, os.link, os.symlink]


@pytest.mark.parametrize("copy", COPY, ids=["copied", "hard link", "link"])
def test_one_file_under_several_cases_is_refused_and_left_out_of_all(
    files: dict[str, Path], copy: Callable[[Path, Path], object]
) -> None:
    for name in "bc":
        files[name].unlink()
        copy(files["a"], files[name])
    found = cohort(files, P1="a", P2="bd", P3="c")

    with pytest.raises(CohortError) as caught:
        without_duplicates(found, CONTENT_KEYS, dropping=False)
    assert caught.value.problems[0].startswith(
        "slides with the same content under several cases: a (case P1), b (case P2), c (case P3); remove the wrong rows"
    )

    kept = without_duplicates(found, CONTENT_KEYS, dropping=True)
    used = {case.case_id: [s.slide_id for s in case.slides if s.path is not None] for case in kept.cases}
    assert used == {"P1": [], "P2": ["d"], "P3": []}
    assert kept.warnings == (
        "3 slides are excluded because they have the same content as another (a, b, c); 1 contents are listed under "
        "several cases",
    )


def test_one_file_twice_in_a_case_is_used_once(files: dict[str, Path]) -> None:
    shutil.copy(files["a"], files["c"])
    kept = without_duplicates(cohort(files, P1="abc", P2="d"), CONTENT_KEYS, dropping=False)
    assert [slide.reason for slide in kept.cases[0].slides] == [
        None,
        None,
        "the same content as slide a of its case, used once",
    ]
    assert [slide.path for slide in kept.cases[0].slides] == [files["a"], files["b"], None]


def test_files_that_differ_in_one_place_are_no_copies(files: dict[str, Path]) -> None:
    found = cohort(files, P1="a", P2="b", P3="cd")
    assert without_duplicates(found, CONTENT_KEYS, dropping=False) is found


def test_a_file_that_cannot_be_read_is_left_to_what_reads_it(files: dict[str, Path]) -> None:
    files["b"].unlink()
    found = cohort(files, P1="a", P2="b", P3="c")
    assert without_duplicates(found, CONTENT_KEYS, dropping=False) is found


def test_features_are_compared_whatever_else_a_file_says(tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    for name, values in {"a": features, "b": features[None], "c": features + 1, "d": features[:99]}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = values
            file.attrs["name"] = name
    torch.save(torch.from_numpy(features), tmp_path / "a.pt")
    names = ("a.h5", "b.h5", "a.pt", "c.h5", "d.h5")
    hashes = [Clam().hash_features(tmp_path / name, 20) for name in names]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes)) == 3


def test_check_and_run_refuse_imported_features_of_one_slide_under_two_cases(tmp_path: Path) -> None:
    table = columns()
    folder = tmp_path / "features" / "h5_files"
    folder.mkdir(parents=True)
    for number, slide_id in enumerate(table["slide_id"]):
        with h5py.File(folder / f"{slide_id}.h5", "w") as file:
            file["features"] = np.random.default_rng(number % 9).normal(size=(20, 4)).astype(np.float32)
            file.attrs["slide"] = slide_id
    config = {
        "workspace": str(tmp_path / "workspace"),
        "cohort": {"table": str(write(tmp_path, table))},
        "features": {"import": str(tmp_path / "features"), "layout": "clam"},
        "tiling": {"magnifications": [20]},
        "aggregator": {"name": "abmil"},
        "splits": {"folds": 2},
        "executor": {"workers": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    loaded, registry = load_config(str(tmp_path / "c.yaml"))

    (problem,) = check_run(loaded, registry).problems
    assert problem.startswith(
        "slides with the same content under several cases: s0 (case P0), s9 (case P9); "
    )
    with pytest.raises(CohortError, match=r"s0 \(case P0\), s9 \(case P9\)"):
        run(loaded, registry)
