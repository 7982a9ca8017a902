from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from milsurv.config.run import Tiling
from milsurv.errors import SlideError
from milsurv.slides import patches as patches_module
from milsurv.slides.grid import PatchGrid, make_grid
from milsurv.slides.patches import is_usable, read_grid, sharpness
from milsurv.slides.reader import OpenSlideSlide
from milsurv.slides.tissue import OtsuConfig, OtsuTissue, TissueMask
from milsurv.synthetic.pyramid import write_pyramid
from tests.slides.make_slides import damage_tile, glass, stained, with_tissue, write_slide
from tests.slides.test_reader import REAL_SLIDE

Patches = dict[int, NDArray[np.uint8]]


def everywhere(slide: OpenSlideSlide) -> TissueMask:
    """A mask without the slide's left quarter."""
    width, height = slide.dimensions
    mask = np.ones((-(-height // 16), -(-width // 16)), bool)
    mask[:, : mask.shape[1] // 4] = False
    return TissueMask(mask, 16.0)


def read_all(slide: OpenSlideSlide, grid: PatchGrid, patch_px: int) -> Patches:
    """Patches in the grid's order; fails when one is missing or comes twice."""
    pixels = {m: np.zeros((len(rows), patch_px, patch_px, 3), np.uint8) for m, rows in grid.coords.items()}
    times = {m: np.zeros(len(rows), int) for m, rows in grid.coords.items()}
    for magnification, index, batch in read_grid(slide, grid, Tiling(patch_px=patch_px)):
        assert batch.dtype == np.uint8
        assert batch.shape == (len(index), patch_px, patch_px, 3)
        pixels[magnification][index] = batch
        np.add.at(times[magnification], index, 1)
    assert all((count == 1).all() for count in times.values())
    return pixels


def slow_patches(path: Path, grid: PatchGrid, patch_px: int) -> Patches:
    """Each patch on its own: level 0 by OpenSlide, on white, averaged by OpenCV."""
    result = {}
    with openslide.OpenSlide(path) as slide:
        for magnification, coords in grid.coords.items():
            side = round(grid.magnifications[magnification].patch_level0)
            batch = []
            for x, y in coords.tolist():
                rgba = np.asarray(slide.read_region((x, y), 0, (side, side)))
                white = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(np.uint8)
                batch.append(cv2.resize(white, (patch_px, patch_px), interpolation=cv2.INTER_AREA))
            result[magnification] = np.array(batch, np.uint8)
    return result


def assert_same(read: Patches, expected: Patches) -> None:
    assert read.keys() == expected.keys()
    for magnification, batch in read.items():
        assert len(batch)
        assert np.abs(batch.astype(int) - expected[magnification]).max() <= 1


@pytest.mark.parametrize(
    ("mpp", "downsamples", "tiling"),
    [
        (0.5, (1, 4), Tiling(patch_px=64)),
        (0.25, (1, 2, 4), Tiling(patch_px=64)),
        (0.25, (1, 3.97, 16.0001), Tiling(patch_px=64)),
        (0.25, (1,), Tiling(patch_px=64)),
        (0.46, (1, 4), Tiling(patch_px=64, resolution_tolerance=0.1)),
        (0.166, (1,), Tiling(patch_px=48, magnifications=(20, 5))),
        (0.25, (1, 4), Tiling(patch_px=50, magnifications=(10,))),
    ],
)
def test_the_same_pixels_as_reading_each_patch_on_its_own(
    tmp_path: Path, mpp: float, downsamples: tuple[float, ...], tiling: Tiling
) -> None:
    path = write_slide(
        tmp_path / "a.svs", stained(1300, 1100), mpp=mpp, downsamples=downsamples, missing=[(2, 1), (4, 4)]
    )
    with OpenSlideSlide(path) as slide:
        grid = make_grid(slide.dimensions, slide.mpp, everywhere(slide), tiling)
        assert_same(read_all(slide, grid, tiling.patch_px), slow_patches(path, grid, tiling.patch_px))


def test_jpeg_tiles_give_the_same_pixels_too(tmp_path: Path) -> None:
    picture = np.asarray(cv2.GaussianBlur(stained(1024, 1024), (0, 0), 1.5), np.uint8)
    path = write_pyramid(picture, tmp_path / "a.tiff")
    with OpenSlideSlide(path) as slide:
        grid = make_grid(slide.dimensions, slide.mpp, everywhere(slide), Tiling(patch_px=100))
        assert_same(read_all(slide, grid, 100), slow_patches(path, grid, 100))


def test_a_real_slide() -> None:
    with OpenSlideSlide(REAL_SLIDE) as slide:
        tissue = OtsuTissue(OtsuConfig()).segment(slide)
        grid = make_grid(slide.dimensions, slide.mpp, tissue, Tiling())
        assert grid.magnifications[20].mpp == 0.499
        assert_same(read_all(slide, grid, 256), slow_patches(REAL_SLIDE, grid, 256))


WAVELENGTH = 97.0


def waves(width: int, height: int) -> NDArray[np.uint8]:
    """Red is a sine of x, green the same of y, in level-0 pixels."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.rint(128 + 120 * np.sin((np.arange(width) + 0.5) * 2 * np.pi / WAVELENGTH))
    picture[..., 1] = np.rint(128 + 120 * np.sin((np.arange(height) + 0.5) * 2 * np.pi / WAVELENGTH))[:, None]
    return picture


def shift(values: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    """By how many level-0 pixels the wave seen at ``places`` lies beside the wave of :func:`waves`."""
    phase = places * 2 * np.pi / WAVELENGTH
    design = np.stack([np.sin(phase), np.cos(phase), np.ones_like(phase)], axis=1)
    sine, cosine, _ = np.linalg.lstsq(design, values)[0]
    return float(np.arctan2(cosine, sine) * WAVELENGTH / (2 * np.pi))


@pytest.mark.parametrize("mpp", [0.46, 0.35, 0.3, 0.189])
@pytest.mark.parametrize("max_read_px", [200, 4096])
def test_resampled_patches_lie_within_half_a_pixel_of_their_place(
    tmp_path: Path, mpp: float, max_read_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches_module, "MAX_READ_PX", max_read_px)
    width, height = 1500, 1300
    path = write_slide(tmp_path / "a.svs", waves(width, height), mpp=mpp)
    with OpenSlideSlide(path) as slide:
        everything = TissueMask(np.ones((82, 94), bool), 16.0)
        grid = make_grid(slide.dimensions, slide.mpp, everything, Tiling(patch_px=64))
        read = read_all(slide, grid, 64)
    for m, magnification in grid.magnifications.items():
        assert magnification.mpp == pytest.approx(10 / m)
        corners = grid.grid[m] * magnification.patch_level0
        inside = (corners + magnification.patch_level0 <= [width, height]).all(axis=1)
        assert inside.any()
        for (x, y), pixels in zip(corners[inside], read[m][inside], strict=True):
            centres = (np.arange(64) + 0.5) * magnification.factor
            assert (
                abs(shift(pixels[..., 0].mean(axis=0), x + centres)) < 0.5 + 0.05
            )  # grey levels are rounded
            assert abs(shift(pixels[..., 1].mean(axis=1), y + centres)) < 0.5 + 0.05


def test_no_pixel_is_read_twice_and_no_read_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches_module, "MAX_READ_PX", 300)
    path = write_slide(tmp_path / "a.svs", stained(1300, 1100), mpp=0.25)
    areas: list[tuple[int, int, int, int]] = []
    read = OpenSlideSlide.read

    def recorded(
        self: OpenSlideSlide, x: int, y: int, width: int, height: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        areas.append((x, y, width, height))
        return read(self, x, y, width, height, size)

    monkeypatch.setattr(OpenSlideSlide, "read", recorded)
    with OpenSlideSlide(path) as slide:
        grid = make_grid(slide.dimensions, slide.mpp, everywhere(slide), Tiling(patch_px=64))
        assert_same(read_all(slide, grid, 64), slow_patches(path, grid, 64))
    times = np.zeros((2000, 2000), int)
    for x, y, width, height in areas:
        times[y : y + height, x : x + width] += 1
        assert max(width, height) <= 300
    assert times.max() == 1


def test_order_is_the_same_each_time_and_follows_the_grid(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.svs", with_tissue(1300, 1100, [(200, 100, 900, 900)]), mpp=0.5)
    with OpenSlideSlide(path) as slide:
        grid = make_grid(slide.dimensions, slide.mpp, everywhere(slide), Tiling(patch_px=64))
        runs = [
            [(m, i.tolist()) for m, i, _ in read_grid(slide, grid, Tiling(patch_px=64))] for _ in range(2)
        ]
    assert runs[0] == runs[1]
    assert [index for m, index in runs[0] if m == 5] == [[row] for row in range(len(grid.grid[5]))]


@pytest.mark.parametrize("encoding", ["deflate", "jpeg"])
def test_a_tile_damaged_in_the_middle_is_an_error_with_its_place(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.svs"
    picture = stained(1024, 1024)
    if encoding == "jpeg":
        write_pyramid(picture, path)
    else:
        write_slide(path, picture, mpp=0.5)
    damage_tile(path, page=0, tile=15)
    with OpenSlideSlide(path) as slide:
        grid = make_grid(slide.dimensions, slide.mpp, everywhere(slide), Tiling(patch_px=64))
        with pytest.raises(SlideError, match=r"cannot read 256×256 px at level-0 pixel \(768, 768\)"):
            read_all(slide, grid, 64)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_rejected_patch_takes_along_the_coarser_ones_that_hold_no_other(
    tmp_path: Path, threads: int
) -> None:
    """Sharp and blurred squares of 64 px; a coarser patch stays when one of its finest patches is sharp."""
    sharp = np.random.default_rng(3).random((16, 16)) < 0.15
    detailed = stained(1024, 1024)
    blurred = cv2.GaussianBlur(detailed, (0, 0), 8)
    picture = np.where(np.kron(sharp, np.ones((64, 64), bool))[..., None], detailed, blurred).astype(np.uint8)
    path = write_slide(tmp_path / "a.svs", picture, mpp=0.5)
    tiling = Tiling(patch_px=64, min_sharpness=100)
    with OpenSlideSlide(path) as slide:
        grid = make_grid(slide.dimensions, slide.mpp, TissueMask(np.ones((64, 64), bool), 16.0), tiling)
        everything = read_all(slide, grid, 64)
        came: dict[int, list[list[int]]] = {20: [], 10: [], 5: []}
        for magnification, index, batch in read_grid(slide, grid, tiling, threads):
            np.testing.assert_array_equal(batch, everything[magnification][index])
            came[magnification] += grid.grid[magnification][index].tolist()
    places = np.argwhere(sharp)[:, ::-1]
    for magnification, found in came.items():
        expected = np.unique(places // (20 // magnification), axis=0).tolist()
        assert sorted(found) == sorted(expected)
    assert 0 < len(came[5]) < 16


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur() -> None:
    patch = stained(64, 64)
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(int)
    around = np.pad(grey, 1, mode="reflect")
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * grey
    assert sharpness(patch) == pytest.approx(laplacian.var())
    blurred = [
        sharpness(np.asarray(cv2.GaussianBlur(patch, (0, 0), sigma), np.uint8)) for sigma in (0.5, 1, 2)
    ]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[0] < sharpness(patch)


def test_each_bound_rejects_its_own() -> None:
    tissue = stained(64, 64)
    patches = np.stack([tissue, cv2.GaussianBlur(tissue, (0, 0), 4), glass(64, 64), np.zeros_like(tissue)])
    assert is_usable(patches, Tiling()).tolist() == [True] * 4
    assert is_usable(patches, Tiling(min_sharpness=200)).tolist() == [True, False, False, False]
    assert is_usable(patches, Tiling(max_white=0.9)).tolist() == [True, True, False, True]
    assert is_usable(patches, Tiling(max_black=0.9)).tolist() == [True, True, True, False]
    half = np.concatenate([tissue[:32], glass(64, 32)])[None]
    assert is_usable(half, Tiling(max_white=0.5)).tolist() == [True]
    assert is_usable(half, Tiling(max_white=0.49)).tolist() == [False]
    assert is_usable(patches[:0], Tiling(min_sharpness=50, max_white=0.5, max_black=0.5)).shape == (0,)
