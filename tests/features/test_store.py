from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from milsurv import Bag, MilsurvError
from milsurv.features.store import (
    MagnificationFeatures,
    patch_sides,
    read_attributes,
    read_bag,
    read_features,
    write_features,
)


def _magnification(patches: int, dim: int = 5) -> MagnificationFeatures:
    rng = np.random.default_rng(patches)
    grid = np.stack(np.divmod(np.arange(patches), 4), 1)[:, ::-1].astype(np.int32)
    features = rng.normal(size=(patches, dim)).astype(np.float16)
    return MagnificationFeatures(features, grid.astype(np.int64) * 256, grid, mpp=0.5, patch_level0=256.0)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "slide.h5"
    by_magnification = {20: _magnification(16), 10: _magnification(4), 5: _magnification(1)}
    write_features(path, by_magnification, {"mpp": 0.5, "settings": {"backbone": "x"}})
    bag = read_bag(path)
    assert list(bag.features) == [20, 10, 5]
    assert bag.sizes == {20: 16, 10: 4, 5: 1}
    assert bag.coords is not None
    assert bag.grid is not None
    for magnification, stored in by_magnification.items():
        assert bag.features[magnification].dtype == torch.float16
        assert bag.coords[magnification].dtype == torch.int64
        assert bag.grid[magnification].dtype == torch.int32
        np.testing.assert_array_equal(bag.features[magnification].numpy(), stored.features)
        np.testing.assert_array_equal(bag.coords[magnification].numpy(), stored.coords)
        np.testing.assert_array_equal(bag.grid[magnification].numpy(), stored.grid)
    assert read_attributes(path) == {"mpp": 0.5, "settings": {"backbone": "x"}}
    assert patch_sides(path) == {20: 256.0, 10: 256.0, 5: 256.0}


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    write_features(tmp_path / "slide.h5", {20: _magnification(3)}, {})
    with h5py.File(tmp_path / "slide.h5") as file:
        described = {name: (file[f"20x/{name}"].dtype.str, file[f"20x/{name}"].shape) for name in file["20x"]}
    assert described == {"features": ("<f2", (3, 5)), "coords": ("<i8", (3, 2)), "grid": ("<i4", (3, 2))}


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_features(tmp_path / "slide.h5", {20: _magnification(3)}, {"unwritable": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "slide.h5"
    write_features(path, {20: _magnification(300)}, {})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(MilsurvError, match=r"slide\.h5 cannot be read.*delete it"):
        read_bag(path)


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.acceptance)])
def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path, stride: int) -> None:
    path = tmp_path / "slide.h5"
    write_features(
        path,
        {20: _magnification(4, 3), 10: MagnificationFeatures(_magnification(1).features)},
        {"mpp": 0.5, "slide": {"a": 1}},
    )

    def content() -> list[object]:
        told: list[object] = [read_attributes(path), read_attributes(path, ["mpp"])]
        for magnification, stored in read_features(path).items():
            arrays = (stored.features, stored.coords, stored.grid)
            told += [magnification, stored.mpp, stored.patch_level0]
            told += [
                None if array is None else (array.dtype, array.shape, array.tobytes()) for array in arrays
            ]
        return told

    expected, whole, refused = content(), path.read_bytes(), 0
    for place in range(0, len(whole), stride):
        for flip in (1 << place % 8, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                assert content() == expected, place
            except MilsurvError:
                refused += 1
    assert refused > len(whole) / stride


def test_a_file_without_checksums_is_an_older_one(tmp_path: Path) -> None:
    write_features(tmp_path / "slide.h5", {20: _magnification(3)}, {})
    with h5py.File(tmp_path / "slide.h5", "r+") as file:
        del file.attrs["checksums"]
    with pytest.raises(
        MilsurvError, match=r"no checksums: an older milsurv made it.*run again to recreate it"
    ):
        read_bag(tmp_path / "slide.h5")


def test_a_bag_moves_with_its_places() -> None:
    grid = {20: torch.zeros(3, 2, dtype=torch.int32)}
    bag = Bag({20: torch.zeros(3, 4, dtype=torch.float16)}, grid=grid).to("cpu", torch.float32)
    assert bag.features[20].dtype == torch.float32
    assert bag.grid is not None
    assert bag.grid[20].dtype == torch.int32
    assert bag.coords is None


def test_a_file_damaged_within_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "slide.h5"
    write_features(path, {20: _magnification(4000)}, {})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(MilsurvError, match=r"slide\.h5 cannot be read.*delete it"):
        read_bag(path)
