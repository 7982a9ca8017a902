"""Everything that can be known before a run starts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.reasons import few_lines
from milsurv.cohort.splits import make_splits
from milsurv.cohort.table import read_cohort
from milsurv.config import RunConfig, TableCohort
from milsurv.errors import MilsurvError, ProblemsError, SlideError, size
from milsurv.executors.devices import choose_device
from milsurv.features.extract import ExtractionSettings
from milsurv.features.importing import ImportSettings
from milsurv.features.room import bytes_of_patch, free_bytes, most_patches, nearest_folder, open_referred
from milsurv.leakage import without_copies
from milsurv.pipeline import feature_settings, require_columns
from milsurv.plugin.registry import Registry
from milsurv.run_folder import FeatureSettings

T = TypeVar("T")

BYTES_OF_SYNTHETIC_SLIDE = 2**21


@dataclass
class Findings:
    """What a check found, a line each."""

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_run(config: RunConfig, registry: Registry) -> Findings:
    """Check a run whose configuration and plugins are valid."""
    findings = Findings()
    _collect(findings, lambda: choose_device(config.device))
    settings = _collect(findings, lambda: feature_settings(config, registry))
    _check_workspace(config.workspace, findings)
    if config.backbone is not None and config.backbone.settings.get("weights"):
        backbone = registry.create("backbone", config.backbone)
        _collect(findings, lambda: backbone.load(torch.device("cpu"), torch.float32))
    if not isinstance(config.cohort, TableCohort):
        needed = config.cohort.cases * BYTES_OF_SYNTHETIC_SLIDE
        _check_disk(config.workspace, needed, "the synthetic slides", findings)
        findings.facts.append(f"a synthetic cohort of {config.cohort.cases} cases, seed {config.cohort.seed}")
    elif isinstance(settings, ExtractionSettings):
        findings.warnings += settings.warnings((), registry)
        _check_cohort(
            config, config.cohort, settings, partial(_extracted_bytes, settings, registry, findings), findings
        )
    elif isinstance(settings, ImportSettings):
        _check_cohort(config, config.cohort, settings, partial(_imported_bytes, settings), findings)
    return findings


def _check_cohort(
    config: RunConfig,
    table: TableCohort,
    settings: FeatureSettings,
    bytes_of: Callable[[SlideRef], float],
    findings: Findings,
) -> None:
    files = settings.source.index() if isinstance(settings, ImportSettings) else None

    def read() -> Cohort:
        cohort = read_cohort(table, files=files, attributes=config.evaluation.columns)
        return without_copies(cohort, settings.likeness, table.on_invalid == "drop")

    cohort = _collect(findings, read)
    if cohort is None:
        return
    dropped = few_lines(cohort.dropped, "rows or cases of the table are left out, which a run's report lists")
    findings.warnings += [*cohort.warnings, *dropped]
    slides = [slide for case in cohort.cases for slide in case.slides]
    events = sum(case.event for case in cohort.cases)
    findings.facts.append(f"{len(cohort.cases)} cases, {events} events, {len(slides)} slides in the table")
    findings.facts += cohort.missing
    usable = _check_slides(config, cohort, bytes_of, findings)
    if not usable.cases:
        findings.problems.append("no slide can be used; see the warnings")
        return
    _collect(findings, lambda: require_columns(usable, config.evaluation))
    split = _collect(findings, lambda: make_splits(usable, config.splits, table.case_pattern))
    if split is not None:
        splits, warnings = split
        findings.facts.append(f"{len(splits)} folds of the {len(usable.cases)} cases with {_what(config)[1]}")
        findings.warnings += warnings


def _what(config: RunConfig) -> tuple[str, str, str]:
    """What is said of slides that can be used, of a case with one, and of the disk space that features take."""
    if config.features is not None:
        return "have features at every magnification", "a slide that has features", "the imported features"
    return "open, or have features already", "a slide that opens", "features, were all of each slide tissue,"


def _check_slides(
    config: RunConfig, cohort: Cohort, bytes_of: Callable[[SlideRef], float], findings: Findings
) -> Cohort:
    """The cases with a slide that can be used; ``bytes_of`` raises SlideError for the others."""
    usable, opened, needed = [], 0, 0.0
    left_out: list[str] = []
    before = len(findings.warnings)
    for case in cohort.cases:
        opened_before = opened
        for slide in case.slides:
            try:
                needed += bytes_of(slide)
                opened += 1
            except SlideError as error:
                left_out.append(f"slide {slide.slide_id} will be left out: {error}")
        if opened > opened_before:
            usable.append(case)
    doubts = few_lines(findings.warnings[before:], "doubts about slides")
    findings.warnings[before:] = [*doubts, *few_lines(left_out, "slides will be left out")]
    findings.facts.append(f"{opened} slides {_what(config)[0]}")
    _check_disk(config.workspace, int(needed), _what(config)[2], findings)
    return replace(cohort, cases=tuple(usable))


def _extracted_bytes(
    settings: ExtractionSettings, registry: Registry, findings: Findings, slide: SlideRef
) -> float:
    """Room that a slide's features still take if all of it is tissue. Raises SlideError when it is of no use."""
    if settings.done_before(slide):
        return 0.0
    with open_referred(settings.config, registry, slide) as opened:
        findings.warnings += [f"slide {slide.slide_id}: {doubt}" for doubt in opened.doubts]
        each = bytes_of_patch(settings.dim, settings.config.extraction.dtype)
        return most_patches(settings.config, opened) * each


def _imported_bytes(settings: ImportSettings, slide: SlideRef) -> float:
    """Size of a slide's features as they are. Raises SlideError when it lacks a magnification."""
    if slide.path is None:
        raise SlideError(slide.reason or "no file")
    return float(sum(file.stat().st_size for file in settings.files(slide.path).values()))


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
