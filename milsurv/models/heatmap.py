"""Heatmaps of a trained model: the slide, its features, and the models that may be used for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from milsurv.cohort.cases import SlideRef
from milsurv.errors import MilsurvError, SlideError, nearest, slide_reason
from milsurv.explain.heatmap import explain_slide, write_heatmap
from milsurv.explain.importance import Explainer
from milsurv.features.source import SlideOutcome
from milsurv.features.store import read_attributes
from milsurv.models.trained import MPP_ADVICE, TrainedModel
from milsurv.runs.inputs import feature_source, make_features
from milsurv.runs.leakage import TrainingOverlap
from milsurv.runs.session import Session
from milsurv.slides.opening import open_slide
from milsurv.slides.reader import Slide, slide_identity

HEATMAPS = "heatmaps"
"""Folder in a run's folder, with a folder for each slide."""


@dataclass(frozen=True)
class DrawnSlide:
    """A slide, its features, and which folds' models were not trained on its case."""

    slide: SlideRef
    features: Path
    overlap: TrainingOverlap


def draw_heatmap(
    session: Session, trained: TrainedModel, drawn: DrawnSlide, folder: Path, use_occlusion: bool = False
) -> list[Path]:
    """Write a slide's maps, gallery, table and GeoJSON into ``folder``; returns the paths.

    They show attention, or occlusion if ``use_occlusion`` is True or the aggregator has no attention. Raises
    MilsurvError when the features have no positions of patches, or positions that are not on this slide, and for the
    slides of a synthetic scenario.
    """
    _require_pictures(trained)
    with session.context() as context:
        explainer = make_explainer(trained, drawn.overlap, context.device)
    explainer = replace(explainer, use_occlusion=use_occlusion)
    slide_id = drawn.slide.slide_id
    if explainer.seen_in_training:
        session.progress.warn(
            f"slide {slide_id}: every model was trained on its case; the heatmap is labelled accordingly"
        )
    with _named(drawn.slide), _open(session, drawn.slide) as slide:
        view = explain_slide(slide, slide_id, drawn.features, explainer, session.progress)
        return write_heatmap(view, slide, explainer, folder)


def _require_pictures(trained: TrainedModel) -> None:
    if trained.config.reads_slides and not trained.config.has_pictures:
        raise MilsurvError(
            f"{trained.folder}: the slides of a synthetic scenario are arrangements of patches, without a picture to "
            "draw a heatmap on"
        )


def make_explainer(trained: TrainedModel, overlap: TrainingOverlap, device: str) -> Explainer:
    """The models that were not trained on the slide's case; all of them if every model was."""
    folds = {model.fold for model in trained.models} if not overlap.folds else set(overlap.folds)
    models = tuple((model.file, model.seed) for model in trained.models if model.fold in folds)
    which = f"mean of {len(models)} models" if len(models) > 1 else "one model"
    if not overlap.folds:
        which += " TRAINED ON this slide's case (says nothing about new cases)"
    elif overlap.reason is None:
        which += " not trained on this slide"
    else:
        listed = ", ".join(map(str, sorted(folds)))
        which += f" not trained on this slide's case (fold{'s' * (len(folds) > 1)} {listed})"
    if trained.config.training.selection == "reported_fold":
        which += "; optimistic: epoch selected on the test cases"
    description = f"{trained.config.aggregator.name} of run {trained.config.name}, {which}"
    return Explainer(models, trained.registry, device, description, not overlap.folds)


def find_slide(session: Session, trained: TrainedModel, given: str, mpp: float | None = None) -> DrawnSlide:
    """The slide in a file, or with an id of the run's ``slides.csv``, with its features.

    The run's own features are used if they were made from this file; otherwise features are extracted as in training.
    ``mpp``: µm per level-0 pixel, in place of the slide's own. Raises MilsurvError when the slide does not exist or
    cannot be used, or its features would differ from those of training.
    """
    _require_pictures(trained)
    file = Path(given)
    slide = trained.slide(file if file.is_file() else _path_of_id(trained, given))
    slide = replace(slide, mpp=slide.mpp if mpp is None else mpp)
    row = trained.slides.get(slide.slide_id, {})
    with _named(slide):
        features = _features_of_run(trained, slide, row.get("features", ""))
        outcome = SlideOutcome(slide.slide_id)
        if features is None:
            features, outcome = _extract(session, trained, slide)
    return DrawnSlide(slide, features, trained.overlap(slide, outcome, row.get("case_id")))


def _path_of_id(trained: TrainedModel, slide_id: str) -> Path:
    row = trained.slides.get(slide_id)
    if row is None:
        listed = f"the {len(trained.slides)} slides listed in {trained.folder}"
        problem = (
            f"not a file, and not among {listed}{nearest(slide_id, trained.slides)}; give the slide's file"
        )
    elif row["status"] != "used":
        problem = f"excluded from the run ({row['reason']}); correct that, and give its file"
    elif not trained.config.reads_slides:
        problem = "the run imported its features, without slides; give a slide file with the name of its feature file"
    elif not Path(row["path"]).exists():
        problem = f"no longer at {row['path']}; give its file: milsurv heatmap {trained.folder} FILE"
    else:
        return Path(row["path"])
    raise MilsurvError(f"slide {slide_id}: {problem}")


def _features_of_run(trained: TrainedModel, slide: SlideRef, features: str) -> Path | None:
    """The feature file of the run, if it exists and was made from this slide file."""
    assert slide.path is not None
    path = trained.config.workspace / features
    if not features or not path.is_file():
        return None
    if not trained.config.reads_slides:
        return path
    made_from = read_attributes(path, ("slide", "table_mpp"))
    if slide.mpp is not None and slide.mpp != made_from["table_mpp"]:
        raise MilsurvError(
            f"{slide.path}: the run read slide {slide.slide_id} at {made_from['table_mpp'] or 'its own'} µm/px, not at "
            f"--mpp {slide.mpp:g}; omit --mpp, or rename the file to draw it as another slide"
        )
    if made_from["slide"] != slide_identity(slide.path):
        raise MilsurvError(
            f"{slide.path}: the run's features of slide {slide.slide_id} were made from another file, or from this "
            "file before it changed; rename it to draw it as a new slide"
        )
    return path


def _extract(session: Session, trained: TrainedModel, slide: SlideRef) -> tuple[Path, SlideOutcome]:
    """The slide's features, extracted as in training unless they exist."""
    if not session.config.reads_slides:
        raise MilsurvError(
            f"{trained.folder}: the models were trained on imported features, and there are none of slide "
            f"{slide.slide_id} in {session.config.workspace}; give a slide of the run, and its workspace"
        )
    source = replace(feature_source(session), mpp_advice=MPP_ADVICE)
    trained.require_same_features(source)
    source.require_own_file(slide)
    outcome = source.done_before(slide)
    if outcome is None:
        with _open(session, slide):
            pass  # a slide that cannot be opened is reported once, not also by extraction
        outcome = make_features(session, source, [slide])[slide.slide_id]
    if outcome.reason is not None:
        raise MilsurvError(f"{slide.path}: {outcome.reason}")
    return source.path(slide.slide_id), outcome


@contextmanager
def _named(slide: SlideRef) -> Iterator[None]:
    """Add the slide's path to the errors of its reader."""
    try:
        yield
    except SlideError as error:
        raise MilsurvError(f"{slide.path}: {slide_reason(error, MPP_ADVICE)}") from error


def _open(session: Session, slide: SlideRef) -> AbstractContextManager[Slide]:
    assert slide.path is not None
    return open_slide(session.registry, session.config.reader, slide.path, slide.mpp)
