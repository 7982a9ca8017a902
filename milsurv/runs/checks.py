"""Checks before a run starts: the run's own stages, with a sample of the slides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.locate import SlideFolder
from milsurv.cohort.summaries import summarize_if_many
from milsurv.config.cohort import SyntheticCohort, TableCohort
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError, ProblemsError, size
from milsurv.features.arranged import Arranged
from milsurv.features.disk_space import existing_parent, free_bytes
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.plugin.registry import Registry
from milsurv.progress import RunProgress
from milsurv.runs.cohorts import cohort_of
from milsurv.runs.folder import RunContent, RunFolder
from milsurv.runs.inputs import feature_source
from milsurv.runs.planning import fold_jobs, plan_run
from milsurv.runs.sample import Sample, sample_slides
from milsurv.runs.session import Session, open_session
from milsurv.storage.atomic import write_text
from milsurv.synthetic.cohort import plan_cohort, slide_path, write_slide
from milsurv.synthetic.scenarios import plan_scenario, write_arrangement
from milsurv.training.data import TrainingCase
from milsurv.training.loop import fit_loss, rehearse

T = TypeVar("T")

BYTES_OF_SYNTHETIC_SLIDE = 2**21


@dataclass
class Findings:
    """The results of a check, one line each."""

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_run(config: RunConfig, registry: Registry, only_fold: int | None = None) -> Findings:
    """Run all stages before the first epoch with a sample of the slides, without keeping any files."""
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
    source = _collect(findings, lambda: feature_source(session))
    if source is None:
        return
    with tempfile.TemporaryDirectory(prefix="milsurv-check-") as scratch:
        folder = Path(scratch)
        cohort = _collect(findings, lambda: _read_cohort(config, source, folder, findings))
        if cohort is None:
            return
        sample = _collect(findings, lambda: _sample(cohort, source, folder))
        if sample is None:
            return
        _report_slides(source, sample, findings)
        if sample.to_do:
            findings.warnings += source.warnings(())
            _collect(findings, lambda: _check_backbone(session, source, sample, findings))
        content = _collect(findings, lambda: plan_run(session, source, cohort, sample.outcomes, only_fold))
        if content is None:
            return
        findings.facts.append(
            f"{len(content.splits)} folds of the {len(content.usable.cases)} cases with a usable slide"
        )
        findings.warnings += content.warnings
        if sample.files:
            _collect(findings, lambda: _rehearse(content, sample, folder, only_fold))


def _read_cohort(config: RunConfig, source: FeatureSource, folder: Path, findings: Findings) -> Cohort:
    table, files = config.cohort, None
    if isinstance(table, SyntheticCohort):
        findings.facts.append(f"a cohort, {table}")
        table, files = _plan_synthetic(config.workspace, table, source, folder, findings)
    cohort = cohort_of(config, table, source, files)
    dropped = summarize_if_many(cohort.dropped, "rows or cases of the table are excluded, see a run's report")
    findings.warnings += [*cohort.warnings, *dropped]
    events = sum(case.event for case in cohort.cases)
    findings.facts.append(
        f"{len(cohort.cases)} cases, {events} events, {len(_slides(cohort))} slides in the table"
    )
    findings.facts += cohort.missing
    return cohort


def _plan_synthetic(
    workspace: Path, cohort: SyntheticCohort, source: FeatureSource, folder: Path, findings: Findings
) -> tuple[TableCohort, SlideFolder]:
    """The table of a synthetic cohort, written to ``folder``, and where in it its slides would be."""
    if isinstance(source, Arranged):
        assert cohort.scenario is not None
        drawn = 0 if source.bank.exists() else len(source.pictures)
        made, arranged = plan_scenario(cohort.scenario, cohort.cases, cohort.seed, source.blocks)
        paths = [write_arrangement(slide, folder) for slide in arranged]
    else:
        drawn = cohort.cases
        made, slides = plan_cohort(cohort.cases, cohort.seed)
        paths = [slide_path(slide, folder) for slide in slides]
    _check_disk(workspace, drawn * BYTES_OF_SYNTHETIC_SLIDE, "the drawn slides", findings)
    table = TableCohort(table=folder / "cohort.csv")
    write_text(table.table, made.to_csv(index=False))
    return table, SlideFolder(folder, tuple(paths))


def _slides(cohort: Cohort) -> list[SlideRef]:
    return [slide for case in cohort.cases for slide in case.slides]


def _sample(cohort: Cohort, source: FeatureSource, folder: Path) -> Sample:
    slides, config = _slides(cohort), source.config
    if not isinstance(config.cohort, SyntheticCohort) or isinstance(source, Arranged):
        return sample_slides(slides, source, folder)
    _, drawn = plan_cohort(config.cohort.cases, config.cohort.seed)
    write_slide(drawn[0], folder)
    sample = sample_slides(slides[:1], source, folder)
    reason = sample.outcomes[slides[0].slide_id].reason
    outcomes = {slide.slide_id: SlideOutcome(slide.slide_id, reason=reason) for slide in slides}
    return replace(sample, outcomes=outcomes, bytes=sample.bytes * len(slides))


def _report_slides(source: FeatureSource, sample: Sample, findings: Findings) -> None:
    outcomes = sample.outcomes.values()
    warnings = [f"slide {of.slide_id}: {warning}" for of in outcomes for warning in of.warnings]
    excluded = [
        f"slide {of.slide_id} will be excluded: {of.reason}" for of in outcomes if of.reason is not None
    ]
    findings.warnings += [
        *summarize_if_many(warnings, "warnings about slides"),
        *summarize_if_many(excluded, "slides will be excluded"),
    ]
    findings.facts.append(f"{len(outcomes) - len(excluded)} slides {source.usable}")
    _check_disk(source.config.workspace, int(sample.bytes), source.size_of, findings)


def _check_backbone(session: Session, source: FeatureSource, sample: Sample, findings: Findings) -> None:
    with session.context() as context:
        facts, warnings = source.check_backbone(context, sample.patches)
    findings.facts += facts
    findings.warnings += warnings


def _rehearse(content: RunContent, sample: Sample, folder: Path, only_fold: int | None) -> None:
    """Fit the loss of every fold, and train one fold for a step, with the sampled slides in place of all."""
    cases = [
        TrainingCase(
            case.case_id,
            case.time,
            case.event,
            tuple((slide.slide_id, sample.files[at % len(sample.files)]) for slide in case.slides),
        )
        for at, case in enumerate(content.usable.cases)
    ]
    jobs = fold_jobs(content, cases, RunFolder(folder))
    jobs = [job for job in jobs if only_fold in (None, job.fold)]
    for job in jobs:
        fit_loss(job, content.session.registry)
    with content.session.context() as context:
        rehearse(context, jobs[0])


def _check_workspace(workspace: Path, findings: Findings) -> None:
    parent = existing_parent(workspace)
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        findings.problems.append(f"workspace {workspace} cannot be written: {error.strerror} at {parent}")


def _check_disk(workspace: Path, needed: int, what: str, findings: Findings) -> None:
    free = free_bytes(workspace)
    line = f"{what} take at most {size(needed)}; {size(free)} are free in {existing_parent(workspace)}"
    if needed > free:
        findings.warnings.append(line)
    else:
        findings.facts.append(line)


def _collect(findings: Findings, stage: Callable[[], T]) -> T | None:
    """The result, or None with the problems added to the findings."""
    try:
        return stage()
    except ProblemsError as error:
        findings.problems += error.problems
    except MilsurvError as error:
        findings.problems.append(str(error))
    return None
