"""The inputs of a run: the source of its features, the features of its slides, the usable cases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from milsurv.cohort.cases import Case, Cohort, SlideRef
from milsurv.cohort.summaries import summarize_if_many
from milsurv.config.run import RunConfig
from milsurv.errors import CohortError, size
from milsurv.executors.base import Event, Unit
from milsurv.features.arranged import Arranged
from milsurv.features.extraction import Extraction
from milsurv.features.importers.importing import Import
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.features.store import feature_dims
from milsurv.runs.session import Session, advance
from milsurv.storage.atomic import append_event
from milsurv.storage.run_files import EVENTS
from milsurv.training.data import TrainingCase


def feature_source(session: Session) -> FeatureSource:
    """The source of the run's features. Raises MilsurvError when configured weights or folders do not exist."""
    kind = kind_of_source(session.config)
    if issubclass(kind, Extraction):
        return kind.of(session.config, session.registry, session.device)
    return Import.of(session.config, session.registry)


def kind_of_source(config: RunConfig) -> type[Extraction | Import]:
    """The class of the source of a run's features."""
    if not config.reads_slides:
        return Import
    return Extraction if config.has_pictures else Arranged


def make_features(
    session: Session, source: FeatureSource, slides: Sequence[SlideRef]
) -> dict[str, SlideOutcome]:
    """Slide id -> outcome; slides whose feature files exist are not read again."""
    progress = session.progress
    outcomes: dict[str, SlideOutcome] = {}
    todo: list[SlideRef] = []
    for slide in slides:
        if slide.path is None:
            outcomes[slide.slide_id] = SlideOutcome(slide.slide_id, reason=slide.reason)
        elif done := source.done_before(slide):
            outcomes[slide.slide_id] = done
        else:
            todo.append(slide)
    for warning in source.warnings(todo):
        progress.warn(warning)
    statistics = FeatureStatistics(source.folder)

    def on_event(unit: Unit, event: Event) -> None:
        if event["event"] == "smaller batches":
            progress.warn(
                f"out of memory on {event['device']}: batch size reduced; set extraction.batch_size: "
                f"{event['batch_size']}"
            )
        statistics.add({"slide": unit.name, **event})
        progress.log(event.get("traceback", ""))
        advance(stage, "slide", unit, event, statistics)

    with progress.stage(f"{source.verb} features", len(todo), "slides") as stage:
        fresh = session.executor.run([source.unit(slide, session.device) for slide in todo], on_event)
    outcomes |= {outcome.slide_id: outcome for outcome in fresh}
    _warn_of_slides(session, outcomes.values(), source.folder / EVENTS)
    used = [outcome.slide_id for outcome in outcomes.values() if outcome.reason is None]
    source.require_equal_dims((slide_id, feature_dims(source.path(slide_id))) for slide_id in used)
    return outcomes


@dataclass
class FeatureStatistics:
    """Counts events while features are made, and appends each slide's outcome to ``events.jsonl``."""

    folder: Path
    """Folder of the feature files."""
    patches: int = 0
    bytes: int = 0
    excluded: int = 0
    _started: float = field(default_factory=time.monotonic)

    def add(self, event: Event) -> None:
        """Count an event of a unit."""
        if event["event"] == "patches":
            self.patches += event["count"]
            return
        if event["event"] == "slide":
            self.bytes += event["bytes"]
            self.excluded += event["reason"] is not None
        append_event(self.folder / EVENTS, {**event, "patches_so_far": self.patches})

    def __str__(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        parts = [f"{self.patches / elapsed:,.0f} patches/s"] if self.patches else []
        return ", ".join([*parts, f"{size(self.bytes)} written", f"{self.excluded} excluded"])


def _warn_of_slides(session: Session, outcomes: Collection[SlideOutcome], events: Path) -> None:
    excluded = [f"slide {o.slide_id} is excluded: {o.reason}" for o in outcomes if o.reason is not None]
    warnings = [f"slide {o.slide_id}: {warning}" for o in outcomes for warning in o.warnings]
    for lines, what in ((excluded, "slides are excluded"), (warnings, "warnings about slides")):
        for line in summarize_if_many(lines, f"{what}, see the report"):
            session.progress.warn(line)
    if any(outcome.fault for outcome in outcomes):
        session.progress.warn(f"the tracebacks of unexpected failures are in {events}")


def usable_cases(cohort: Cohort, outcomes: Mapping[str, SlideOutcome]) -> Cohort:
    """The cases with the slides that have features, both sorted by id. Raises CohortError when none is left."""
    cases = []
    for case in sorted(cohort.cases, key=lambda case: case.case_id):
        slides = [slide for slide in case.slides if outcomes[slide.slide_id].reason is None]
        if slides:
            by_id = sorted(slides, key=lambda slide: slide.slide_id)
            cases.append(replace(case, slides=tuple(by_id)))
    if not cases:
        raise CohortError([_no_slide(list(outcomes.values()))])
    return replace(cohort, cases=tuple(cases))


def _no_slide(outcomes: Sequence[SlideOutcome]) -> str:
    reasons = sorted({str(outcome.reason) for outcome in outcomes})
    text = f"no case has a usable slide; the reasons: {'; '.join(reasons[:5]) or 'no slides'}"
    counts = Counter(outcome.fault for outcome in outcomes if outcome.fault)
    for fault, count in counts.most_common(1):
        if count > 1:
            text += (
                f"; {count} of {len(outcomes)} failed in the same unexpected way ({fault}), which points to a bug "
                f"in milsurv or a plugin, or a broken installation; see the traceback in {EVENTS} next to the features"
            )
    return text


def training_case(case: Case, source: FeatureSource) -> TrainingCase:
    """The case with its slides' feature files."""
    slides = tuple((slide.slide_id, source.path(slide.slide_id)) for slide in case.slides)
    return TrainingCase(case.case_id, case.time, case.event, slides)
