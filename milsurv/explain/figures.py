"""Figures of a slide: ``milsurv heatmap``'s maps and gallery, and ``milsurv inspect``'s tissue and patches."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from milsurv.explain.render import GRID, OUTLINE, Shading, map_picture, padded, tissue_picture
from milsurv.explain.style import INK, STYLE
from milsurv.explain.view import Picture, SlideView

BAR_LABEL = {
    "attention": "attention, multiples of uniform",
    "occlusion": "decrease of the risk, SD of training risks",
}
SUBJECT = {
    "attention": "attention",
    "occlusion": "decrease of the standardised risk when patches are removed (occlusion)",
}
PANEL_INCHES = 4.4
"""Width of a panel of a square slide; a wide slide gets wider panels, up to the next."""
MAX_PANEL_INCHES = 9.0
AROUND_PANEL = 1.1
"""Inches of title and colour bar above and below a panel."""
TARGET_ASPECT = 2.0
"""Width by height of the figure for which the number of columns is chosen."""
BAR_INCHES = 0.14
MAX_TICKS = 4
LETTERS_PER_INCH = 9.5
IN_ROW = 10
"""Patches in a row of the gallery, which has one row of the highest and one of the lowest values."""
TILE_INCHES, ROW_INCHES = 1.25, 1.65


@dataclass(frozen=True)
class Panel:
    """A picture with its title and, if its colours show values, the shading and what the values are."""

    title: str
    picture: Picture
    shading: Shading | None = None
    label: str = ""


def heatmap_figure(view: SlideView) -> Figure:
    """The slide and every map, each with its own colour bar."""
    panels = [Panel("slide", view.thumbnail)]
    for shown in view.maps:
        title = f"{shown.title}{' (nearly uniform)' if shown.nearly_uniform else ''}"
        shading = Shading.of(shown.kind, shown.values)
        panels.append(Panel(title, map_picture(view, shown), shading, BAR_LABEL[shown.kind]))
    return _panel_figure(view, panels, (f"{view.slide_id}: {SUBJECT[view.maps[0].kind]}", view.caption))


def inspect_figure(view: SlideView) -> Figure:
    """The outline of the tissue and the patches, in a panel for each magnification."""
    view = padded(view)
    panels = [Panel(view.title(m), tissue_picture(view, m)) for m in sorted(view.patches, reverse=True)]
    figure = _panel_figure(
        view, panels or [Panel("no patches", tissue_picture(view, None))], (view.slide_id,)
    )
    entries = [
        Line2D([], [], color=f"#{bytes(OUTLINE).hex()}", linewidth=1.8, label="tissue"),
        Line2D(
            [],
            [],
            color=f"#{bytes(GRID).hex()}",
            marker="s",
            markerfacecolor="none",
            linestyle="",
            label="patches",
        ),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=2, frameon=False)
    return figure


@rc_context(STYLE)
def _panel_figure(view: SlideView, panels: Sequence[Panel], title: Sequence[str]) -> Figure:
    height, width = panels[0].picture.shape[:2]
    panel_width = min(PANEL_INCHES * max(1.0, math.sqrt(width / height)), MAX_PANEL_INCHES)
    picture_height = panel_width * height / width
    panel_height = picture_height + AROUND_PANEL
    wanted = math.sqrt(TARGET_ASPECT * len(panels) * panel_height / panel_width)
    rows = math.ceil(len(panels) / max(1, round(wanted)))
    columns = math.ceil(len(panels) / rows)
    text = _wrapped(title, columns * panel_width)
    size = (columns * panel_width, rows * panel_height + 0.25 * text.count("\n"))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1))
    figure.suptitle(text, parse_math=False, fontsize=12)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(panel.picture, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_title(panel.title, fontsize=11)
        if number == 0:
            _scale_bar(axes, view)
        if panel.shading is not None:
            bar_height = BAR_INCHES / picture_height
            place = axes.inset_axes((0, -2 * bar_height, 1, bar_height))
            bar = figure.colorbar(
                panel.shading.mappable(), cax=place, orientation="horizontal", extend=panel.shading.extend
            )
            bar.locator = MaxNLocator(MAX_TICKS, steps=[1, 2, 5, 10])
            bar.set_label(panel.label)
    return figure


def _wrapped(lines: Sequence[str], inches: float) -> str:
    return "\n".join(textwrap.fill(line, int(inches * LETTERS_PER_INCH)) for line in lines)


def _scale_bar(axes: Axes, view: SlideView) -> None:
    """Below the left end of axes that show the thumbnail."""
    length, share = view.scale_bar()
    ends = np.array([0, share * view.thumbnail.shape[1]])
    below = blended_transform_factory(axes.transData, axes.transAxes)
    axes.plot(ends, [-0.02] * 2, color=INK, linewidth=4, transform=below, clip_on=False)
    axes.annotate(
        f"{length:g} mm" if length >= 1 else f"{1000 * length:g} µm",
        (float(ends.mean()), -0.02),
        xytext=(0, -4),
        xycoords=below,
        textcoords="offset points",
        ha="center",
        va="top",
        annotation_clip=False,
    )


def extremes(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the :data:`IN_ROW` highest and lowest of ``values (n,)``, the most extreme first, disjoint."""
    order = np.argsort(-values, kind="stable")
    high = min(IN_ROW, -(-len(order) // 2))
    low = min(IN_ROW, len(order) - high)
    return order[:high], order[::-1][:low]


@rc_context(STYLE)
def gallery_figure(view: SlideView, pixels: Mapping[str, Sequence[Picture]]) -> Figure:
    """The patches of the highest and lowest values of each map, with their values and positions.

    Args:
        pixels: name of a map -> pictures of its :func:`extremes`, highest first.
    """
    shown = [part for part in view.maps if part.name in pixels]
    pictures = (picture for part in shown for picture in pixels[part.name])
    rows = [
        (part, name, order.tolist())
        for part in shown
        for name, order in zip(("highest", "lowest"), extremes(part.values), strict=True)
    ]
    figure = Figure(figsize=(IN_ROW * TILE_INCHES, len(rows) * ROW_INCHES + 0.8), layout="constrained")
    subject = f"{view.slide_id}: patches of highest and lowest {shown[0].kind}"
    figure.suptitle(_wrapped((subject, view.caption), IN_ROW * TILE_INCHES), parse_math=False, fontsize=12)
    tiles = figure.subplots(len(rows), IN_ROW, squeeze=False)
    for (part, name, order), in_row in zip(rows, tiles, strict=True):
        in_row[0].set_ylabel(f"{part.name}\n{name}", rotation=0, ha="right", va="center")
        for axes in in_row[len(order) :]:
            axes.set_axis_off()
        for axes, row in zip(in_row, order, strict=False):
            axes.imshow(next(pictures))
            axes.set(xticks=[], yticks=[])
            value = part.values[row]
            text = f"{value:.3g} × uniform" if part.kind == "attention" else f"{value:+.2g} SD"
            place = ", ".join(map(str, view.patches[part.magnification].coords[row].tolist()))
            axes.set_xlabel(f"{text}\n{place}", fontsize=8)
    return figure
