"""What is shown of a slide: thumbnail, tissue, patches, and the importance of each patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.explain.importance import Explainer, Importance, Kind
from milsurv.features.bag import Bag
from milsurv.features.store import patch_sides, read_bag
from milsurv.plugin.registry import Registry
from milsurv.slides.opening import find_tissue, open_slide, slide_faults
from milsurv.slides.reader import Slide
from milsurv.storage.run_files import MODEL

Picture = NDArray[np.uint8]
"""RGB ``(h, w, 3)``."""
REPORT_PX = 900
"""Longer side of the thumbnails in the report."""
MAX_BAR_SHARE = 0.3
FUSED = "fused"
NEARLY_UNIFORM = 0.1
"""Attention is nearly uniform if it is within 1 ± this at every patch."""


@dataclass(frozen=True)
class Patches:
    """The patches of one magnification."""

    coords: NDArray[np.int64]
    """``(n, 2)`` level-0 pixels (x, y) of the top-left corners."""
    side: float
    """Side of a patch in level-0 pixels."""


@dataclass(frozen=True)
class PatchMap:
    """One map of a slide: a value for each patch of a magnification."""

    name: str
    """``20x`` or ``fused``: part of file names."""
    title: str
    kind: Kind
    magnification: int
    values: NDArray[np.float64]
    """``(n,)`` multiples of uniform attention, or decreases of the standardised risk."""

    @property
    def nearly_uniform(self) -> bool:
        """Whether this is attention within 10 % of uniform at every patch."""
        return self.kind == "attention" and bool(np.abs(self.values - 1).max() <= NEARLY_UNIFORM + 1e-9)


@dataclass(frozen=True)
class SlideView:
    """A slide with its tissue, its patches, and their importance."""

    slide_id: str
    caption: str
    """Why the slide is shown, or which models its maps are of."""
    thumbnail: Picture
    downsample: float
    """Level-0 pixels per thumbnail pixel."""
    mpp: float
    """µm per level-0 pixel."""
    patches: dict[int, Patches]
    """By magnification."""
    outlines: Sequence[NDArray[np.int64]] = ()
    """Closed outlines of the tissue, each ``(k, 2)`` level-0 pixels (x, y)."""
    importance: Importance | None = None

    @property
    def maps(self) -> tuple[PatchMap, ...]:
        """Attention at each magnification, finest first, then fused; or one map for each set of removed blocks."""
        found = self.importance
        if found is None:
            return ()
        if found.kind == "occlusion":
            coarsest = {min(blocks.index): blocks for blocks in found.blocks}
            return tuple(
                PatchMap(f"{m}x", f"removed: {blocks.describe()}", "occlusion", m, found.values[m])
                for m, blocks in coarsest.items()
            )
        maps = [
            PatchMap(f"{m}x", self.title(m), "attention", m, found.values[m])
            for m in sorted(found.values)[::-1]
        ]
        if found.fused is not None and len(maps) > 1:
            title = "fused: mean over magnifications"
            maps.append(PatchMap(FUSED, title, "attention", max(found.values), found.fused))
        return tuple(maps)

    def title(self, magnification: int) -> str:
        """``20x: 1,204 patches of 128 µm``."""
        patches = self.patches[magnification]
        n = len(patches.coords)
        return f"{magnification}x: {n:,} patch{'es' * (n != 1)} of {patches.side * self.mpp:.4g} µm"

    def boxes(self, magnification: int) -> list[list[int]]:
        """``[left, top, right, bottom]`` of each patch in thumbnail pixels, clipped to the thumbnail."""
        patches = self.patches[magnification]
        height, width = self.thumbnail.shape[:2]
        corners = np.rint(np.hstack([patches.coords, patches.coords + patches.side]) / self.downsample)
        boxes: list[list[int]] = corners.clip(0, [width, height, width, height]).astype(int).tolist()
        return boxes

    def center_mm(self, magnification: int, row: int) -> tuple[float, float]:
        """Distance of a patch's centre from the left and the top edge of the slide, in mm."""
        patches = self.patches[magnification]
        x, y = ((patches.coords[row] + patches.side / 2) * self.mpp / 1000).tolist()
        return x, y

    def scale_bar(self) -> tuple[float, float]:
        """A length in mm of 1, 2 or 5 times a power of ten, at most 30 % of the width, and its share of the width."""
        width = self.thumbnail.shape[1] * self.downsample * self.mpp / 1000
        longest = width * MAX_BAR_SHARE
        decade = 10.0 ** np.floor(np.log10(longest))
        length = float(f"{max(step * decade for step in (1, 2, 5) if step * decade <= longest):.1g}")
        return length, length / width


@dataclass(frozen=True)
class MissingView:
    """A slide that should be shown but cannot be read."""

    slide_id: str
    caption: str
    reason: str


def read_patches(features: Path) -> tuple[Bag, dict[int, Patches]]:
    """The bag of a feature file, and its patches by magnification.

    Raises MilsurvError when the file cannot be read, or does not contain the positions and sizes of the patches.
    """
    bag, sides = read_bag(features), patch_sides(features)
    if bag.coords is None or sides.keys() < bag.coords.keys():
        raise MilsurvError(
            f"feature file {features} does not hold the positions and sizes of its patches, so nothing can be drawn; "
            "import features with coordinates, or extract them with milsurv"
        )
    return bag, {m: Patches(coords.numpy(), sides[m]) for m, coords in bag.coords.items()}


def view_slide(
    slide: Slide, slide_id: str, caption: str, patches: dict[int, Patches], max_px: int
) -> SlideView:
    """An open slide and its patches, with a thumbnail of at most ``max_px``; without tissue and importance."""
    with slide_faults():
        thumbnail, downsample = slide.thumbnail(max_px)
    return SlideView(slide_id, caption, thumbnail, downsample, slide.mpp, patches)


def choose_slides(predictions: pd.DataFrame, slides: pd.DataFrame, where: str = "") -> list[tuple[str, str]]:
    """Slide id and caption of the cases with the highest, median and lowest risk in one model's ``predictions``.

    The first used slide of each case. Cases without a finite risk are skipped; fewer than three cases give fewer
    slides. ``where`` follows the risk in the caption.
    """
    ranked = predictions[np.isfinite(predictions["risk"])].sort_values(
        ["risk", "case_id"], ascending=[False, True]
    )
    ids = ranked["case_id"].tolist()
    if len(ids) > 2:
        ranks = {0: "highest", len(ids) // 2: "median", len(ids) - 1: "lowest"}
    else:
        ranks = dict(zip(range(len(ids)), ("highest", "lowest"), strict=False))
    used = slides[slides["status"] == "used"].drop_duplicates("case_id").set_index("case_id")["slide_id"]
    return [(str(used[ids[rank]]), f"{name} risk{where}: case {ids[rank]}") for rank, name in ranks.items()]


def views_of_fold(
    config: RunConfig, registry: Registry, folder: Path, predictions: pd.DataFrame, slides: pd.DataFrame
) -> list[SlideView | MissingView]:
    """:func:`make_views` for the first test fold of the first seed, with the model of that fold."""
    seed = config.seeds[0]
    of_seed = predictions[predictions["seed"] == seed]
    fold = int(of_seed["fold"].min())
    model = Explainer(((folder / f"seed_{seed}" / f"fold_{fold}" / MODEL, seed),), registry, "cpu")
    return make_views(
        config, model, choose_slides(of_seed[of_seed["fold"] == fold], slides, f" in fold {fold}"), slides
    )


def make_views(
    config: RunConfig, model: Explainer, chosen: Sequence[tuple[str, str]], slides: pd.DataFrame
) -> list[SlideView | MissingView]:
    """Views of the slides chosen by :func:`choose_slides`, with the attention of ``model``.

    A slide or feature file that can no longer be read gives a :class:`MissingView`. Imported features and
    synthetic scenarios come without pictures, so there are no views.
    """
    if not config.has_pictures:
        return []
    rows = {str(row["slide_id"]): row for _, row in slides.iterrows()}
    views: list[SlideView | MissingView] = []
    for slide_id, caption in chosen:
        row = rows[slide_id]
        table_mpp = float(row["mpp"]) if row["mpp_source"] == "table" else None
        try:
            bag, patches = read_patches(config.workspace / row["features"])
            with open_slide(model.registry, config.reader, Path(row["path"]), table_mpp) as slide:
                view = view_slide(slide, slide_id, caption, patches, REPORT_PX)
                outlines = find_tissue(model.registry, config.tissue, slide).outlines()
        except MilsurvError as error:
            views.append(MissingView(slide_id, caption, str(error)))
        else:
            attention = Importance("attention", model.attention(slide_id, bag))
            views.append(replace(view, outlines=outlines, importance=attention))
    return views
