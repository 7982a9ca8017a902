from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from milsurv.errors import SlideError
from milsurv.slides import read_patches
from milsurv.slides.reader import OpenSlideSlide
from tests.slides.make_slides import with_tissue, write_jpeg_slide, write_slide
from tests.slides.test_reader import REAL_SLIDE

Read = list[tuple[int, list[list[int]], NDArray[np.uint8]]]


def read(*arguments: Any, **settings: Any) -> Read:
    return [(m, coords.tolist(), patches) for m, coords, patches in read_patches(*arguments, **settings)]


def assert_equal(ours: Read, theirs: Read) -> None:
    assert [batch[:2] for batch in ours] == [batch[:2] for batch in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine[2], other[2])


def test_patches_of_a_real_slide_at_their_places() -> None:
    batches = list(read_patches(REAL_SLIDE))
    counts = {m: sum(len(coords) for found, coords, _ in batches if found == m) for m in (20, 10, 5)}
    assert counts == {20: 32, 10: 14, 5: 5}
    with OpenSlideSlide(REAL_SLIDE) as slide:
        for magnification, coords, patches in batches:
            assert coords.dtype == np.int64
            assert patches.dtype == np.uint8
            assert patches.shape == (len(coords), 256, 256, 3)
            side = 256 * 20 // magnification
            for (x, y), patch in zip(coords.tolist(), patches, strict=True):
                expected = slide.read(x, y, side, side, (256, 256)).astype(int)
                assert np.abs(patch - expected).max() <= (0 if magnification == 20 else 1)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_order_is_the_same_with_more_threads_and_by_openslide(threads: int) -> None:
    once = read(REAL_SLIDE, patch_px=64)
    assert_equal(read(REAL_SLIDE, patch_px=64, threads=threads), once)
    assert_equal(read(REAL_SLIDE, patch_px=64, reader={"name": "openslide"}), once)


def test_all_patches_or_those_of_tissue(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.svs", with_tissue(1100, 900, [(256, 256, 512, 512)]), mpp=None)
    settings: dict[str, Any] = {"magnifications": (20,), "patch_px": 128, "mpp": 0.5}
    tissue, everything = read(path, **settings), read(path, tissue=False, **settings)
    assert sum(len(coords) for _, coords, _ in tissue) == 4 * 4
    assert sum(len(coords) for _, coords, _ in everything) == 8 * 7
    strict = read(path, tissue={"name": "otsu", "min_area_mm2": 0.06}, **settings)
    assert_equal(strict, tissue)
    with pytest.raises(SlideError, match=r"a\.svs: no tissue"):
        read(path, tissue={"name": "otsu", "min_area_mm2": 0.1}, **settings)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    unknown = write_slide(tmp_path / "unknown.tif", with_tissue(600, 600, [(0, 0, 600, 600)]))
    with pytest.raises(SlideError, match=r"unknown\.tif: unknown resolution"):
        read(unknown)
    with pytest.raises(SlideError, match=r"none\.svs: cannot be opened"):
        read(tmp_path / "none.svs")


def test_stopping_early_leaves_no_thread_at_work() -> None:
    import threading

    before = threading.active_count()
    patches = read_patches(REAL_SLIDE, patch_px=64, threads=2)
    next(patches)
    patches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
