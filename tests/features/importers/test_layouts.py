from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.features.importers.base import files_of_slide
from milsurv.features.importers.importing import Import
from milsurv.plugin.registry import get_registry
from tests.features.importers.make_foreign import (
    MAGNIFICATIONS,
    import_config,
    make_features,
    nested_cells,
    write_h5,
    write_pt,
    write_trident,
)


def _find(source: Any, layout: str, *magnifications: int, encoder: str | None = None) -> Import:
    sections = {
        "features": {"import": source, "layout": layout, "encoder": encoder},
        "tiling": {"magnifications": magnifications or MAGNIFICATIONS},
    }
    config = RunConfig.model_validate(import_config(Path("nowhere"), layout, source, **sections))
    return Import.of(config, get_registry())


def _write_slide(root: Path, slide: str, encoder: str = "uni_v1") -> None:
    for magnification, cells in nested_cells(1).items():
        write_trident(root, slide, magnification, cells, make_features(len(cells), 1), encoder=encoder)


def test_trident_folders_are_found_by_magnification(tmp_path: Path) -> None:
    _write_slide(tmp_path, "a")
    (tmp_path / "thumbnails").mkdir()
    found = _find(tmp_path, "trident")
    assert found.folders.name == "uni_v1"
    assert list(found.folders.by_magnification) == [20, 10, 5]
    (slide,) = found.index().files
    assert found.files(slide) == {
        m: tmp_path / f"{m}x_256px_0px_overlap" / "features_uni_v1" / "a.h5" for m in (20, 10, 5)
    }
    assert list(_find(tmp_path, "trident", 10, 5).folders.by_magnification) == [10, 5]


def test_several_encoders_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    _write_slide(tmp_path, "a")
    _write_slide(tmp_path, "a", "conch_v15")
    with pytest.raises(MilsurvError, match=r"20x: conch_v15, uni_v1.*choose one with features\.encoder"):
        _find(tmp_path, "trident")
    found = _find(tmp_path, "trident", encoder="conch_v15")
    assert found.folders.name == "conch_v15"
    with pytest.raises(MilsurvError, match=r"no features of 'uni_v2' \(did you mean 'uni_v1'\?\)"):
        _find(tmp_path, "trident", encoder="uni_v2")
    with pytest.raises(
        MilsurvError, match=r"features\.encoder: folders of layout stamp do not name an encoder"
    ):
        _find(tmp_path, "stamp", 20, encoder="uni_v1")


def test_an_encoder_that_lacks_a_magnification_is_not_taken_for_all(tmp_path: Path) -> None:
    cells = nested_cells(1)
    write_trident(tmp_path, "a", 20, cells[20], make_features(len(cells[20]), 1))
    write_trident(tmp_path, "a", 10, cells[10], make_features(len(cells[10]), 1), encoder="conch_v15")
    with pytest.raises(MilsurvError, match=r"no encoder at all of 20x, 10x \(20x: uni_v1; 10x: conch_v15\)"):
        _find(tmp_path, "trident", 20, 10)


def test_among_patch_sizes_that_of_the_tiling_is_taken(tmp_path: Path) -> None:
    for name in ("20x_256px_0px_overlap", "20x_512px_0px_overlap", "20x_256px_64px_overlap"):
        (tmp_path / name / "features_uni_v1").mkdir(parents=True)
    found = _find(tmp_path, "trident", 20)
    assert found.folders.by_magnification == {20: (tmp_path / "20x_256px_0px_overlap" / "features_uni_v1",)}
    (tmp_path / "20x_256px_0px_overlap").rename(tmp_path / "20x_224px_0px_overlap")
    with pytest.raises(MilsurvError, match=r"several folders for 20x: 20x_224px.*set tiling\.patch_px"):
        _find(tmp_path, "trident", 20)


@pytest.mark.parametrize(
    ("layout", "magnifications", "problem"),
    [
        ("trident", (20, 10), r"no folder such as 20x_256px_0px_overlap.*it holds other"),
        ("clam", (20,), r"neither h5_files nor pt_files.*it holds other"),
        ("clam", (20, 10), r"holds one magnification.*\{20: PATH, 10: PATH\}"),
        ("stamp", (20, 10), r"holds one magnification"),
        ("authors", (20, 10), r"no folder .*x20/pt_files; layout authors has x20/pt_files, x10/pt_files"),
    ],
)
def test_what_is_missing_is_named_with_what_is_there(
    tmp_path: Path, layout: str, magnifications: tuple[int, ...], problem: str
) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(MilsurvError, match=problem):
        _find(tmp_path, layout, *magnifications)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MilsurvError, match=r"features\.import: .*nowhere: there is no such folder"):
        _find(tmp_path / "nowhere", "stamp", 20)


def test_folders_by_magnification_are_those_of_the_tiling(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "pt_files").mkdir(parents=True)
    found = _find({10: tmp_path / "b", 20: tmp_path / "a"}, "clam", 20, 10)
    assert found.folders.by_magnification == {
        20: (tmp_path / "a" / "pt_files",),
        10: (tmp_path / "b" / "pt_files",),
    }
    with pytest.raises(
        MilsurvError, match=r"has folders for 20x, 10x, tiling\.magnifications are 20x, 10x, 5x"
    ):
        _find({10: tmp_path / "b", 20: tmp_path / "a"}, "clam")
    with pytest.raises(MilsurvError, match="below one folder"):
        _find({20: tmp_path / "a"}, "authors", 20)


def test_clam_files_with_coordinates_come_before_those_without(tmp_path: Path) -> None:
    features = make_features(3, 1)
    write_h5(tmp_path / "h5_files" / "a.h5", {"features": features, "coords": np.zeros((3, 2), int)}, {})
    for slide in ("a", "b"):
        write_pt(tmp_path / "pt_files" / f"{slide}.pt", None)
    found = _find(tmp_path, "clam", 20)
    assert [found.files(file)[20].name for file in found.index().files] == ["a.h5", "b.pt"]


def test_stamp_files_lie_in_folders_as_their_slides_did(tmp_path: Path) -> None:
    for m in (20, 10):
        write_pt(tmp_path / str(m) / "site" / "a.h5", None)
    write_pt(tmp_path / "10" / "b.h5", None)
    found = _find({m: tmp_path / str(m) for m in (20, 10)}, "stamp", 20, 10)
    files = [files_of_slide(found.folders, found.layout.suffixes, file) for file in found.index().files]
    assert [list(of_slide) for of_slide in files] == [[10], [20, 10]]


def test_a_slide_whose_name_holds_dots_keeps_them(tmp_path: Path) -> None:
    for m in (20, 10):
        write_pt(tmp_path / f"x{m}" / "pt_files" / "a.1.2.pt", None)
    found = _find(tmp_path, "authors", 20, 10)
    (slide,) = found.index().files
    assert list(found.files(slide)) == [20, 10]
