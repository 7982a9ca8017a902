"""The files of ``milsurv heatmap``: maps, gallery, table and GeoJSON of one slide."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from milsurv.errors import MilsurvError
from milsurv.executors.memory import out_of_memory_explained
from milsurv.explain.figures import extremes, gallery_figure, heatmap_figure
from milsurv.explain.importance import Explainer
from milsurv.explain.patch_table import patch_table, patches_geojson
from milsurv.explain.render import map_picture, patch_colours, png
from milsurv.explain.view import FUSED, Patches, PatchMap, Picture, SlideView, read_patches, view_slide
from milsurv.progress import RunProgress
from milsurv.slides.opening import slide_faults
from milsurv.slides.reader import Slide
from milsurv.storage.atomic import atomic_path

THUMBNAIL_PX = 1600
MAX_GALLERY_PX = 256
DPI = 130


def explain_slide(
    slide: Slide, slide_id: str, features: Path, explainer: Explainer, progress: RunProgress
) -> SlideView:
    """An open slide with the importance of the patches in its feature file.

    Raises MilsurvError when the file has no positions of patches, or positions outside the slide, or when memory is
    too small.
    """
    bag, patches = read_patches(features)
    _require_inside(slide, patches)
    view = view_slide(slide, slide_id, explainer.description, patches, THUMBNAIL_PX)
    sides = {m: part.side for m, part in patches.items()}
    n = sum(bag.sizes.values())
    too_large = f"slide {slide_id}: not enough memory for a model with its {n} patches; use --device cpu"
    with out_of_memory_explained(lambda: too_large):
        view = replace(view, importance=explainer.importance(slide_id, bag, sides, progress))
    if flat := ", ".join(shown.name for shown in view.maps if shown.nearly_uniform):
        progress.warn(f"attention is nearly uniform (within 10 %) at {flat}: these maps say little")
    return view


def write_heatmap(view: SlideView, slide: Slide, explainer: Explainer, folder: Path) -> list[Path]:
    """Write maps, gallery, table and GeoJSON of :func:`explain_slide`'s ``view``; returns the paths.

    Names of files with occlusion begin with ``occlusion_``.
    """
    assert view.importance is not None
    kind, maps = view.importance.kind, view.maps
    pixels = {shown.name: _patches(slide, view, shown) for shown in maps if shown.name != FUSED}
    about = {
        "slide": view.slide_id,
        "shown": kind,
        "by": view.caption,
        "seen_in_training": explainer.seen_in_training,
    }
    if flat := [shown.name for shown in maps if shown.nearly_uniform]:
        about["nearly_uniform"] = flat
    table = patch_table(view)
    geojson = patches_geojson(table, patch_colours(view.importance), about, slide.qupath_origin)
    csv = table.assign(seen_in_training=int(explainer.seen_in_training)).to_csv(index=False)
    files = {
        "heatmap.png": _figure_png(heatmap_figure(view)),
        **{f"heatmap_{shown.name}.png": png(map_picture(view, shown)) for shown in maps},
        "gallery.png": _figure_png(gallery_figure(view, pixels)),
        "patches.geojson": geojson.encode(),
        "patches.csv": csv.encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if kind == "attention" else "occlusion_"
    for name, content in files.items():
        with atomic_path(folder / f"{prefix}{name}") as temporary:
            temporary.write_bytes(content)
    return [folder / f"{prefix}{name}" for name in files]


def _require_inside(slide: Slide, patches: dict[int, Patches]) -> None:
    """Raise MilsurvError when a patch begins outside the slide: its features were made from another file."""
    for m, part in patches.items():
        if (part.coords.min() < 0) or (part.coords.max(axis=0) >= slide.dimensions).any():
            x, y = part.coords.max(axis=0).tolist()
            width, height = slide.dimensions
            raise MilsurvError(
                f"{slide.path}: it has {width} × {height} pixels, but {m}x patches of its features lie at up to "
                f"{x}, {y}: they were made from another file; give that one"
            )


def _patches(slide: Slide, view: SlideView, shown: PatchMap) -> list[Picture]:
    """The patches of the gallery, in its order."""
    patches = view.patches[shown.magnification]
    side = round(patches.side)
    px = min(side, MAX_GALLERY_PX)
    with slide_faults():
        return [
            slide.read(x, y, side, side, (px, px))
            for x, y in patches.coords[np.concatenate(extremes(shown.values))].tolist()
        ]


def _figure_png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
