from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from milsurv.errors import MilsurvError
from milsurv.features.inventory import feature_files, list_folders, problems_of
from milsurv.features.store import MagnificationFeatures, write_checksums, write_features
from tests.features.importers.make_foreign import make_features, nested_cells

ATTRIBUTES = {"slide": {}, "settings": {"dtype": "float16"}, "milsurv_version": "0.1.0"}


def _write(path: Path, seed: int = 1, **attributes: object) -> None:
    by_magnification = {}
    for m, cells in nested_cells(seed).items():
        side = 5120 / m
        by_magnification[m] = MagnificationFeatures(
            make_features(len(cells), m),
            np.rint(cells * side).astype(np.int64),
            cells.astype(np.int32),
            10 / m,
            side,
        )
    patches = {str(m): len(stored.features) for m, stored in by_magnification.items()}
    write_features(path, by_magnification, {**ATTRIBUTES, "patches": patches, **attributes})


def test_a_sound_file_has_no_problems(tmp_path: Path) -> None:
    _write(tmp_path / "a.h5")
    assert problems_of(tmp_path / "a.h5") == []


def _drop_attribute(file: h5py.File) -> None:
    del file.attrs["settings"]


def _drop_identity(file: h5py.File) -> None:
    del file.attrs["slide"]


def _drop_row(file: h5py.File) -> None:
    coords = file["10x/coords"][:-1]
    del file["10x/coords"]
    file["10x/coords"] = coords


def _set_nan(file: h5py.File) -> None:
    file["20x/features"][1, 2] = np.nan


def _shift_grid(file: h5py.File) -> None:
    file["20x/grid"][:] = file["20x/grid"][:] + np.array([1, 0])


def _move_patch(file: h5py.File) -> None:
    file["5x/coords"][0] = [90_000, 90_000]


def _double_cell(file: h5py.File) -> None:
    file["20x/grid"][1] = file["20x/grid"][0]


def _drop_coarse_patches(file: h5py.File) -> None:
    for name in ("features", "coords", "grid"):
        kept = file[f"5x/{name}"][1:]
        del file[f"5x/{name}"]
        file[f"5x/{name}"] = kept
    file.attrs["patches"] = np.bytes_(file.attrs["patches"].replace(b'"5": 4', b'"5": 3'))


def _drop_a_grid(file: h5py.File) -> None:
    del file["5x/grid"]


def _drop_all(file: h5py.File) -> None:
    for m in (20, 10, 5):
        del file[f"{m}x"]


SPOILED: dict[Callable[[h5py.File], None], str] = {
    _drop_attribute: "has no attribute 'settings'",
    _drop_identity: "has neither the attribute 'slide' nor 'source'",
    _drop_row: "10x: coords is int64 of shape",
    _set_nan: "20x: 1 of",
    _shift_grid: "are not all within|have different origins",
    _move_patch: "5x: coords and grid are inconsistent",
    _double_cell: "20x: two patches have the same place in the grid",
    _drop_coarse_patches: "are not all within 5x patches",
    _drop_a_grid: "only 20x, 10x of its magnifications have a grid",
    _drop_all: "holds no magnification",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_what_is_wrong_is_found(tmp_path: Path, spoil: Callable[[h5py.File], None]) -> None:
    path = tmp_path / "a.h5"
    _write(path)
    with h5py.File(path, "r+") as file:
        spoil(file)
        write_checksums(file)
    problems = problems_of(path)
    assert problems
    assert all(problem.startswith(f"{path}: ") for problem in problems)
    assert any(part in "\n".join(problems) for part in SPOILED[spoil].split("|"))


def test_every_byte_of_the_features_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    _write(path)
    content = path.read_bytes()
    place = content.index(make_features(len(nested_cells(1)[20]), 20)[1].tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    (problem,) = problems_of(path)
    assert "cannot be read" in problem


def test_another_tools_file_is_bad(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = make_features(3, 1)
        file.attrs["count"] = 3
    (problem,) = problems_of(tmp_path / "a.h5")
    assert "cannot be read" in problem


def test_folders_are_listed_with_what_is_in_them(tmp_path: Path) -> None:
    folder = tmp_path / "features" / "uni-0123456789ab"
    for seed, slide in enumerate(("a", "b")):
        _write(folder / f"{slide}.h5", seed)
    _write(tmp_path / "features" / "resnet-50-0123456789ab" / "a.h5", milsurv_version="0.2.0")
    (folder / "c.h5").write_bytes(b"nothing")
    (folder / ".d.h5.tmp").touch()
    first, second = list_folders(tmp_path)
    assert (first.name, first.slides, first.milsurv_versions) == ("resnet-50", 1, ["0.2.0"])
    assert (second.name, second.slides, second.unreadable) == ("uni", 2, 1)
    assert second.patches[20] == sum(len(nested_cells(seed)[20]) for seed in (0, 1))
    assert second.bytes == sum((folder / f"{slide}.h5").stat().st_size for slide in "ab")
    assert second.as_dict()["settings"] == {"dtype": "float16"}


def test_a_place_without_features_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MilsurvError, match=str(path)):
            feature_files(path)
