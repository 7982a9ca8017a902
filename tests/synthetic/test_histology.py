from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from milsurv.synthetic.histology import SIDE_PX, coarseness, disorder, draw_slide

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def draw(architecture: float, cells: float, seed: int = 9003) -> Bytes:
    return draw_slide(architecture, cells, np.random.default_rng([seed, 1, 1]))


def shrink(picture: Bytes, factor: int) -> Floats:
    size = (picture.shape[1] // factor, picture.shape[0] // factor)
    return np.asarray(cv2.resize(picture.astype(np.float64), size, interpolation=cv2.INTER_AREA))


def high_frequency_energy(picture: Bytes) -> float:
    """Variance of what a 3 µm blur takes away from the red channel (nuclei are dark in it)."""
    red = picture[..., 0].astype(np.float64)
    return float((red - cv2.GaussianBlur(red, (0, 0), 6.0)).var())


def orientation_coherence(picture: Bytes) -> float:
    """Length of the mean direction of edges at 5x, by the structure tensor: 1 all parallel, 0 none preferred."""
    red = cv2.GaussianBlur(shrink(picture, 4)[..., 0], (0, 0), 4.0)[40:-40, 40:-40]
    dx, dy = cv2.Sobel(red, cv2.CV_64F, 1, 0), cv2.Sobel(red, cv2.CV_64F, 0, 1)
    doubled = np.hypot((dx**2 - dy**2).sum(), 2 * (dx * dy).sum())
    return float(doubled / (dx**2 + dy**2).sum())


def test_picture_is_pink_tissue_with_purple_nuclei_on_glass() -> None:
    picture = draw(0, 0)
    assert picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert picture.dtype == np.uint8
    saturation = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1]
    assert 0.6 < (saturation > 25).mean() < 0.95
    assert picture[:4, :4].min() > 220
    red, green, blue = np.median(picture[saturation > 25], axis=0)
    assert red > blue > green
    assert 0.05 < (picture[..., 0] < 140).mean() < 0.25


def test_most_20x_patches_are_mostly_tissue() -> None:
    saturation = cv2.cvtColor(draw(0, 0), cv2.COLOR_RGB2HSV)[..., 1]
    share = (saturation > 25).reshape(8, 256, 8, 256).mean(axis=(1, 3))
    assert (share > 0.5).sum() >= 60


def test_only_the_generator_decides() -> None:
    first = draw(0.3, -0.4)
    np.random.seed(1)
    assert np.array_equal(draw(0.3, -0.4), first)
    assert not np.array_equal(draw(0.3, -0.4, seed=9004), first)


def test_coarse_chromatin_adds_detail_that_a_5x_scan_averages_away() -> None:
    fine, coarse = draw(0, -2), draw(0, 2)
    assert high_frequency_energy(coarse) > 1.05 * high_frequency_energy(fine)
    at_20x = fine.astype(np.float64) - coarse
    at_5x, embedded_at_5x = (shrink(fine, factor) - shrink(coarse, factor) for factor in (4, 8))
    assert np.abs(at_20x.mean(axis=(0, 1))).max() < 0.3
    assert np.abs(at_5x).mean() < 2.5
    assert at_5x.var() < 0.45 * at_20x.var()
    assert embedded_at_5x.var() < 0.12 * at_20x.var()  # 4 µm per pixel


def test_coarseness_grows_steadily() -> None:
    energy = [high_frequency_energy(draw(0, cells)) for cells in (-2, 0, 2)]
    assert energy == sorted(energy)


def test_disordered_glands_have_less_common_direction() -> None:
    ordered = [orientation_coherence(draw(-2, 0, seed)) for seed in (9003, 9004)]
    disordered = [orientation_coherence(draw(2, 0, seed)) for seed in (9003, 9004)]
    assert min(ordered) > max(disordered) + 0.2


def test_architecture_leaves_amounts_alone() -> None:
    means = [
        np.mean([draw(level, 0, seed).mean(axis=(0, 1)) for seed in (9003, 9004, 9005)], axis=0)
        for level in (-2, 2)
    ]
    assert np.abs(means[0] - means[1]).max() < 4


@pytest.mark.parametrize(("effect", "low", "high"), [(disorder, 0.05, 1.0), (coarseness, 0.0, 1.0)])
def test_effects_stay_in_range(effect: Callable[[float], float], low: float, high: float) -> None:
    values = [effect(z) for z in (-9.0, -2.0, 0.0, 2.0, 9.0)]
    assert values == sorted(values)
    assert values[0] == low
    assert values[-1] == high
