"""The cohort of a run: read from its table, or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.locate import SlideFolder, without_duplicates
from milsurv.cohort.summaries import summarize_if_many
from milsurv.cohort.table import read_cohort
from milsurv.config.cohort import SyntheticCohort, TableCohort
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.executors.base import Unit
from milsurv.features.arranged import Arranged
from milsurv.features.patch_bank import make_bank
from milsurv.features.source import FeatureSource
from milsurv.runs.inputs import make_features
from milsurv.runs.session import Session, advance
from milsurv.storage.atomic import fingerprint, write_text
from milsurv.synthetic.bank import GENERATOR_VERSION as SCENARIO_VERSION
from milsurv.synthetic.bank import draw_picture, picture_path
from milsurv.synthetic.cohort import GENERATOR_VERSION, draw, plan_cohort, slide_path
from milsurv.synthetic.scenarios import plan_scenario, write_arrangement


def prepare_cohort(session: Session, source: FeatureSource) -> Cohort:
    """Read the cohort's table and find its slides or their features; a synthetic cohort is drawn first."""
    table, progress = session.config.cohort, session.progress
    if isinstance(source, Arranged):
        table = _arrange(session, source)
    elif isinstance(table, SyntheticCohort):
        table = _draw_synthetic(session, table)
    cohort = cohort_of(session.config, table, source)
    for line in cohort.missing:
        progress.say(line)
    for warning in cohort.warnings:
        progress.warn(warning)
    for line in summarize_if_many(cohort.dropped, "rows or cases of the table are excluded, see the report"):
        progress.warn(line)
    return cohort


def cohort_of(
    config: RunConfig, table: TableCohort, source: FeatureSource, files: SlideFolder | None = None
) -> Cohort:
    """The run's cohort, read from ``table``; its slides are searched in ``files``, if given.

    Raises CohortError with all of its problems.
    """
    synthetic = config.cohort.synthetic
    cohort = read_cohort(
        table,
        files=source.index() or files,
        true_risk="true_risk" if synthetic else None,
        synthetic=synthetic,
        attributes=config.evaluation.columns,
    )
    return (
        cohort if synthetic else without_duplicates(cohort, source.content_keys, table.on_invalid == "drop")
    )


def synthetic_table(config: SyntheticCohort, workspace: Path) -> TableCohort:
    """Location of the table and slides of a synthetic cohort without a scenario."""
    content = {"cases": config.cases, "seed": config.seed, "generator": GENERATOR_VERSION}
    return _location(workspace, f"synthetic-{fingerprint(content)}")


def _location(workspace: Path, name: str) -> TableCohort:
    folder = workspace / "cohorts" / name
    return TableCohort(table=folder / "cohort.csv", slides=folder / "slides")


def _draw_synthetic(session: Session, config: SyntheticCohort) -> TableCohort:
    location = synthetic_table(config, session.config.workspace)
    assert location.slides is not None
    table, slides = plan_cohort(config.cases, config.seed)
    write_text(location.table, table.to_csv(index=False))
    paths = {slide_path(slide, location.slides): slide for slide in slides}
    units = [
        Unit(slide.slide_id, draw, {"slide": slide, "folder": location.slides}, path)
        for path, slide in paths.items()
    ]
    _draw(session, units)
    return location


def _draw(session: Session, units: Sequence[Unit]) -> None:
    """Draw the slides that do not exist yet."""
    todo = [unit for unit in units if unit.artifact is not None and not unit.artifact.exists()]
    with session.progress.stage("drawing slides", len(todo), "slides") as stage:
        session.executor.run(todo, partial(advance, stage, "drawn"))


def _arrange(session: Session, source: Arranged) -> TableCohort:
    """Make the bank and the slides of a scenario, unless they exist."""
    cohort = source.cohort
    assert cohort.scenario is not None
    if not source.bank.exists():
        _make_bank(session, source)
    content = [SCENARIO_VERSION, cohort.scenario, cohort.cases, cohort.seed, source.blocks]
    location = _location(session.config.workspace, f"{cohort.scenario}-{fingerprint(content)}")
    assert location.slides is not None
    if not location.table.exists():
        table, slides = plan_scenario(cohort.scenario, cohort.cases, cohort.seed, source.blocks)
        with session.progress.stage("arranging slides", len(slides), "slides") as stage:
            for slide in slides:
                write_arrangement(slide, location.slides)
                stage.advance()
        write_text(location.table, table.to_csv(index=False))
    return location


def _make_bank(session: Session, source: Arranged) -> None:
    folder = source.pictures_folder
    pictures = {picture.slide_id: picture for picture in source.pictures}
    paths = {name: picture_path(picture, folder) for name, picture in pictures.items()}
    units = [
        Unit(name, draw_picture, {"picture": picture, "folder": folder}, paths[name])
        for name, picture in pictures.items()
    ]
    _draw(session, units)
    outcomes = make_features(
        session, source.extraction, [SlideRef(name, path) for name, path in paths.items()]
    )
    excluded = [
        f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if outcome.reason is not None
    ]
    if excluded:
        raise MilsurvError(f"{len(excluded)} pictures of the bank cannot be used: {excluded[0]}")
    files = {name: source.extraction.path(name) for name in pictures}
    arguments = {"files": files, "path": source.bank, "settings": source.content}
    session.executor.run([Unit("the bank of patches", make_bank, arguments, source.bank)], lambda *_: None)
