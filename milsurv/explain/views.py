"""The slides that the report shows: their thumbnails, their patches, and where the model looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.features.store import patch_sides, read_bag
from milsurv.plugin.registry import Registry
from milsurv.slides.opening import find_tissue, open_slide, slide_faults
from milsurv.training.job import MODEL
from milsurv.training.model import SurvivalModel, load_model

THUMBNAIL_PX = 900


@dataclass(frozen=True)
class SlideView:
    """What is to be seen of a slide."""

    slide_id: str
    case_id: str
    label: str
    """Why this slide, such as "highest risk in fold 2: case A"."""
    thumbnail: NDArray[np.uint8]
    """RGB ``(h, w, 3)``."""
    downsample: float
    """Level-0 pixels per thumbnail pixel."""
    mpp: float
    """µm per level-0 pixel."""
    outlines: list[NDArray[np.int64]]
    """Closed outlines of the tissue, each ``(k, 2)`` level-0 pixels (x, y)."""
    coords: dict[int, NDArray[np.int64]]
    """Magnification -> ``(n, 2)`` level-0 pixels (x, y) of the patches' top-left corners."""
    patch_level0: dict[int, float]
    """Magnification -> side of its patches in level-0 pixels."""
    attention: dict[int, NDArray[np.float64]]
    """Magnification -> ``(n,)`` weights that sum to 1; empty when the aggregator has no attention."""


@dataclass(frozen=True)
class MissingView:
    """A slide that was to be shown and cannot be."""

    slide_id: str
    case_id: str
    label: str
    reason: str


def choose_slides(rows: pd.DataFrame, slides: pd.DataFrame, where: str = "") -> list[tuple[str, str]]:
    """Slide id and label of the cases with the highest, median and lowest risk in ``rows``, predictions of one model.

    Of each case the first used slide. Cases without a finite risk are passed over; fewer than three cases
    give fewer slides. The label says ``where`` after the risk.
    """
    ranked = rows[np.isfinite(rows["risk"])].sort_values(["risk", "case_id"], ascending=[False, True])
    ids = ranked["case_id"].tolist()
    if len(ids) > 2:
        places = {0: "highest", len(ids) // 2: "median", len(ids) - 1: "lowest"}
    else:
        places = dict(zip(range(len(ids)), ("highest", "lowest"), strict=False))
    first_slide = (
        slides[slides["status"] == "used"].drop_duplicates("case_id").set_index("case_id")["slide_id"]
    )
    return [
        (str(first_slide[ids[place]]), f"{places[place]} risk{where}: case {ids[place]}") for place in places
    ]


def views_of_fold(
    config: RunConfig, registry: Registry, folder: Path, predictions: pd.DataFrame, slides: pd.DataFrame
) -> list[SlideView | MissingView]:
    """:func:`make_views` of the first reported fold under the first seed, seen by that fold's own model."""
    seed = config.seeds[0]
    of_seed = predictions[predictions["seed"] == seed]
    fold = int(of_seed["fold"].min())
    model = folder / f"seed_{seed}" / f"fold_{fold}" / MODEL
    chosen = choose_slides(of_seed[of_seed["fold"] == fold], slides, f" in fold {fold}")
    return make_views(config, registry, model, chosen, slides)


def make_views(
    config: RunConfig,
    registry: Registry,
    model: Path,
    chosen: Sequence[tuple[str, str]],
    slides: pd.DataFrame,
) -> list[SlideView | MissingView]:
    """Views of the slides that :func:`choose_slides` chose, as the ``model`` in a file sees them.

    A slide or feature file that cannot be read any more gives a :class:`MissingView` with the reason. Of imported
    features there is no slide, and no view.
    """
    if config.features is not None:
        return []
    network, _, _ = load_model(model, registry, "cpu")
    rows = {str(row["slide_id"]): row for _, row in slides.iterrows()}
    return [_view(config, registry, network, slide_id, label, rows[slide_id]) for slide_id, label in chosen]


def _view(
    config: RunConfig,
    registry: Registry,
    model: SurvivalModel,
    slide_id: str,
    label: str,
    row: pd.Series,
) -> SlideView | MissingView:
    case_id = str(row["case_id"])
    features = config.workspace / row["features"]
    table_mpp = float(row["mpp"]) if row["mpp_source"] == "table" else None
    try:
        bag = read_bag(features)
        with open_slide(registry, config.reader, Path(row["path"]), table_mpp) as slide:
            with slide_faults():
                thumbnail, downsample = slide.thumbnail(THUMBNAIL_PX)
            outlines = find_tissue(registry, config.tissue, slide).outlines()
            mpp = slide.mpp
    except MilsurvError as error:
        return MissingView(slide_id, case_id, label, str(error))
    return SlideView(
        slide_id=slide_id,
        case_id=case_id,
        label=label,
        thumbnail=thumbnail,
        downsample=downsample,
        mpp=mpp,
        outlines=outlines,
        coords={m: coords.numpy() for m, coords in (bag.coords or {}).items()},
        patch_level0=patch_sides(features),
        attention={m: weights.double().numpy() for m, weights in model.attention(bag).items()},
    )
