"""Pictures of a slide: tissue and patches, and values of patches as colours over the thumbnail."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize, to_hex
from numpy.typing import NDArray

from milsurv.explain.importance import Importance, Kind
from milsurv.explain.style import HIGH, LOW
from milsurv.explain.view import PatchMap, Picture, SlideView

ATTENTION_COLOURS = matplotlib.colormaps["viridis"]
OCCLUSION_COLOURS = LinearSegmentedColormap.from_list("occlusion", [LOW, "#f7f7f7", HIGH])
OPACITY = 0.7
"""Opacity of the colours over the grey thumbnail."""
BAR_GREY = 0.85
"""Grey under the colour bar, about that of stained tissue, so that bar and picture show the same colours."""
CLIPPED_SHARE = 0.01
"""Share of the patches, those of the most extreme values, that may lie beyond the ends of the colour bar."""
MIN_RANGE = (0.5, 2.0)
"""Minimum range of the colour bar of attention, in multiples of uniform, so that small differences look small."""
MIN_LIMIT = 1e-4
"""Minimum end of the colour bar of occlusion, in standard deviations of the risk."""
MIN_GRID_PX = 4
"""Patches that are smaller on the thumbnail are not drawn in the report."""
OUTLINE = (0, 0, 0)
GRID = (0, 60, 200)
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Shading:
    """Maps values to colours between two ends; values beyond have the colours of the ends."""

    colours: Colormap
    low: float
    high: float
    extend: Literal["neither", "max", "both"]
    """Ends of the colour bar beyond which values lie, as in Matplotlib."""

    @classmethod
    def of(cls, kind: Kind, values: NDArray[np.float64]) -> Shading:
        """Viridis for attention; for occlusion orange where a patch raises the risk, blue where it lowers it."""
        if kind == "attention":
            lowest, highest = MIN_RANGE
            low = min(float(values.min()), lowest)
            high = max(float(np.quantile(values, 1 - CLIPPED_SHARE, method="higher")), highest)
            return cls(ATTENTION_COLOURS, low, high, "max" if values.max() > high else "neither")
        size = np.abs(values)
        limit = max(float(np.quantile(size, 1 - CLIPPED_SHARE, method="higher")), MIN_LIMIT)
        return cls(OCCLUSION_COLOURS, -limit, limit, "both" if size.max() > limit else "neither")

    def share(self, value: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Position of values between the ends: 0 at the lower, 1 at the upper."""
        return np.asarray((value - self.low) / (self.high - self.low))

    def shades(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """RGB ``(n, 3)`` from 0 to 1."""
        return np.asarray(self.colours(np.clip(self.share(values), 0, 1)))[:, :3]

    def bar(self, n: int = 256) -> NDArray[np.float64]:
        """RGB ``(n, 3)`` from 0 to 1: the colours from low to high, as they look over grey tissue."""
        colours = np.asarray(self.colours(np.linspace(0, 1, n)))[:, :3]
        return OPACITY * colours + (1 - OPACITY) * BAR_GREY

    def mappable(self) -> ScalarMappable:
        """For the colour bar of a figure."""
        return ScalarMappable(Normalize(self.low, self.high), ListedColormap(self.bar()))

    def gradient(self) -> str:
        """The colour bar as a CSS gradient, left to right."""
        return f"linear-gradient(to right, {', '.join(map(to_hex, self.bar(16)))})"


def patch_colours(importance: Importance) -> NDArray[np.uint8]:
    """RGB ``(n, 3)`` of all patches, finest magnification first."""
    shades = [
        Shading.of(importance.kind, importance.values[m]).shades(importance.values[m])
        for m in sorted(importance.values, reverse=True)
    ]
    return (255 * np.concatenate(shades)).round().astype(np.uint8)


def visible_grid(view: SlideView) -> int | None:
    """The finest magnification whose patches are large enough to be drawn on the thumbnail; None without any."""
    visible = [m for m, patches in view.patches.items() if patches.side / view.downsample >= MIN_GRID_PX]
    return max(visible, default=None)


def tissue_picture(view: SlideView, magnification: int | None) -> Picture:
    """The thumbnail with the tissue's outline, and the patches of ``magnification``."""
    picture = view.thumbnail.copy()
    if magnification is not None:
        for left, top, right, bottom in view.boxes(magnification):
            cv2.rectangle(picture, (left, top), (right, bottom), GRID, 2)
    points = [np.rint(outline / view.downsample).astype(np.int32) for outline in view.outlines]
    cv2.polylines(picture, points, True, OUTLINE, 3, cv2.LINE_AA)
    return picture


def map_picture(view: SlideView, shown: PatchMap) -> Picture:
    """The thumbnail in grey under the colours of the patches' values."""
    grey = cv2.cvtColor(view.thumbnail, cv2.COLOR_RGB2GRAY)[..., None] / 255
    picture = np.repeat(grey, 3, axis=2)
    shades = Shading.of(shown.kind, shown.values).shades(shown.values)
    for (left, top, right, bottom), shade in zip(view.boxes(shown.magnification), shades, strict=True):
        area = picture[top:bottom, left:right]
        area[:] = (1 - OPACITY) * grey[top:bottom, left:right] + OPACITY * shade
    return (255 * picture).round().astype(np.uint8)


def padded(view: SlideView) -> SlideView:
    """The view with a white margin as wide as patches extend beyond the right and lower edges of the slide."""
    height, width = view.thumbnail.shape[:2]
    ends = [
        (patches.coords.max(axis=0) + patches.side) / view.downsample for patches in view.patches.values()
    ]
    right, bottom = np.ceil(np.max([(width, height), *ends], axis=0)).astype(int).tolist()
    margin = ((0, bottom - height), (0, right - width), (0, 0))
    return replace(view, thumbnail=np.pad(view.thumbnail, margin, constant_values=255))


def png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def data_uri(picture: Picture) -> str:
    """The picture as a JPEG in a ``data:`` URI."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
