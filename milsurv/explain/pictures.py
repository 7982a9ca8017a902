"""Pictures of a slide: its tissue and patches, and the attention over them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray

from milsurv.explain.views import SlideView

Picture = NDArray[np.uint8]
"""RGB ``(h, w, 3)``."""

COLOUR_MAP = matplotlib.colormaps["viridis"]
OPACITY = 0.7
"""Of the attention's colours over the grey thumbnail."""
BAR_GREY = 0.85
"""Grey under the colour bar, about that of stained tissue, so that bar and picture show the same colours."""
CLIPPED_SHARE = 0.01
"""This share of the patches, the highest, may lie above the colour bar's end."""
LEAST_RANGE = (0.5, 2.0)
"""What the colour bar covers at least, in multiples of uniform: attention that hardly varies has hardly two colours."""
NEARLY_UNIFORM = 0.1
"""Attention within 1 ± this at every patch is called nearly uniform."""
MIN_GRID_PX = 4
"""A grid whose patches are smaller on the thumbnail is not drawn."""
MAX_BAR_SHARE = 0.3
OUTLINE = (0, 0, 0)
GRID = (0, 60, 200)
JPEG_QUALITY = 88


@dataclass(frozen=True)
class ColourRange:
    """The ends of a colour bar, in multiples of uniform attention."""

    low: float
    high: float
    clipped: bool
    """True when patches lie above ``high``."""

    @classmethod
    def of(cls, relative: NDArray[np.float64]) -> ColourRange:
        """A range for ``relative (n,)`` weights that contains :data:`LEAST_RANGE`."""
        lowest, highest = LEAST_RANGE
        low = min(float(relative.min()), lowest)
        high = max(float(np.quantile(relative, 1 - CLIPPED_SHARE, method="higher")), highest)
        return cls(low, high, bool(relative.max() > high))

    def share(self, value: float) -> float:
        """Where a value stands between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def relative_attention(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n,)`` weights that sum to 1 -> multiples of ``1 / n``, the weight of each patch if all counted alike."""
    return weights * len(weights)


def nearly_uniform(relative: NDArray[np.float64]) -> bool:
    """Whether attention ``(n,)``, in multiples of uniform, lies within ±10 % of uniform at every patch."""
    return bool(np.abs(relative - 1).max() <= NEARLY_UNIFORM + 1e-9)


def drawn_grid(view: SlideView) -> int | None:
    """The finest magnification whose patches are large enough to be drawn on the thumbnail; None without any."""
    for magnification in sorted(view.coords, reverse=True):
        if view.patch_level0[magnification] / view.downsample >= MIN_GRID_PX:
            return magnification
    return None


def tissue_picture(view: SlideView) -> Picture:
    """The thumbnail with the tissue's outline and the patches of :func:`drawn_grid`."""
    picture = view.thumbnail.copy()
    magnification = drawn_grid(view)
    if magnification is not None:
        for left, top, right, bottom in _boxes(view, magnification):
            cv2.rectangle(picture, (left, top), (right, bottom), GRID, 2)
    points = [np.rint(outline / view.downsample).astype(np.int32) for outline in view.outlines]
    cv2.polylines(picture, points, True, OUTLINE, 3, cv2.LINE_AA)
    return picture


def attention_picture(view: SlideView, magnification: int, colours: ColourRange) -> Picture:
    """The patches of a magnification coloured by attention, over the thumbnail in grey."""
    relative = relative_attention(view.attention[magnification])
    shades = COLOUR_MAP(np.clip((relative - colours.low) / (colours.high - colours.low), 0, 1))[:, :3]
    return shaded_patches(view.thumbnail, _boxes(view, magnification), shades)


def shaded_patches(
    thumbnail: Picture, boxes: Iterable[Sequence[int]], shades: Iterable[NDArray[np.float64]]
) -> Picture:
    """The thumbnail in grey, each of :func:`patch_boxes` under its colour, ``(3,)`` from 0 to 1."""
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)[..., None] / 255
    picture = np.repeat(grey, 3, axis=2)
    for (left, top, right, bottom), shade in zip(boxes, shades, strict=True):
        area = picture[top:bottom, left:right]
        area[:] = (1 - OPACITY) * grey[top:bottom, left:right] + OPACITY * shade
    return (255 * picture).round().astype(np.uint8)


def gradient(stops: int = 16) -> str:
    """The colour bar as a CSS gradient, left to right."""
    colours = OPACITY * COLOUR_MAP(np.linspace(0, 1, stops))[:, :3] + (1 - OPACITY) * BAR_GREY
    return f"linear-gradient(to right, {', '.join(matplotlib.colors.to_hex(colour) for colour in colours)})"


def scale_bar(view: SlideView) -> tuple[float, float]:
    """A round length in mm, at most 30 % of the picture's width, and its share of that width."""
    width = view.thumbnail.shape[1] * view.downsample * view.mpp / 1000
    length = round_length(width * MAX_BAR_SHARE)
    return length, length / width


def round_length(most: float) -> float:
    """The largest of …, 0.5, 1, 2, 5, 10, … that is at most ``most``."""
    decade = 10.0 ** np.floor(np.log10(most))
    return float(f"{max(step * decade for step in (1, 2, 5) if step * decade <= most):.1g}")


def data_uri(picture: Picture) -> str:
    """The picture as a JPEG within a ``data:`` address."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _boxes(view: SlideView, magnification: int) -> list[list[int]]:
    return patch_boxes(
        view.thumbnail, view.downsample, view.coords[magnification], view.patch_level0[magnification]
    )


def patch_boxes(
    thumbnail: Picture, downsample: float, coords: NDArray[np.int64], side: float
) -> list[list[int]]:
    """``[left, top, right, bottom]`` of each patch in thumbnail pixels, clipped to the picture."""
    height, width = thumbnail.shape[:2]
    corners = np.rint(np.hstack([coords, coords + side]) / downsample)
    boxes: list[list[int]] = corners.clip(0, [width, height, width, height]).astype(int).tolist()
    return boxes
