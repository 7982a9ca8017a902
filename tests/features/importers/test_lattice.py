from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.features.importers.importing import PIXEL_SLACK
from milsurv.features.importers.lattice import rebuild_grid

Cells = NDArray[np.int64]
MAGNIFICATIONS = (20, 10, 5)
cell = st.tuples(st.integers(0, 60), st.integers(0, 60))
cells_of_some = st.sets(cell, min_size=1, max_size=25)
cells_of_all = st.fixed_dictionaries(dict.fromkeys(MAGNIFICATIONS, cells_of_some)) | st.fixed_dictionaries(
    {20: cells_of_some}
)
"""Any patches, in any order, many of them missing."""


def _shuffled(cells: set[tuple[int, int]], rng: np.random.Generator) -> Cells:
    return rng.permutation(np.array(sorted(cells), dtype=np.int64), axis=0)


def _assert_right(grid: dict[int, NDArray[np.int32]] | None, cells: dict[int, Cells]) -> None:
    """The grid is the cells up to one shift, of as many coarsest patches at every magnification."""
    assert grid is not None
    coarsest = min(cells)
    shifts = np.concatenate([(grid[m] - cells[m]) / (m // coarsest) for m in cells])
    assert (shifts == shifts[0]).all()
    assert (shifts == np.rint(shifts)).all()
    assert all((of_m >= 0).all() and of_m.dtype == np.int32 for of_m in grid.values())


@settings(deadline=None)
@given(
    cells_of_all,
    st.integers(16, 2000),
    st.tuples(st.integers(0, 9000), st.integers(0, 9000)),
    st.integers(0, 2**32 - 1),
)
def test_patches_on_one_lattice_have_their_grid_wherever_it_begins(
    drawn: dict[int, set[tuple[int, int]]], side: int, origin: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = {m: _shuffled(of_m, rng) for m, of_m in drawn.items()}
    places = {m: np.array(origin) + of_m * float(side * 20 // m) for m, of_m in cells.items()}
    sides: dict[int, float | None] = {m: side * 20 / m for m in cells}
    _assert_right(rebuild_grid(places, sides, PIXEL_SLACK), cells)


@settings(deadline=None)
@given(cells_of_all, st.floats(16, 2000))
def test_rounded_corners_of_sides_that_are_no_whole_number_have_the_very_cells(
    drawn: dict[int, set[tuple[int, int]]], side: float
) -> None:
    cells = {m: np.array(sorted(of_m), dtype=np.int64) for m, of_m in drawn.items()}
    places = {m: np.rint(of_m * (side * (20 // m))) for m, of_m in cells.items()}
    sides: dict[int, float | None] = {m: side * (20 // m) for m in cells}
    grid = rebuild_grid(places, sides, PIXEL_SLACK)
    assert grid is not None
    for m, of_m in cells.items():
        np.testing.assert_array_equal(grid[m], of_m)


offsets = st.tuples(st.integers(0, 300), st.integers(0, 300))


@settings(deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys((20, 10), cells_of_some)),
    st.integers(16, 100),
    offsets | st.just((0, 0)),
    offsets | st.just((0, 0)),
    st.integers(-3, 3),
)
def test_a_grid_is_never_wrong(
    drawn: dict[int, set[tuple[int, int]]],
    side: int,
    fine_origin: tuple[int, int],
    coarse_origin: tuple[int, int],
    excess: int,
) -> None:
    """Whatever is given: a grid says that a patch lies within another only when it does, and gives true distances."""
    coarse_side = 2 * side + excess
    fine = np.array(fine_origin) + np.array(sorted(drawn[20])) * float(side)
    coarse = np.array(coarse_origin) + np.array(sorted(drawn[10])) * float(coarse_side)
    grid = rebuild_grid({20: fine, 10: coarse}, {20: side, 10: coarse_side}, PIXEL_SLACK)
    if grid is None:
        return
    for places, places_grid, length in ((fine, grid[20], side), (coarse, grid[10], 2 * side)):
        distances = (places_grid - places_grid[0]) * length - (places - places[0])
        assert np.abs(distances).max() <= 1
    inside = (grid[20][:, None] // 2 == grid[10][None]).all(axis=2)
    begins_in = ((fine[:, None] >= coarse[None] - 1) & (fine[:, None] < coarse[None] + 2 * side - 1)).all(
        axis=2
    )
    np.testing.assert_array_equal(inside, begins_in)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys((20, 10), cells_of_some)),
    st.integers(16, 100),
    st.tuples(st.integers(1, 99), st.integers(1, 99)),
)
def test_lattices_that_do_not_nest_have_no_grid(
    drawn: dict[int, set[tuple[int, int]]], side: int, shift: tuple[int, int]
) -> None:
    x, y = (max(1, value % side) for value in shift)
    fine = np.array([x, y]) + np.array(sorted(drawn[20])) * float(side)
    coarse = np.array(sorted(drawn[10])) * 2.0 * side
    assert rebuild_grid({20: fine, 10: coarse}, {20: side, 10: 2 * side}, PIXEL_SLACK) is None


@settings(deadline=None)
@given(st.sets(cell, min_size=2, max_size=40), st.integers(16, 1000), offsets)
def test_a_side_that_nothing_tells_is_that_of_neighbours_or_there_is_no_grid(
    drawn: set[tuple[int, int]], side: int, origin: tuple[int, int]
) -> None:
    cells = np.array(sorted({*drawn, (3, 3), (3, 4)}))
    grid = rebuild_grid({20: np.array(origin) + cells * float(side)}, {20: None}, PIXEL_SLACK)
    if grid is not None:
        _assert_right(grid, {20: cells})


def test_dense_tissue_without_attributes_has_its_grid() -> None:
    cells = {m: np.argwhere(np.ones((m, m))) for m in (20, 10)}
    places = {m: 300.0 + of_m * float(512 * 20 // m) for m, of_m in cells.items()}
    _assert_right(rebuild_grid(places, {20: None, 10: None}, PIXEL_SLACK), cells)


@pytest.mark.parametrize("shift", [1, 37, 128, 255])
def test_a_lattice_for_each_piece_of_tissue_is_no_grid(shift: int) -> None:
    """CLAM begins anew at the bounding box of every contour."""
    piece = np.argwhere(np.ones((6, 6))) * 256.0
    places = {20: np.concatenate([piece, piece + np.array([2816 + shift, 0])])}
    for side in (None, 256.0):
        assert rebuild_grid(places, {20: side}, PIXEL_SLACK) is None


def test_two_patches_at_one_place_have_no_grid() -> None:
    places = np.array([[0, 0], [256, 0], [256, 0]], dtype=float)
    assert rebuild_grid({20: places}, {20: 256.0}, PIXEL_SLACK) is None


def test_patches_that_overlap_have_no_grid() -> None:
    places = np.argwhere(np.ones((5, 5))) * 192.0
    assert rebuild_grid({20: places}, {20: 256.0}, PIXEL_SLACK) is None


def test_a_side_that_was_rounded_down_is_corrected_by_neighbours() -> None:
    """TRIDENT rounds the step and cuts the attribute: 31x to 20x gives 397 and 396."""
    cells = {m: np.argwhere(np.ones((2 * m // 5, 2 * m // 5))) for m in (20, 10)}
    places = {m: of_m * (397.0 * 20 // m) for m, of_m in cells.items()}
    _assert_right(rebuild_grid(places, {20: 396.0, 10: 793.0}, PIXEL_SLACK), cells)


def test_micrometres_have_a_grid_although_tiles_are_whole_pixels() -> None:
    """STAMP takes ceil(256 µm / mpp) pixels a tile: 256.24 µm at 0.2527 µm/px, stored as float32."""
    cells = np.argwhere(np.ones((150, 9)))
    places = (cells * (np.ceil(256 / 0.2527) * 0.2527)).astype(np.float32).astype(np.float64)
    _assert_right(rebuild_grid({20: places}, {20: 256.0}), {20: cells})


def test_coarse_patches_of_another_size_have_no_grid_even_where_they_lie_on_the_lattice() -> None:
    """10x patches of 512 px beside 20x patches of 256 px cover 4 × 4 of them, not 2 × 2."""
    fine, coarse = np.argwhere(np.ones((8, 8))) * 512.0, np.argwhere(np.ones((2, 2))) * 2048.0
    assert rebuild_grid({20: fine, 10: coarse}, {20: 512.0, 10: 2048.0}, PIXEL_SLACK) is None


def test_patches_before_the_first_coarse_one_keep_their_place() -> None:
    """The lattice begins between two multiples of the coarse side: no cell is negative, and the grids still nest."""
    cells = {20: np.array([[-3, 0], [0, 0], [1, 1]]), 10: np.array([[0, 0]]), 5: np.array([[0, 0]])}
    places = {m: 300.0 + of_m * float(256 * 20 // m) for m, of_m in cells.items()}
    grid = rebuild_grid(places, {20: 256.0, 10: 512.0, 5: 1024.0}, PIXEL_SLACK)
    _assert_right(grid, cells)


def test_one_short_distance_is_not_the_side_of_all() -> None:
    """Pieces of tissue whose patches overlap by half where they meet: all lie on a lattice of half a side."""
    piece = np.argwhere(np.ones((6, 6))) * 256.0
    places = np.concatenate([piece, piece + np.array([1280 + 128, 0])])
    assert rebuild_grid({20: places}, {20: None}, PIXEL_SLACK) is None
