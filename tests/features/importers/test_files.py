from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from milsurv.errors import SlideError
from tests.features.importers.make_foreign import (
    make_features,
    read_foreign,
    read_shape,
    write_h5,
    write_pt,
    write_trident,
)

FEATURES = make_features(4, seed=1)
CELLS = np.array([[0, 0], [1, 0], [0, 1], [5, 5]])


class Evil:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


def test_a_trident_file_says_where_its_patches_are(tmp_path: Path) -> None:
    read = read_foreign(write_trident(tmp_path, "a", 20, CELLS, FEATURES), "trident", 20)
    np.testing.assert_array_equal(read.features, FEATURES)
    assert read.coords is not None
    np.testing.assert_array_equal(read.coords, CELLS * 512)
    assert (read.unit, read.side, read.patch_px, read.level0_magnification) == ("px", 512, 256, 40)
    assert not read.overlap


def test_overlap_is_known_from_the_attribute_or_the_folder(tmp_path: Path) -> None:
    file = write_trident(tmp_path, "a", 20, CELLS, FEATURES, overlap=64)
    assert read_foreign(file, "trident", 20).overlap
    path = tmp_path / "20x_256px_64px_overlap" / "features_uni_v1" / "a.h5"
    write_h5(path, {"features": FEATURES, "coords": CELLS}, {})
    assert read_foreign(path, "trident", 20).overlap


def test_a_file_of_another_magnification_is_refused(tmp_path: Path) -> None:
    file = write_trident(tmp_path, "a", 20, CELLS, FEATURES, target_magnification=10)
    with pytest.raises(
        SlideError, match=r"a\.h5: its attribute target_magnification is 10, but it is among the 20x"
    ):
        read_foreign(file, "trident", 20)


def test_clam_tells_the_side_by_patch_size_and_downsample_or_not_at_all(tmp_path: Path) -> None:
    arrays = {"features": FEATURES, "coords": CELLS.astype(np.int32)}
    write_h5(tmp_path / "a.h5", arrays, {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0)})
    write_h5(tmp_path / "b.h5", arrays, {})
    assert read_foreign(tmp_path / "a.h5", "clam", 20).side == 1024
    assert read_foreign(tmp_path / "b.h5", "clam", 20).side is None


@pytest.mark.parametrize("size", ["tile_size_um", "tile_size"])
def test_stamp_places_are_micrometres(tmp_path: Path, size: str) -> None:
    arrays = {"feats": FEATURES.astype(np.float16), "coords": (CELLS * 256).astype(np.float32)}
    write_h5(tmp_path / "a.h5", arrays, {"unit": "um", size: 256.0, "tile_size_px": 224}, on="")
    read = read_foreign(tmp_path / "a.h5", "stamp", 10)
    assert (read.unit, read.side, read.patch_px) == ("µm", 256, 224)
    assert read.features.dtype == np.float16
    assert read.coords is not None


def test_stamp_places_in_an_unknown_unit_are_left_out(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", {"feats": FEATURES, "coords": CELLS * 224.0}, {"tile_size": 256.0}, on="")
    assert read_foreign(tmp_path / "a.h5", "stamp", 10).coords is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_a_tensor_keeps_its_values(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(FEATURES).to(dtype).requires_grad_()
    write_pt(tmp_path / "a.pt", tensor)
    read = read_foreign(tmp_path / "a.pt", "authors", 20)
    assert read.features.dtype == (np.float16 if dtype == torch.float16 else np.float32)
    np.testing.assert_array_equal(read.features, tensor.detach().float().numpy())
    assert read.coords is None


@pytest.mark.parametrize("patches", [1, 4])
@pytest.mark.parametrize("places_too", [True, False])
def test_a_leading_1_is_no_dimension(tmp_path: Path, patches: int, places_too: bool) -> None:
    features, cells = FEATURES[:patches], CELLS[:patches]
    write_h5(
        tmp_path / "a.h5", {"features": features[None], "coords": cells[None] if places_too else cells}, {}
    )
    write_pt(tmp_path / "a.pt", torch.from_numpy(features[None]))
    for name in ("a.h5", "a.pt"):
        read = read_foreign(tmp_path / name, "clam", 20)
        np.testing.assert_array_equal(read.features, features)
        assert read_shape(tmp_path / name, "clam", 20) == (patches, 6)
    places = read_foreign(tmp_path / "a.h5", "clam", 20).coords
    assert places is not None
    np.testing.assert_array_equal(places, cells)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_an_array_keeps_its_values(tmp_path: Path, dtype: Any) -> None:
    array = FEATURES.astype(dtype)
    write_h5(tmp_path / "a.h5", {"features": array, "coords": CELLS}, {})
    read = read_foreign(tmp_path / "a.h5", "clam", 20)
    assert read.features.dtype == (np.float16 if dtype == np.float16 else np.float32)
    np.testing.assert_array_equal(read.features, array.astype(np.float32))


def test_a_tensor_in_the_format_before_zip_is_read(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(FEATURES), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_foreign(tmp_path / "a.pt", "clam", 20).features, FEATURES)
    assert read_shape(tmp_path / "a.pt", "clam", 20) == (4, 6)


BAD_TENSORS = {
    "a dict": (
        {"features": torch.zeros(3, 4), "coords": torch.zeros(3, 2)},
        r"holds a dict \(features, coords\); a floating-point tensor",
    ),
    "integers": (torch.zeros(3, 4, dtype=torch.int64), "holds a torch.int64 tensor; a floating-point"),
    "one dimension": (torch.zeros(4), r"shape \(4,\); \(n, d\) is expected"),
    "three dimensions": (torch.zeros(3, 1, 4), r"shape \(3, 1, 4\); \(n, d\) is expected, .* or \(1, n, d\)"),
    "four dimensions": (torch.zeros(1, 1, 3, 4), r"shape \(1, 1, 3, 4\); \(n, d\)"),
    "a number": (torch.tensor(1.0), r"shape \(\); \(n, d\)"),
    "complex numbers": (torch.zeros(3, 4, dtype=torch.complex64), "holds a torch.complex64 tensor"),
    "a list": ([torch.zeros(3, 4)], "holds a list; a floating-point tensor"),
    "no rows": (torch.zeros(0, 4), r"shape \(0, 4\)"),
    "NaN": (torch.tensor([[1.0, float("nan")], [1, 1]]), "1 of 2 patches have features that are NaN"),
    "infinity": (torch.tensor([[1.0, float("inf")], [1, 1]]), "1 of 2 patches"),
    "beyond float32": (torch.tensor([[1e300]], dtype=torch.float64), "1 of 1 patches"),
    "sparse": (torch.zeros(3, 4).to_sparse(), "floating-point tensor"),
    "code": (Evil(), "not loaded since they could execute code"),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_a_bad_tensor_is_named_with_what_is_expected(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, problem = BAD_TENSORS[kind]
    write_pt(tmp_path / "a.pt", content)
    with pytest.raises(SlideError, match=rf"^{tmp_path}/a\.pt: .*{problem}") as caught:
        read_foreign(tmp_path / "a.pt", "clam", 20)
    assert "\n" not in str(caught.value)
    if kind not in IN_VALUES:
        with pytest.raises(SlideError) as of_shape:
            read_shape(tmp_path / "a.pt", "clam", 20)
        assert str(of_shape.value) == str(caught.value)
    assert not (tmp_path / "evil").exists()


IN_VALUES = ("NaN", "infinity", "beyond float32", "fractions", "NaN places")
"""What a header does not show."""
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no features": ({"feats": FEATURES, "coords": CELLS}, "no dataset 'features'; it contains coords, feats"),
    "integers": ({"features": CELLS, "coords": CELLS}, "'features' is int64; floating-point numbers"),
    "one dimension": ({"features": FEATURES[0], "coords": CELLS}, r"shape \(6,\); \(n, d\) is expected"),
    "two slides": ({"features": np.stack([FEATURES] * 2), "coords": CELLS}, r"shape \(2, 4, 6\); \(n, d\)"),
    "no patches": ({"features": FEATURES[:0], "coords": CELLS[:0]}, r"shape \(0, 6\); .* 1 or more patches"),
    "no patches after a leading 1": ({"features": FEATURES[None, :0], "coords": CELLS}, r"shape \(1, 0, 6\)"),
    "empty dataset": ({"features": h5py.Empty("f4"), "coords": CELLS}, r"shape None; \(n, d\)"),
    "places of two slides": ({"features": FEATURES, "coords": np.stack([CELLS] * 2)}, r"shape \(2, 4, 2\)"),
    "other length": ({"features": FEATURES, "coords": CELLS[:3]}, r"\(3, 2\); numbers of shape \(4, 2\)"),
    "three columns": ({"features": FEATURES, "coords": np.zeros((4, 3))}, r"numbers of shape \(4, 2\)"),
    "fractions": ({"features": FEATURES, "coords": CELLS + 0.5}, "whole level-0 pixels"),
    "NaN places": ({"features": FEATURES, "coords": CELLS * np.nan}, "'coords' has values that are NaN"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_a_bad_array_is_named_with_what_is_expected(kind: str, tmp_path: Path) -> None:
    arrays, problem = BAD_ARRAYS[kind]
    write_h5(tmp_path / "a.h5", arrays, {})
    with pytest.raises(SlideError, match=rf"^{tmp_path}/a\.h5: .*{problem}") as caught:
        read_foreign(tmp_path / "a.h5", "clam", 20)
    if kind not in IN_VALUES:
        with pytest.raises(SlideError) as of_shape:
            read_shape(tmp_path / "a.h5", "clam", 20)
        assert str(of_shape.value) == str(caught.value)


@pytest.mark.parametrize("name", ["a.h5", "a.pt"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_file_that_is_cut_off_or_empty_is_a_reason(tmp_path: Path, name: str, share: float) -> None:
    write_h5(tmp_path / "a.h5", {"features": make_features(400, 1), "coords": np.zeros((400, 2), int)}, {})
    write_pt(tmp_path / "a.pt", torch.from_numpy(FEATURES))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=rf"^{path}: ") as caught:
        read_foreign(path, "clam", 20)
    assert "\n" not in str(caught.value)


def test_data_in_another_file_are_not_read(tmp_path: Path) -> None:
    write_h5(tmp_path / "other.h5", {"features": FEATURES, "coords": CELLS}, {})
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["away"] = h5py.ExternalLink("other.h5", "features")
        file["features"] = h5py.SoftLink("/away")
    (tmp_path / "raw").write_bytes(FEATURES.tobytes())
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset(
            "features", FEATURES.shape, np.float32, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        )
    layout = h5py.VirtualLayout(FEATURES.shape, np.float32)
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "features", FEATURES.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("features", layout)
    for name in ("link", "raw", "virtual"):
        with pytest.raises(SlideError, match=rf"{name}\.h5: 'features' is .*another file"):
            read_foreign(tmp_path / f"{name}.h5", "clam", 20)


def test_a_file_on_which_the_hdf5_library_crashes_costs_that_file_alone() -> None:
    file = Path(__file__).parents[2] / "data" / "crashes_hdf5.h5"
    with pytest.raises(SlideError, match=r"crashes_hdf5\.h5: not a valid HDF5 file"):
        read_foreign(file, "clam", 20)


@pytest.mark.parametrize("rows", [10**12, 10**6])
def test_an_array_that_its_file_cannot_hold_is_not_read(tmp_path: Path, rows: int) -> None:
    for options in ({}, {"chunks": (1, 6)}, {"chunks": (10_000, 6), "compression": "gzip"}):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("features", (rows, 6), np.float32, **options)
        with pytest.raises(SlideError, match=r"'features' has shape \(10+, 6\)"):
            read_foreign(tmp_path / "a.h5", "clam", 20)
