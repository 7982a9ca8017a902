"""Where a trained model looks on a slide: its attention or an occlusion, as maps, a gallery, a table and GeoJSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from milsurv.cohort.cases import SlideRef
from milsurv.errors import MilsurvError, SlideError, nearest, slide_reason
from milsurv.executors.memory import want_of_memory_named
from milsurv.explain.heatmap_figure import (
    FUSED,
    Heatmap,
    PatchMap,
    extremes,
    gallery_figure,
    heatmap_figure,
    map_picture,
    maps_of,
    patch_colours,
)
from milsurv.explain.importance import Importance, Values, attention, fuse, make_blocks, occlusion
from milsurv.explain.patch_table import importance_table, patches_geojson
from milsurv.explain.pictures import Picture
from milsurv.features.bag import Bag
from milsurv.features.extract import ExtractedSlide, ExtractionSettings
from milsurv.features.store import read_attributes, read_bag, read_features
from milsurv.models.prediction import require_own_features
from milsurv.models.trained import MPP_ADVICE, FoldModel, TrainedModel
from milsurv.runs.leakage import Acquaintance
from milsurv.runs.pipeline import extract_features
from milsurv.runs.session import Session
from milsurv.slides.opening import open_slide, slide_faults
from milsurv.slides.reader import Slide, slide_identity
from milsurv.storage.atomic import atomic_path, write_text
from milsurv.storage.checksums import read_checked
from milsurv.training.model import load_model

HEATMAPS = "heatmaps"
"""Folder in a run's folder that holds one for each slide."""
SLIDES = "slides.csv"
MOST_PASSES = 400
"""Bags that occlusion puts through models, all models together, unless that leaves fewer blocks than the next."""
FEWEST_BLOCKS = 32
"""Blocks that each model leaves out, in all, however many models there are; a small slide has fewer."""
THUMBNAIL_PX = 1600
MOST_GALLERY_PX = 256
DPI = 130


@dataclass(frozen=True)
class DrawnSlide:
    """A slide, its features, and who knows it."""

    slide: SlideRef
    features: Path
    known: Acquaintance


@dataclass(frozen=True)
class Opinion:
    """Whose attention or occlusion it is."""

    models: tuple[FoldModel, ...]
    told: str
    seen_in_training: bool
    """True when every model learned from the slide's case."""

    @classmethod
    def of(cls, trained: TrainedModel, known: Acquaintance) -> Opinion:
        """The models that may judge the slide; all of them when none may."""
        folds = {model.fold for model in trained.models} if not known.unseen_by else set(known.unseen_by)
        models = tuple(model for model in trained.models if model.fold in folds)
        several = len(models) > 1
        told = f"mean of all {len(models)} models" if several else "the one model"
        if not known.unseen_by:
            told += ", which LEARNED from this slide's case: it says nothing of new cases"
        elif known.reason is None:
            told += ", which did not learn from this slide"
        else:
            told = f"mean of the {len(models)} models" if several else "the one model"
            listed = ", ".join(map(str, sorted(folds)))
            told += f" that did not learn from this slide's case (fold{'s' * (len(folds) > 1)} {listed})"
        if trained.config.training.selection == "reported_fold":
            told += "; optimistic: the reported cases chose the epoch"
        name, aggregator = trained.config.name, trained.config.aggregator.name
        return cls(models, f"{aggregator} of run {name}, {told}", not known.unseen_by)


def find_slide(session: Session, trained: TrainedModel, given: str, mpp: float | None = None) -> DrawnSlide:
    """The slide that a file or an id of the run's ``slides.csv`` names, with its features, at ``mpp`` µm/px if given.

    They are the run's own where it has them of this very file, else they are extracted as training did. Raises
    MilsurvError when there is no such slide, it moved, it cannot be used, or its features would not be training's.
    """
    rows, file = _slides_of_run(trained), Path(given)
    if file.is_file():
        slide = trained.slide(file)
        row = rows.get(slide.slide_id)
    else:
        row = _row_of_id(trained, given, rows)
        slide = trained.slide(Path(row["path"]))
    slide = replace(slide, mpp=slide.mpp if mpp is None else mpp)
    features = None if row is None else _features_of_run(trained, slide, row)
    if features is not None and row is not None:
        known = trained.acquaintance(slide, ExtractedSlide(slide.slide_id, {}), row["case_id"])
        return DrawnSlide(slide, features, known)
    if trained.config.features is not None:
        raise MilsurvError(
            f"{trained.folder}: the models were trained on imported features, and there are none of slide "
            f"{slide.slide_id} in {trained.config.workspace}; draw a slide of the run, with its workspace"
        )
    features, outcome = _extract(session, trained, slide)
    return DrawnSlide(
        slide, features, trained.acquaintance(slide, outcome, None if row is None else row["case_id"])
    )


def _slides_of_run(trained: TrainedModel) -> dict[str, dict[str, str]]:
    """Slide id -> its row; nothing for a model that was exported, which tells no ids."""
    table = trained.folder / SLIDES
    if not table.is_file():
        return {}
    found = pd.read_csv(StringIO(read_checked(table)), dtype=str, keep_default_na=False)
    return {
        row["slide_id"]: {str(key): value for key, value in row.items()} for row in found.to_dict("records")
    }


def _row_of_id(trained: TrainedModel, slide_id: str, rows: dict[str, dict[str, str]]) -> dict[str, str]:
    row = rows.get(slide_id)
    if row is None:
        where = f"no id in {trained.folder / SLIDES}" if rows else f"{trained.folder} lists no slides"
        raise MilsurvError(
            f"slide {slide_id}: it is no file, and {where}{nearest(slide_id, rows)}; give the slide's file"
        )
    if row["status"] != "used":
        raise MilsurvError(
            f"slide {slide_id}: the run left it out ({row['reason']}); mend it and give its file"
        )
    if trained.config.features is not None:
        raise MilsurvError(
            f"slide {slide_id}: the run imported its features and knows no slide to draw on; give the slide's file, "
            "named as its features are"
        )
    if not Path(row["path"]).exists():
        raise MilsurvError(
            f"slide {slide_id}: it is no more at {row['path']}, where the run read it; give its file: milsurv heatmap "
            f"{trained.folder} FILE"
        )
    return row


def _features_of_run(trained: TrainedModel, slide: SlideRef, row: dict[str, str]) -> Path | None:
    """The feature file that the run trained on, when it is there and was made from this very slide file."""
    path = trained.config.workspace / row["features"]
    if not row["features"] or not path.is_file():
        return None
    if trained.config.features is not None:
        return path
    made_from = read_attributes(path, ("slide", "table_mpp"))
    if slide.mpp is not None and slide.mpp != made_from["table_mpp"]:
        raise MilsurvError(
            f"{slide.path}: the run read slide {slide.slide_id} at {made_from['table_mpp'] or 'its own'} µm/px, and "
            f"--mpp {slide.mpp:g} is given; leave it out, or rename the file, to draw it as another slide"
        )
    if made_from["slide"] != _identity(slide):
        raise MilsurvError(
            f"{slide.path}: the run's features of slide {slide.slide_id} were made from another file, or from this one "
            "before it changed; rename it, to draw it as a slide that the run does not know"
        )
    return path


def _extract(session: Session, trained: TrainedModel, slide: SlideRef) -> tuple[Path, ExtractedSlide]:
    """The slide's features as training would extract them, unless they are there already."""
    settings = ExtractionSettings.of(session.config, session.registry, session.device)
    settings = replace(settings, mpp_advice=MPP_ADVICE)
    trained.require_same_features(settings)
    with _named(slide):
        require_own_features(settings, [slide])
    if done := settings.done_before(slide):
        return settings.path(slide.slide_id), done
    with _opened(trained, slide):
        pass  # what cannot be opened is told once: extraction would tell it as a slide left out too
    outcome = extract_features(session, settings, [slide])[slide.slide_id]
    if outcome.reason is not None:
        raise MilsurvError(f"{slide.path}: {outcome.reason}")
    return settings.path(slide.slide_id), outcome


def _identity(slide: SlideRef) -> Any:
    assert slide.path is not None
    with _named(slide):
        return slide_identity(slide.path)


@contextmanager
def _named(slide: SlideRef) -> Iterator[None]:
    """Name the slide in what its reader raises."""
    try:
        yield
    except SlideError as error:
        raise MilsurvError(f"{slide.path}: {slide_reason(error, MPP_ADVICE)}") from error


@contextmanager
def _opened(trained: TrainedModel, slide: SlideRef) -> Iterator[Slide]:
    assert slide.path is not None
    with _named(slide), open_slide(trained.registry, trained.config.reader, slide.path, slide.mpp) as opened:
        yield opened


def draw_heatmap(
    session: Session,
    trained: TrainedModel,
    drawn: DrawnSlide,
    folder: Path,
    ask_occlusion: bool = False,
) -> list[Path]:
    """Write a slide's maps, gallery, table and GeoJSON into ``folder``, and give back their paths.

    Attention, where the aggregator has one and ``ask_occlusion`` is False; else occlusion, whose files' names begin
    with ``occlusion_``. Raises MilsurvError when the features have no places, or not on this slide.
    """
    slide = drawn.slide
    bag, sides = _bag(drawn)
    opinion = Opinion.of(trained, drawn.known)
    if opinion.seen_in_training:
        session.progress.warn(
            f"slide {slide.slide_id}: every model learned from its case; the heatmap says so"
        )
    assert bag.coords is not None
    coords = {m: places.numpy() for m, places in bag.coords.items()}
    with _opened(trained, slide) as opened:
        _require_places(opened, slide, coords)
        with slide_faults():
            thumbnail, downsample = opened.thumbnail(THUMBNAIL_PX)
        with want_of_memory_named(lambda: _too_large(slide, bag)):
            found = measure_importance(session, opinion.models, bag, sides, slide.slide_id, ask_occlusion)
        maps = maps_of(found, coords, sides)
        heatmap = Heatmap(slide.slide_id, found.kind, opinion.told, thumbnail, downsample, opened.mpp, maps)
        px = min(trained.config.tiling.patch_px, MOST_GALLERY_PX)
        origin = opened.qupath_origin
        pixels = {shown.name: _patches(opened, shown, px) for shown in maps if shown.name != FUSED}
    table = importance_table(found, coords, sides)
    about = {
        "slide": slide.slide_id,
        "shown": found.kind,
        "by": opinion.told,
        "seen_in_training": opinion.seen_in_training,
    }
    if flat := [shown.name for shown in maps if shown.flat(found.kind)]:
        about["nearly_uniform"] = flat
        named = ", ".join(flat)
        session.progress.warn(
            f"attention is nearly uniform (within 10 % of uniform) at {named}: these maps say little"
        )
    return _write(folder, heatmap, pixels, table, patch_colours(found), about, origin)


def _too_large(slide: SlideRef, bag: Bag) -> str:
    patches = sum(bag.sizes.values())
    return (
        f"slide {slide.slide_id}: memory does not hold a model with its {patches} patches; use --device cpu"
    )


def _bag(drawn: DrawnSlide) -> tuple[Bag, dict[int, float]]:
    """The bag, and the sides of its patches in level-0 pixels."""
    bag = read_bag(drawn.features)
    sides = {m: stored.patch_level0 for m, stored in read_features(drawn.features).items()}
    known = {m: side for m, side in sides.items() if side is not None}
    if bag.coords is None or len(known) < len(sides):
        raise MilsurvError(
            f"slide {drawn.slide.slide_id}: its features do not tell where each patch lies ({drawn.features}), so "
            "nothing can be drawn; import features with coordinates, or extract them with milsurv"
        )
    return bag, known


def measure_importance(
    session: Session,
    models: Sequence[FoldModel],
    bag: Bag,
    sides: dict[int, float],
    slide_id: str,
    ask_occlusion: bool,
) -> Importance:
    """Attention, or occlusion where there is none or it is asked for: the mean over ``models``, in float32."""
    device, registry = session.device, session.registry
    moved = bag.to(device)
    if not ask_occlusion:
        seen = [
            attention(load_model(model.file, registry, device)[0], moved, model.seed, 0, slide_id)
            for model in models
        ]
        values = _mean(seen)
        if values:
            finest = max(values)
            alone = values[finest] if len(values) == 1 else None
            return Importance("attention", values, alone if bag.grid is None else fuse(values, bag.grid))
    blocks = make_blocks(bag, sides, max(FEWEST_BLOCKS, MOST_PASSES // len(models) - 1))
    if not blocks:
        raise MilsurvError(
            f"slide {slide_id}: it has one patch alone, and occlusion leaves out one of several"
        )
    falls = []
    passes = len(models) * (1 + sum(some.count for some in blocks))
    with session.progress.stage("leaving out patches", passes, "bags") as stage:
        for model in models:
            network, loss, about = load_model(model.file, registry, device)
            found = occlusion(network, loss, moved, blocks, stage.advance, model.seed, 0, slide_id)
            falls.append({m: fall / (about["risk_deviation"] or 1.0) for m, fall in found.items()})
    return Importance("occlusion", _mean(falls), blocks=tuple(blocks))


def _mean(of_models: Sequence[Values]) -> Values:
    return {m: np.mean([values[m] for values in of_models], axis=0) for m in of_models[0]}


def _require_places(opened: Slide, slide: SlideRef, coords: dict[int, NDArray[np.int64]]) -> None:
    """Raise MilsurvError when a patch begins beyond the slide: then it is not the one its features were made from."""
    for m, corners in coords.items():
        if (corners.min() < 0) or (corners.max(axis=0) >= opened.dimensions).any():
            x, y = corners.max(axis=0).tolist()
            width, height = opened.dimensions
            raise MilsurvError(
                f"{slide.path}: it has {width} × {height} pixels, but {m}x patches of its features lie up to {x}, {y}: "
                "they were made from another file; give that one"
            )


def _patches(opened: Slide, shown: PatchMap, px: int) -> list[Picture]:
    """The patches of the gallery, in its order."""
    side = round(shown.side)
    corners = shown.coords[np.concatenate(extremes(shown.values))].tolist()
    with slide_faults():
        return [opened.read(x, y, side, side, (px, px)) for x, y in corners]


def _write(
    folder: Path,
    heatmap: Heatmap,
    pixels: dict[str, list[Picture]],
    table: pd.DataFrame,
    colours: NDArray[np.uint8],
    about: dict[str, Any],
    origin: tuple[int, int],
) -> list[Path]:
    prefix = "" if heatmap.kind == "attention" else "occlusion_"
    written = []

    def path(name: str) -> Path:
        written.append(folder / f"{prefix}{name}")
        return written[-1]

    folder.mkdir(parents=True, exist_ok=True)
    _save(heatmap_figure(heatmap), path("heatmap.png"))
    for shown in heatmap.maps:
        encoded = cv2.imencode(".png", cv2.cvtColor(map_picture(heatmap, shown), cv2.COLOR_RGB2BGR))[1]
        with atomic_path(path(f"heatmap_{shown.name}.png")) as temporary:
            temporary.write_bytes(encoded.tobytes())
    _save(gallery_figure(heatmap, pixels), path("gallery.png"))
    write_text(path("patches.geojson"), patches_geojson(table, colours, about, origin))
    seen = table.assign(seen_in_training=int(about["seen_in_training"]))
    write_text(path("patches.csv"), seen.to_csv(index=False))
    return written


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
