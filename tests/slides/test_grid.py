import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.config.run import Tiling
from milsurv.errors import SlideError
from milsurv.slides.grid import make_grid, make_magnifications
from milsurv.slides.tissue import TissueMask

MAGNIFICATIONS = [(20, 10, 5), (20,), (40, 20, 10, 5), (20, 5), (30, 10, 5)]


def random_mask(width: int, height: int, downsample: float, seed: int) -> TissueMask:
    """Blocks of tissue on a slide of ``width`` × ``height`` level-0 pixels."""
    shape = (max(1, round(height / downsample)), max(1, round(width / downsample)))
    coarse = np.random.default_rng(seed).random((shape[0] // 6 + 1, shape[1] // 6 + 1)) < 0.5
    mask = np.kron(coarse, np.ones((6, 6), bool))[: shape[0], : shape[1]]
    mask[shape[0] // 2, shape[1] // 2] = True
    return TissueMask(mask, downsample)


def overlaps(start: float, stop: float, count: int, side: float) -> NDArray[np.float64]:
    """How much of [start, stop] lies in each of ``count`` intervals of width ``side``."""
    lows = np.arange(count) * side
    return np.asarray(np.maximum(0, np.minimum(stop, lows + side) - np.maximum(start, lows)))


def slow_share(mask: TissueMask, x: float, y: float, x_end: float, y_end: float) -> float:
    rows, columns = mask.mask.shape
    area = np.outer(overlaps(y, y_end, rows, mask.downsample), overlaps(x, x_end, columns, mask.downsample))
    return float((area * mask.mask).sum() / ((x_end - x) * (y_end - y)))


@given(
    mpp=st.floats(0.1, 1.2),
    magnifications=st.sampled_from(MAGNIFICATIONS),
    patch_px=st.sampled_from([16, 37, 64]),
    tolerance=st.sampled_from([0.0, 0.05, 0.2]),
    width=st.integers(900, 2500),
    height=st.integers(900, 2500),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_grids_are_aligned_whatever_the_resolution(
    mpp: float,
    magnifications: tuple[int, ...],
    patch_px: int,
    tolerance: float,
    width: int,
    height: int,
    seed: int,
) -> None:
    tiling = Tiling(
        magnifications=magnifications, patch_px=patch_px, resolution_tolerance=tolerance, min_tissue=0.1
    )
    mask = random_mask(width, height, 16.3, seed)
    finest = magnifications[0]
    if mpp > 10 / finest * (1 + tolerance):
        with pytest.raises(SlideError, match="too coarse"):
            make_grid((width, height), mpp, mask, tiling)
        return
    patches = make_grid((width, height), mpp, mask, tiling)
    finest_places = patches.grid[finest]
    side = patches.magnifications[finest].patch_level0
    for m in magnifications:
        ratio = finest // m
        magnification, places, coords = (
            patches.magnifications[m], patches.grid[m], patches.coords[m]
        )  # fmt: skip
        assert places.dtype == np.int32
        assert coords.dtype == np.int64
        assert set(map(tuple, places.tolist())) == set(map(tuple, (finest_places // ratio).tolist()))
        assert places.tolist() == sorted(places.tolist(), key=lambda place: place[::-1])
        assert len(np.unique(places, axis=0)) == len(places)
        assert np.abs(coords - places * magnification.patch_level0).max() <= 0.5 + 1e-6
        corners = dict(zip(map(tuple, (places * ratio).tolist()), coords.tolist(), strict=True))
        for place, corner in zip(finest_places.tolist(), patches.coords[finest].tolist(), strict=True):
            if tuple(place) in corners:
                assert corners[tuple(place)] == corner
        assert magnification.mpp == pytest.approx(mpp * magnification.factor)
        assert magnification.factor == pytest.approx(patches.magnifications[finest].factor * ratio)
        assert magnification.patch_level0 == pytest.approx(magnification.factor * patch_px)
        assert abs(magnification.mpp * m / 10 - 1) <= tolerance + 1e-6
    ends = np.rint((finest_places + 1) * side)
    assert (ends <= [width, height]).all()
    assert (patches.coords[finest] >= 0).all()


@given(
    mpp=st.sampled_from([0.25, 0.3, 0.46, 0.5]),
    downsample=st.sampled_from([7.0, 16.0, 16.3, 31.97]),
    min_tissue=st.sampled_from([0.01, 0.37, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_kept_patches_have_their_share_of_tissue_and_the_others_have_not(
    mpp: float, downsample: float, min_tissue: float, seed: int
) -> None:
    width, height = 1024, 768
    shape = (int(height / downsample) + 1, int(width / downsample) + 1)
    mask = TissueMask(np.random.default_rng(seed).random(shape) < 0.6, downsample)
    tiling = Tiling(magnifications=(20,), patch_px=16, min_tissue=min_tissue)
    side = make_magnifications(mpp, tiling)[20].patch_level0
    expected = []
    for row in range(int(height // side)):
        for column in range(int(width // side)):
            x, y, x_end, y_end = (np.rint(edge * side) for edge in (column, row, column + 1, row + 1))
            if slow_share(mask, x, y, x_end, y_end) >= min_tissue - 1e-9:
                expected.append([column, row])
    if expected:
        assert make_grid((width, height), mpp, mask, tiling).grid[20].tolist() == expected
    else:
        with pytest.raises(SlideError, match="no tissue"):
            make_grid((width, height), mpp, mask, tiling)


@pytest.mark.parametrize(
    ("mpp", "tolerance", "factor"),
    [
        (0.5, 0.05, 1),
        (0.499, 0.05, 1),
        (0.2527, 0.05, 2),
        (0.525, 0.05, 1),
        (0.475, 0.05, 1),
        (0.46, 0.05, 0.5 / 0.46),
        (0.46, 0.1, 1),
        (0.499, 0.0, 0.5 / 0.499),
        (0.166, 0.05, 3),
    ],
)
def test_integer_factors_within_tolerance(mpp: float, tolerance: float, factor: float) -> None:
    by_magnification = make_magnifications(mpp, Tiling(resolution_tolerance=tolerance))
    assert [magnification.factor for magnification in by_magnification.values()] == pytest.approx(
        [factor, 2 * factor, 4 * factor]
    )
    assert [magnification.mpp for magnification in by_magnification.values()] == pytest.approx(
        [mpp * factor, 2 * mpp * factor, 4 * mpp * factor]
    )
    assert by_magnification[5].patch_level0 == pytest.approx(256 * 4 * factor)


def test_too_coarse_says_what_it_would_allow() -> None:
    with pytest.raises(
        SlideError, match=r"too coarse for 20x: it has 1 µm/px.*allows 10x, 5x \(at most 10\.5x\)"
    ):
        make_magnifications(1.0, Tiling())
    with pytest.raises(SlideError, match=r"allows none of tiling\.magnifications"):
        make_magnifications(352.8, Tiling())


def test_coarser_patches_may_hang_over_the_edge() -> None:
    mask = TissueMask(np.ones((40, 50), bool), 16.0)
    patches = make_grid((800, 640), 0.5, mask, Tiling(patch_px=64, min_tissue=1))
    assert {m: len(places) for m, places in patches.grid.items()} == {20: 12 * 10, 10: 6 * 5, 5: 3 * 3}
    assert patches.coords[5][-1].tolist() == [512, 512]


def test_a_mask_rounded_down_reaches_to_the_slides_edge() -> None:
    mask = TissueMask(np.ones((40, 50), bool), 16.0)
    patches = make_grid((806, 646), 0.5, mask, Tiling(magnifications=(20,), patch_px=17, min_tissue=1))
    assert len(patches.grid[20]) == 47 * 38


def test_no_tissue_and_too_little_of_it_are_told_apart() -> None:
    empty = TissueMask(np.zeros((40, 50), bool), 16.0)
    with pytest.raises(SlideError, match="no tissue was found"):
        make_grid((800, 640), 0.5, empty, Tiling(patch_px=64))
    empty.mask[0, 0] = True
    with pytest.raises(
        SlideError,
        match=r"no tissue: no 20x patch is at least 50% tissue \(tiling.min_tissue\); the largest share is 6\.2%",
    ):
        make_grid((800, 640), 0.5, empty, Tiling(patch_px=64))


def test_a_slide_smaller_than_a_patch_says_so() -> None:
    mask = TissueMask(np.ones((4, 5), bool), 16.0)
    with pytest.raises(SlideError, match="too small: 80×64 px contain no 20x patch of 256 px"):
        make_grid((80, 64), 0.5, mask, Tiling())
