"""A slide with the outline of its tissue and its patches at each magnification, as ``milsurv inspect`` draws it."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from milsurv.explain.pictures import round_length
from milsurv.explain.style import INK, STYLE
from milsurv.slides.grid import PatchGrid
from milsurv.slides.tissue import TissueMask

OUTLINE, PATCH = "#00735c", "#0072b2"
PANEL_INCHES = 6.0
MAX_BAR_SHARE = 0.3


@rc_context(STYLE)
def slide_picture(
    title: str, thumbnail: NDArray[np.uint8], mpp: float, width: int, mask: TissueMask, grid: PatchGrid | None
) -> Figure:
    """A panel for each magnification, with scale bar and legend.

    Args:
        thumbnail: the slide, RGB ``(h, w, 3)``.
        mpp: µm per level-0 pixel.
        width: of level 0, in pixels.
        grid: None when no patch is kept: then one panel with the tissue alone.
    """
    panels = [] if grid is None else list(grid.magnifications)
    count = max(1, len(panels))
    right, bottom = _extent(thumbnail, width, grid)
    figure = Figure(figsize=(PANEL_INCHES * count, PANEL_INCHES * bottom / right + 1.3), layout="constrained")
    figure.suptitle(title, parse_math=False)
    for index in range(count):
        axes = figure.add_subplot(1, count, index + 1)
        axes.set_axis_off()
        _slide(axes, thumbnail, width, mask)
        axes.set(xlim=(0, right), ylim=(bottom, 0))
        if grid is None:
            axes.set_title("no patches")
        else:
            _patches(axes, grid, panels[index])
        if index == 0:
            scale_bar(axes, width * mpp / 1000, mpp / 1000)
    entries = [
        Line2D([], [], color=OUTLINE, linewidth=1.8, label="tissue"),
        Line2D([], [], color=PATCH, marker="s", markerfacecolor="none", linestyle="", label="patches"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _extent(thumbnail: NDArray[np.uint8], width: int, grid: PatchGrid | None) -> tuple[float, float]:
    """Width and height in level-0 pixels of the slide with the patches that hang over its edge."""
    ends = [np.array([width, width * thumbnail.shape[0] / thumbnail.shape[1]])]
    if grid is not None:
        ends += [
            grid.coords[m].max(axis=0) + magnification.patch_level0
            for m, magnification in grid.magnifications.items()
        ]
    right, bottom = np.max(ends, axis=0).tolist()
    return right, bottom


def _slide(axes: Axes, thumbnail: NDArray[np.uint8], width: int, mask: TissueMask) -> None:
    """The thumbnail and the tissue's outline, in level-0 pixels."""
    height = width * thumbnail.shape[0] / thumbnail.shape[1]
    axes.imshow(thumbnail, extent=(0, width, height, 0), interpolation="antialiased")
    closed = [np.vstack([outline, outline[:1]]) for outline in mask.outlines()]
    axes.add_collection(LineCollection(closed, colors=OUTLINE, linewidths=1.8))


def _patches(axes: Axes, grid: PatchGrid, magnification: int) -> None:
    corners = grid.coords[magnification]
    side = grid.magnifications[magnification].patch_level0
    squares = corners[:, None, :] + np.array([[0, 0], [side, 0], [side, side], [0, side]])
    axes.add_collection(PolyCollection(squares, facecolors="none", edgecolors=PATCH, linewidths=0.8))
    axes.set_title(
        f"{magnification}x, {grid.magnifications[magnification].mpp:.4g} µm/px: {len(corners):,} patches"
    )


def scale_bar(axes: Axes, width_mm: float, mm_per_px: float) -> None:
    """A bar of a round length, at most 30 % of ``width_mm``, below axes whose x is in pixels."""
    length = round_length(width_mm * MAX_BAR_SHARE)
    text = f"{length:g} mm" if length >= 1 else f"{1000 * length:g} µm"
    below = blended_transform_factory(axes.transData, axes.transAxes)
    ends = np.array([0, length / mm_per_px])
    axes.plot(ends, [-0.02] * 2, color=INK, linewidth=4, transform=below, clip_on=False)
    axes.annotate(
        text,
        (float(ends.mean()), -0.02),
        xytext=(0, -4),
        xycoords=below,
        textcoords="offset points",
        ha="center",
        va="top",
        annotation_clip=False,
    )
