"""Which µm per level-0 pixel a slide can have, whoever says so."""

from __future__ import annotations

MPP_RANGE = (0.05, 20.0)
"""µm per level-0 pixel; a value beyond is another quantity, or in another unit."""
ALLOWED_MPP = f"{MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} µm per pixel"


def possible_mpp(mpp: float) -> bool:
    """Whether a slide can have ``mpp`` µm per level-0 pixel; False for NaN."""
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def read_mpp(text: str) -> float | None:
    """µm per level-0 pixel in a table's cell; None for an empty one. Raises ValueError for what is none."""
    try:
        mpp = float(text) if text else None
    except ValueError:
        mpp = float("nan")
    if mpp is not None and not possible_mpp(mpp):
        raise ValueError(f"{text!r} is no µm/px; allowed are {ALLOWED_MPP}, or empty")
    return mpp
