"""Stages of a run, each in a quiet session of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.models import external, heatmap, prediction
from milsurv.models.heatmap import DrawnSlide
from milsurv.models.prediction import SlidePrediction
from milsurv.models.trained import TrainedModel
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress
from milsurv.runs import inputs, pipeline
from milsurv.runs.inputs import feature_source
from milsurv.runs.pipeline import RunResult
from milsurv.runs.session import open_session

QUIET = RunProgress(quiet=True)


def run(config: RunConfig, registry: Registry, only_fold: int | None = None) -> RunResult:
    with open_session(config, registry, QUIET) as session:
        return pipeline.run(session, only_fold)


def make_features(
    config: RunConfig, registry: Registry, slides: Sequence[SlideRef], progress: RunProgress = QUIET
) -> tuple[dict[str, SlideOutcome], FeatureSource]:
    with open_session(config, registry, progress) as session:
        source = feature_source(session)
        return inputs.make_features(session, source, slides), source


def predict_slides(trained: TrainedModel, paths: Sequence[Path], **options: Any) -> list[SlidePrediction]:
    with open_session(trained.config, trained.registry, QUIET) as session:
        return prediction.predict_slides(session, trained, paths, **options)


def evaluate_external(trained: TrainedModel) -> RunResult:
    with open_session(trained.config, trained.registry, QUIET) as session:
        return external.evaluate_external(session, trained)


def find_slide(trained: TrainedModel, given: str, mpp: float | None = None) -> DrawnSlide:
    with open_session(trained.config, trained.registry, QUIET) as session:
        return heatmap.find_slide(session, trained, given, mpp)


def draw_heatmap(
    trained: TrainedModel, drawn: DrawnSlide, folder: Path, use_occlusion: bool = False
) -> list[Path]:
    with open_session(trained.config, trained.registry, QUIET) as session:
        return heatmap.draw_heatmap(session, trained, drawn, folder, use_occlusion)
