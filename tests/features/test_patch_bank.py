from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from milsurv.errors import MilsurvError
from milsurv.executors.base import Context
from milsurv.features.patch_bank import COMPONENTS, make_bank, read_bank, reduce_features
from milsurv.features.store import MagnificationFeatures, read_attributes, read_features, write_features

Vectors = dict[int, dict[tuple[int, int], NDArray[Any]]]
"""Magnification -> place in the grid -> features."""
DIM = 5
SETTINGS = {"made": "here"}


def _picture(path: Path, columns: int, rows: int, seed: int) -> Vectors:
    """A feature file of 20x, 10x and 5x patches that fill a picture; magnification -> place -> vector."""
    rng = np.random.default_rng(seed)
    vectors, stored = {}, {}
    for m in (20, 10, 5):
        ratio = m // 5
        grid = np.argwhere(np.ones((rows * ratio, columns * ratio)))[:, ::-1].astype(np.int32)
        features = rng.normal(size=(len(grid), DIM)).astype(np.float32)
        side = 256.0 * 20 / m
        stored[m] = MagnificationFeatures(features, np.rint(grid * side).astype(np.int64), grid, 10 / m, side)
        vectors[m] = dict(zip(map(tuple, grid.tolist()), features, strict=True))
    write_features(path, stored, {})
    return vectors


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Vectors]:
    return {name: _picture(tmp_path / f"{name}.h5", 2, 1, seed) for seed, name in enumerate("AB")}


@pytest.fixture
def bank(tmp_path: Path, pictures: dict[str, object]) -> Path:
    path = tmp_path / "bank.h5"
    make_bank(Context(), {name: tmp_path / f"{name}.h5" for name in pictures}, path, SETTINGS)
    return path


def _blocks(*rows: tuple[int, int, str, int, str, int]) -> pd.DataFrame:
    names = ["column", "row", "cells_from", "cells_part", "coarse_from", "coarse_part"]
    return pd.DataFrame(rows, columns=names)


def test_patches_are_gathered_to_their_places(bank: Path, pictures: dict[str, Vectors]) -> None:
    """Distances between patches are those of the original vectors: all components are kept of so few dimensions."""
    blocks = _blocks((0, 0, "A", 1, "B", 0), (1, 0, "B", 6, "A", 3), (0, 1, "A", 0, "A", 1))
    found = read_bank(bank).gather(blocks)
    for m, of_m in found.items():
        ratio = m // 5
        expected = {}
        for column, row, *cells_from, coarse_from, coarse_part in blocks.to_numpy().tolist():
            name, part = cells_from if m == 20 else (coarse_from, coarse_part)
            for right in range(ratio):
                for down in range(ratio):
                    place = (column * ratio + right, row * ratio + down)
                    expected[place] = pictures[name][m][part % 2 * ratio + right, down]
        assert of_m.grid is not None
        assert of_m.coords is not None
        order = sorted(expected, key=lambda place: place[::-1])
        assert list(map(tuple, of_m.grid.tolist())) == order
        np.testing.assert_array_equal(of_m.coords, of_m.grid * 256 * 20 // m)
        vectors = np.stack([expected[place] for place in order])
        np.testing.assert_allclose(_distances(of_m.features), _distances(vectors), rtol=1e-4, atol=1e-4)
        assert (of_m.mpp, of_m.patch_level0) == (10 / m, 256 * 20 / m)


def _distances(vectors: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(vectors[:, None].astype(float) - vectors, axis=2))


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(300, 80)) * np.linspace(3, 0.1, 80)).astype(np.float32)
    found, explained = reduce_features(features)
    centred = features - features.mean(axis=0, dtype=np.float64)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    expected = (left * sizes)[:, :COMPONENTS]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, atol=1e-6)
    assert explained == pytest.approx(np.square(sizes[:COMPONENTS]).sum() / np.square(sizes).sum())
    directions = np.linalg.lstsq(centred, found, rcond=None)[0]
    assert (directions[np.abs(directions).argmax(axis=0), np.arange(COMPONENTS)] > 0).all()
    assert right.shape == (80, 80)


def test_a_bank_records_how_it_was_made_and_is_not_made_again(bank: Path, tmp_path: Path) -> None:
    attributes = read_attributes(bank)
    assert attributes["pictures"] == ["A", "A", "B", "B"]
    assert attributes["settings"] == SETTINGS
    assert attributes["explained_variance"] == pytest.approx({"20": 1, "10": 1, "5": 1})
    before = bank.read_bytes()
    make_bank(Context(), {"A": tmp_path / "missing.h5"}, bank, SETTINGS)
    assert bank.read_bytes() == before


def test_a_block_at_the_border_with_missing_patches_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    _picture(path, 2, 1, 0)
    stored = read_features(path)
    grid = stored[20].grid
    assert grid is not None
    kept = ~((grid == (7, 3)).all(axis=1))
    stored[20] = MagnificationFeatures(stored[20].features[kept], None, grid[kept], 0.5, 256.0)
    write_features(path, stored, {})
    make_bank(Context(), {"A": path}, tmp_path / "bank.h5", SETTINGS)
    assert read_attributes(tmp_path / "bank.h5")["pictures"] == ["A"]


def test_a_picture_without_a_block_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    grid = np.array([[0, 0]], np.int32)
    features = np.ones((1, 2), np.float32)
    write_features(path, {m: MagnificationFeatures(features, None, grid) for m in (20, 5)}, {})
    with pytest.raises(MilsurvError, match=r"no patch at 5x lies within picture A; reduce tiling.patch_px"):
        make_bank(Context(), {"A": path}, tmp_path / "bank.h5", SETTINGS)
    assert not (tmp_path / "bank.h5").exists()


def test_an_unknown_picture_and_a_missing_bank_are_errors(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(MilsurvError, match="the bank has no picture C"):
        read_bank(bank).gather(_blocks((0, 0, "A", 1, "C", 0)))
    with pytest.raises(MilsurvError, match="there is no bank of patches; start a run"):
        read_bank(tmp_path / "none.h5")
