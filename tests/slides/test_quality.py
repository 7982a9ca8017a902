import cv2
import numpy as np
import pytest

from milsurv.config.run import Tiling
from milsurv.slides.quality import sharpness, usable
from tests.slides.make_slides import glass, stained


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
    assert usable(patches, Tiling()).tolist() == [True] * 4
    assert usable(patches, Tiling(min_sharpness=200)).tolist() == [True, False, False, False]
    assert usable(patches, Tiling(max_white=0.9)).tolist() == [True, True, False, True]
    assert usable(patches, Tiling(max_black=0.9)).tolist() == [True, True, True, False]
    half = np.concatenate([tissue[:32], glass(64, 32)])[None]
    assert usable(half, Tiling(max_white=0.5)).tolist() == [True]
    assert usable(half, Tiling(max_white=0.49)).tolist() == [False]
    assert usable(patches[:0], Tiling(min_sharpness=50, max_white=0.5, max_black=0.5)).shape == (0,)
