"""Patches that are tissue and yet of no use: out of focus, nearly white, nearly black."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from milsurv.config.run import Tiling

WHITE, BLACK = 220, 40
"""Grey level that all channels of a white pixel reach, and that all channels of a black one stay below."""


def usable(patches: NDArray[np.uint8], tiling: Tiling) -> NDArray[np.bool_]:
    """Which RGB ``patches (n, h, w, 3)`` pass ``tiling``'s bounds on sharpness, white and black: ``(n,)``."""
    kept = np.ones(len(patches), bool)
    if tiling.min_sharpness is not None:
        kept &= np.array([sharpness(patch) >= tiling.min_sharpness for patch in patches], bool)
    if tiling.max_white is not None:
        kept &= (patches.min(axis=3) >= WHITE).mean(axis=(1, 2)) <= tiling.max_white
    if tiling.max_black is not None:
        kept &= (patches.max(axis=3) <= BLACK).mean(axis=(1, 2)) <= tiling.max_black
    return kept


def sharpness(patch: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an RGB patch's grey levels (Pech-Pacheco et al., ICPR 2000)."""
    return float(cv2.Laplacian(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
