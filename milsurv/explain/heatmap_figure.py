"""How much each patch of a slide counts for a model, drawn: maps over the thumbnail, and a gallery of patches."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from milsurv.explain.importance import Blocks, Importance, Kind
from milsurv.explain.pictures import (
    BAR_GREY,
    CLIPPED_SHARE,
    COLOUR_MAP,
    OPACITY,
    ColourRange,
    Picture,
    nearly_uniform,
    patch_boxes,
    shaded_patches,
)
from milsurv.explain.slide_picture import scale_bar
from milsurv.explain.style import HIGH, LOW, STYLE

FUSED = "fused"
SIGNED_MAP = LinearSegmentedColormap.from_list("signed", [LOW, "#f7f7f7", HIGH])
MIN_LIMIT = 1e-4
"""Of the colour bar of occlusion, in standard deviations: rounding is not blown up."""
BAR_LABEL = {
    "attention": "attention, multiples of uniform",
    "occlusion": "fall of the risk without it, SD of training's",
}
TOLD_OF = {
    "attention": "attention",
    "occlusion": "how far the standardised risk falls when patches are left out (occlusion)",
}
PANEL_INCHES = 4.4
"""Width of a panel of a square slide; a wide slide's are wider, to the next, a tall one's are not narrower."""
WIDEST_PANEL_INCHES = 9.0
AROUND_PANEL = 1.1
"""Inches of title and colour bar above and below a panel."""
WANTED_ASPECT = 1.5
"""Width by height of the figure that its columns are chosen for."""
GAP_COSTS = 0.2
"""What an empty place in the last row counts, in logarithms of that ratio."""
BAR_INCHES = 0.14
MOST_TICKS = 4
LETTERS_PER_INCH = 9.5
IN_ROW = 10
"""Patches in a row of the gallery: as many of the highest and of the lowest values are shown."""
TILE_INCHES = 1.15


@dataclass(frozen=True)
class PatchMap:
    """Values of one magnification's patches."""

    name: str
    """``20x`` or ``fused``: part of file names."""
    title: str
    coords: NDArray[np.int64]
    """``(n, 2)`` level-0 pixels (x, y) of the patches' top-left corners."""
    side: float
    """Of a patch in level-0 pixels."""
    values: NDArray[np.float64]
    """``(n,)``: multiples of uniform attention, or the fall of the risk in standard deviations."""

    def flat(self, kind: Kind) -> bool:
        """Whether it is attention that is nearly uniform."""
        return kind == "attention" and nearly_uniform(self.values)


@dataclass(frozen=True)
class Heatmap:
    """The maps of a slide and what must be said of them."""

    slide_id: str
    kind: Kind
    told: str
    """Whose opinion it is: the aggregator, and which models."""
    thumbnail: Picture
    downsample: float
    """Level-0 pixels per thumbnail pixel."""
    mpp: float
    """µm per level-0 pixel."""
    maps: tuple[PatchMap, ...]


def maps_of(
    found: Importance, coords: Mapping[int, NDArray[np.int64]], sides: Mapping[int, float]
) -> tuple[PatchMap, ...]:
    """What is drawn: a map for each magnification and their fusion; of occlusion one for each way to cut blocks.

    ``coords``: magnification -> ``(n, 2)``, ``sides``: of its patches, both in level-0 pixels.
    """

    def a_map(name: str, m: int, title: str, values: NDArray[np.float64]) -> PatchMap:
        return PatchMap(name, title, coords[m], sides[m], values)

    if found.kind == "occlusion":
        return tuple(
            a_map(f"{m}x", m, _of_blocks(blocks, m), found.values[m])
            for blocks in found.blocks
            for m in (min(blocks.numbers),)
        )
    maps = [
        a_map(f"{m}x", m, f"{m}x: {len(found.values[m]):,} patches", found.values[m])
        for m in sorted(found.values, reverse=True)
    ]
    if found.fused is not None and len(maps) > 1:
        maps.append(a_map(FUSED, max(found.values), "fused: mean over magnifications", found.fused))
    return tuple(maps)


def _of_blocks(blocks: Blocks, coarsest: int) -> str:
    square = (
        f"squares of {blocks.side} × {blocks.side} {coarsest}x patches"
        if blocks.side > 1
        else f"{coarsest}x patches"
    )
    return f"left out: {square}{', with all in them' if len(blocks.numbers) > 1 else ''}"


@dataclass(frozen=True)
class Shading:
    """Colours of values between two ends."""

    colours: Colormap
    low: float
    high: float
    extend: Literal["neither", "max", "both"]
    """Where values lie beyond the ends, which then have the ends' colours."""

    @classmethod
    def of(cls, kind: Kind, values: NDArray[np.float64]) -> Shading:
        """Viridis over a :class:`ColourRange`; for occlusion orange raises the risk, blue lowers it, white is 0."""
        if kind == "attention":
            span = ColourRange.of(values)
            return cls(COLOUR_MAP, span.low, span.high, "max" if span.clipped else "neither")
        size = np.abs(values)
        limit = max(float(np.quantile(size, 1 - CLIPPED_SHARE, method="higher")), MIN_LIMIT)
        return cls(SIGNED_MAP, -limit, limit, "both" if size.max() > limit else "neither")

    def shades(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(n, 3)`` from 0 to 1."""
        share = (values - self.low) / (self.high - self.low)
        return np.asarray(self.colours(np.clip(share, 0, 1)))[:, :3]

    def bar(self) -> ScalarMappable:
        """The colours as they look over grey tissue."""
        over_grey = OPACITY * self.colours(np.linspace(0, 1, 256))[:, :3] + (1 - OPACITY) * BAR_GREY
        return ScalarMappable(Normalize(self.low, self.high), ListedColormap(over_grey))


def patch_colours(found: Importance) -> NDArray[np.uint8]:
    """RGB ``(n, 3)`` of every patch, the finest magnification first: the colours of its attention or occlusion."""
    shades = [
        Shading.of(found.kind, found.values[m]).shades(found.values[m])
        for m in sorted(found.values, reverse=True)
    ]
    return (255 * np.concatenate(shades)).round().astype(np.uint8)


def map_picture(heatmap: Heatmap, shown: PatchMap) -> Picture:
    """A map over the grey thumbnail, without any text."""
    boxes = patch_boxes(heatmap.thumbnail, heatmap.downsample, shown.coords, shown.side)
    return shaded_patches(
        heatmap.thumbnail, boxes, Shading.of(heatmap.kind, shown.values).shades(shown.values)
    )


@rc_context(STYLE)
def heatmap_figure(heatmap: Heatmap) -> Figure:
    """The slide and every map, each with a colour bar of its own, and a scale bar."""
    height, width = heatmap.thumbnail.shape[:2]
    panel_width = min(PANEL_INCHES * max(1.0, math.sqrt(width / height)), WIDEST_PANEL_INCHES)
    picture_height = panel_width * height / width
    count, panel = 1 + len(heatmap.maps), (panel_width, picture_height + AROUND_PANEL)
    columns, rows = _arrangement(count, *panel)
    title = _title(heatmap, TOLD_OF[heatmap.kind], columns * panel_width)
    size = (columns * panel[0], rows * panel[1] + 0.25 * title.count("\n"))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1))
    figure.suptitle(title, parse_math=False, fontsize=12)
    panels = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    _picture(panels[0], heatmap.thumbnail, heatmap.downsample, "the slide")
    scale_bar(panels[0], width * heatmap.downsample * heatmap.mpp / 1000, heatmap.mpp / 1000)
    for axes, shown in zip(panels[1:], heatmap.maps, strict=True):
        flat = " (nearly uniform)" if shown.flat(heatmap.kind) else ""
        _picture(axes, map_picture(heatmap, shown), heatmap.downsample, f"{shown.title}{flat}")
        shading = Shading.of(heatmap.kind, shown.values)
        place = axes.inset_axes((0, -2 * BAR_INCHES / picture_height, 1, BAR_INCHES / picture_height))
        bar = figure.colorbar(shading.bar(), cax=place, orientation="horizontal", extend=shading.extend)
        bar.locator = MaxNLocator(MOST_TICKS, steps=[1, 2, 5, 10])
        bar.set_label(BAR_LABEL[heatmap.kind])
    return figure


def _arrangement(count: int, width: float, height: float) -> tuple[int, int]:
    """Columns and rows of so many panels of this size, near to :data:`WANTED_ASPECT` and with few gaps."""

    def cost(columns: int) -> float:
        rows = -(-count // columns)
        aspect = columns * width / (rows * height)
        return abs(math.log(aspect / WANTED_ASPECT)) + GAP_COSTS * (columns * rows - count)

    columns = min(range(1, count + 1), key=cost)
    return columns, -(-count // columns)


def _title(heatmap: Heatmap, subject: str, inches: float) -> str:
    lines = (f"{heatmap.slide_id}: {subject}", heatmap.told)
    return "\n".join(textwrap.fill(line, int(inches * LETTERS_PER_INCH)) for line in lines)


def _picture(axes: Axes, picture: Picture, downsample: float, title: str) -> None:
    height, width = picture.shape[:2]
    extent = (0, width * downsample, height * downsample, 0)
    axes.imshow(picture, extent=extent, interpolation="antialiased")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)


def extremes(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the :data:`IN_ROW` highest and lowest of ``values (n,)``, the most extreme first, none in both."""
    order = np.argsort(-values, kind="stable")
    high = min(IN_ROW, -(-len(order) // 2))
    low = min(IN_ROW, len(order) - high)
    return order[:high], order[::-1][:low]


@rc_context(STYLE)
def gallery_figure(heatmap: Heatmap, pixels: Mapping[str, Sequence[Picture]]) -> Figure:
    """The patches of highest and lowest value of each map, each with its value and place.

    Args:
        pixels: name of a map -> pictures of its :func:`extremes`, the highest first.
    """
    shown = [a_map for a_map in heatmap.maps if a_map.name in pixels]
    title = _title(heatmap, "patches of highest and lowest " + heatmap.kind, IN_ROW * TILE_INCHES)
    above, row_height, left = 0.35 + 0.22 * (1 + title.count("\n")), TILE_INCHES + 0.5, 0.8
    inches = (left + IN_ROW * (TILE_INCHES + 0.08), above + 2 * len(shown) * row_height)
    figure = Figure(figsize=inches)
    figure.text(0.01, 1 - 0.1 / inches[1], title, va="top", parse_math=False, fontsize=12)
    for number, a_map in enumerate(shown):
        pictures = iter(pixels[a_map.name])
        for below, (which, rows) in enumerate(
            zip(("highest", "lowest"), extremes(a_map.values), strict=True)
        ):
            bottom = inches[1] - above - (2 * number + below) * row_height - TILE_INCHES
            figure.text(0.06 / inches[0], (bottom + TILE_INCHES / 2) / inches[1], f"{a_map.name}\n{which}")
            for column, row in enumerate(rows.tolist()):
                x, y = (left + column * (TILE_INCHES + 0.08)) / inches[0], bottom / inches[1]
                axes = figure.add_axes((x, y, TILE_INCHES / inches[0], TILE_INCHES / inches[1]))
                axes.imshow(next(pictures))
                axes.set(xticks=[], yticks=[])
                place = ", ".join(map(str, a_map.coords[row].tolist()))
                text = f"{_number(heatmap.kind, a_map.values[row])}\n{place}"
                axes.text(0.5, -0.04, text, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    return figure


def _number(kind: Kind, value: float) -> str:
    return f"{value:.3g} × uniform" if kind == "attention" else f"{value:+.2g} SD"
