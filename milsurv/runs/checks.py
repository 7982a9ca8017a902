"""Everything that can be known before a run starts: the run's own stages with a sample of the slides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.locate import SlideFolder
from milsurv.cohort.summaries import summarize_if_many
from milsurv.config.cohort import SyntheticCohort, TableCohort
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError, ProblemsError, size
from milsurv.features.extract import ExtractedSlide, ExtractionSettings, load_encoder
from milsurv.features.room import free_bytes, nearest_folder
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress
from milsurv.runs.folder import FeatureSettings, RunContent, RunFolder
from milsurv.runs.planning import Plan, cohort_of, feature_settings, fold_jobs, plan_folds
from milsurv.runs.sample import Sample, look_at
from milsurv.runs.session import Session, open_session
from milsurv.storage.atomic import write_text
from milsurv.synthetic.cohort import plan_cohort, slide_path, write_slide
from milsurv.training.data import TrainingCase
from milsurv.training.loop import fit_loss, rehearse

T = TypeVar("T")

BYTES_OF_SYNTHETIC_SLIDE = 2**21
LARGE_WEIGHTS = 5 * 10**8
"""Bytes of a weights file beyond which a check does not load it."""
EMBEDDED_PATCHES = 4


@dataclass
class Findings:
    """What a check found, a line each."""

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_run(config: RunConfig, registry: Registry, only_fold: int | None = None) -> Findings:
    """Check a run whose configuration and plugins are valid, by all that it does before the first epoch."""
    findings = Findings()
    _check_workspace(config.workspace, findings)
    progress = RunProgress(quiet=True)
    with ExitStack() as stack:
        session = _collect(findings, lambda: stack.enter_context(open_session(config, registry, progress)))
        if session is None:  # everything else can be checked without the device
            on_cpu = config.model_copy(update={"device": "cpu"})
            session = stack.enter_context(open_session(on_cpu, registry, progress))
        _check_stages(session, findings, only_fold)
    return findings


def _check_stages(session: Session, findings: Findings, only_fold: int | None) -> None:
    config = session.config
    settings = _collect(findings, lambda: feature_settings(session))
    if settings is None:
        return
    with tempfile.TemporaryDirectory(prefix="milsurv-check-") as scratch:
        folder = Path(scratch)
        cohort = _collect(findings, lambda: _read_cohort(config, settings, folder, findings))
        if cohort is None:
            return
        sample = _collect(findings, lambda: _look_at(session, cohort, settings, folder))
        if sample is None:
            return
        _tell_slides(config, sample, findings)
        if isinstance(settings, ExtractionSettings) and sample.new:
            findings.warnings += settings.warnings((), session.registry)
            _collect(findings, lambda: _check_weights(session, settings, sample, findings))
        plan = _collect(findings, lambda: plan_folds(cohort, sample.outcomes, config, only_fold))
        if plan is None:
            return
        findings.facts.append(
            f"{len(plan.splits)} folds of the {len(plan.usable.cases)} cases with {_what(config)[1]}"
        )
        findings.warnings += plan.warnings
        if sample.files:
            content = RunContent(
                session, settings, cohort, plan.usable, sample.outcomes, plan.splits, plan.warnings
            )
            _collect(findings, lambda: _rehearse(content, plan, sample, folder, only_fold))


def _read_cohort(config: RunConfig, settings: FeatureSettings, folder: Path, findings: Findings) -> Cohort:
    table, files = config.cohort, None
    if isinstance(table, SyntheticCohort):
        findings.facts.append(f"a synthetic cohort of {table.cases} cases, seed {table.seed}")
        needed = table.cases * BYTES_OF_SYNTHETIC_SLIDE
        _check_disk(config.workspace, needed, "the synthetic slides", findings)
        made, slides = plan_cohort(table.cases, table.seed)
        table = TableCohort(table=folder / "cohort.csv")
        write_text(table.table, made.to_csv(index=False))
        files = SlideFolder(folder, tuple(slide_path(slide, folder) for slide in slides))
    cohort = cohort_of(config, table, settings, files)
    dropped = summarize_if_many(
        cohort.dropped, "rows or cases of the table are left out, which a run's report lists"
    )
    findings.warnings += [*cohort.warnings, *dropped]
    events = sum(case.event for case in cohort.cases)
    findings.facts.append(
        f"{len(cohort.cases)} cases, {events} events, {len(_slides(cohort))} slides in the table"
    )
    findings.facts += cohort.missing
    return cohort


def _slides(cohort: Cohort) -> list[SlideRef]:
    return [slide for case in cohort.cases for slide in case.slides]


def _look_at(session: Session, cohort: Cohort, settings: FeatureSettings, folder: Path) -> Sample:
    slides, config, registry = _slides(cohort), session.config, session.registry
    if not isinstance(config.cohort, SyntheticCohort):
        return look_at(slides, settings, registry, folder)
    _, drawn = plan_cohort(config.cohort.cases, config.cohort.seed)
    write_slide(drawn[0], folder)
    sample = look_at(slides[:1], settings, registry, folder)
    reason = sample.outcomes[slides[0].slide_id].reason
    outcomes = {slide.slide_id: ExtractedSlide(slide.slide_id, {}, reason=reason) for slide in slides}
    return replace(sample, outcomes=outcomes, bytes=sample.bytes * len(slides))


def _what(config: RunConfig) -> tuple[str, str, str]:
    """What is said of slides that can be used, of a case with one, and of the disk space that features take."""
    if config.features is not None:
        return "have features at every magnification", "a slide that has features", "the imported features"
    return "open, or have features already", "a slide that opens", "features, were all of each slide tissue,"


def _tell_slides(config: RunConfig, sample: Sample, findings: Findings) -> None:
    outcomes = sample.outcomes.values()
    doubts = [f"slide {of.slide_id}: {doubt}" for of in outcomes for doubt in of.doubts]
    left_out = [
        f"slide {of.slide_id} will be left out: {of.reason}" for of in outcomes if of.reason is not None
    ]
    findings.warnings += [
        *summarize_if_many(doubts, "doubts about slides"),
        *summarize_if_many(left_out, "slides will be left out"),
    ]
    findings.facts.append(f"{len(outcomes) - len(left_out)} slides {_what(config)[0]}")
    _check_disk(config.workspace, int(sample.bytes), _what(config)[2], findings)


def _check_weights(
    session: Session, settings: ExtractionSettings, sample: Sample, findings: Findings
) -> None:
    """Look for the backbone's weights; those that are here and not too large embed some patches."""
    section = settings.config.extracting_backbone
    found = session.registry.create("backbone", section).find_weights()
    if found.note is not None:
        findings.warnings.append(found.note)
    if found.file is None:
        return
    count = found.file.stat().st_size
    if count > LARGE_WEIGHTS:
        findings.facts.append(f"the weights of {section.name} are here ({size(count)}), and were not loaded")
    elif sample.patches is not None:
        patches, finest = sample.patches[:EMBEDDED_PATCHES], max(settings.config.tiling.magnifications)
        coords = {finest: np.zeros((len(patches), 2), np.int64)}
        with session.context() as context:
            encoder = load_encoder(context, settings)
            with encoder.slide("a sampled slide", coords, settings.config.extraction.dtype) as slide:
                encoder.put(slide, finest, np.arange(len(patches)), patches)


def _rehearse(content: RunContent, plan: Plan, sample: Sample, folder: Path, only_fold: int | None) -> None:
    """Fit the loss of every fold, and train one of them for a step, on the sampled slides' features in place of all."""
    cases = [
        TrainingCase(
            case.case_id,
            case.time,
            case.event,
            tuple((slide.slide_id, sample.files[at % len(sample.files)]) for slide in case.slides),
        )
        for at, case in enumerate(plan.usable.cases)
    ]
    jobs = fold_jobs(content, cases, RunFolder(folder), plan.times)
    jobs = [job for job in jobs if only_fold in (None, job.fold)]
    for job in jobs:
        fit_loss(job, content.session.registry)
    with content.session.context() as context:
        rehearse(context, jobs[0])


def _check_workspace(workspace: Path, findings: Findings) -> None:
    there = nearest_folder(workspace)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        findings.problems.append(f"workspace {workspace} cannot be written: {error.strerror} at {there}")


def _check_disk(workspace: Path, needed: int, what: str, findings: Findings) -> None:
    there, free = nearest_folder(workspace), free_bytes(workspace)
    line = f"{what} take at most {size(needed)}; {size(free)} are free in {there}"
    if needed > free:
        findings.warnings.append(line)
    else:
        findings.facts.append(line)


def _collect(findings: Findings, question: Callable[[], T]) -> T | None:
    """The answer, or None with its problems among the findings."""
    try:
        return question()
    except ProblemsError as error:
        findings.problems += error.problems
    except MilsurvError as error:
        findings.problems.append(str(error))
    return None
