"""The slides to predict, with their resolution and case from a table or the command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from milsurv.cohort.cases import SlideRef, parse_mpp
from milsurv.cohort.ids import IdError, extract_id, extract_slide_id, shorten
from milsurv.cohort.locate import SlideFolder, index_slides
from milsurv.cohort.multi_file import group_files
from milsurv.cohort.text_table import Row, TextTable, read_text_table
from milsurv.errors import MilsurvError
from milsurv.models.trained import TrainedModel
from milsurv.progress import RunProgress


@dataclass(frozen=True)
class NewSlide:
    """A slide to predict, and its case if a table names it."""

    slide: SlideRef
    case_id: str | None = None


def find_new_slides(
    trained: TrainedModel,
    paths: Sequence[Path],
    progress: RunProgress,
    mpp: float | None = None,
    table: Path | None = None,
) -> list[NewSlide]:
    """The slides in ``paths``, files or folders, in their order.

    Their µm/px come from ``table``, else from ``mpp``, else, for slides of the run, from its own table. Raises
    MilsurvError when there is no slide, when two have the same id, or when the table cannot be used.
    """
    slides = [trained.slide(file) for file in _files(paths, progress)]
    by_id: dict[str, Path | None] = {}
    for slide in slides:
        if slide.slide_id in by_id:
            raise MilsurvError(
                f"{slide.path}: has the same slide id, {slide.slide_id}, as {by_id[slide.slide_id]}; predict them "
                "one after the other, or rename one"
            )
        by_id[slide.slide_id] = slide.path
    if not slides:
        raise MilsurvError(f"{', '.join(map(str, paths))}: no slide files")
    given = {} if table is None else _read(trained, table)
    if table is not None:
        _check_table(table, given, by_id, progress)
    found = []
    for slide in slides:
        table_mpp, case_id = given.get(slide.slide_id, (None, None))
        known = next((value for value in (table_mpp, mpp, slide.mpp) if value is not None), None)
        found.append(NewSlide(replace(slide, mpp=known), case_id))
    _warn_of_resolution(trained, found, progress)
    return found


def _files(paths: Sequence[Path], progress: RunProgress) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        index = index_slides(path) if path.is_dir() else SlideFolder(path, (path,))
        files += index.files
        for line in index.unreadable:
            progress.warn(line)
    return list(group_files(files).files)


def _check_table(table: Path, rows: Collection[str], slides: Collection[str], progress: RunProgress) -> None:
    """Warn of slides without a row, and of rows without a slide."""
    if missing := [slide_id for slide_id in slides if slide_id not in rows]:
        progress.warn(f"{len(missing)} of {len(slides)} slides have no row in {table}: {shorten(missing)}")
    if others := [slide_id for slide_id in rows if slide_id not in slides]:
        progress.warn(f"{len(others)} rows of {table} match no slide: {shorten(others)}")


def _warn_of_resolution(trained: TrainedModel, slides: Sequence[NewSlide], progress: RunProgress) -> None:
    cohort = trained.config.cohort
    if cohort.columns.mpp and any(new.slide.mpp is None for new in slides):
        progress.warn(
            f"training took µm/px from column {cohort.columns.mpp!r} of its table; for new slides it is read from the "
            "files, which may differ: give it with --mpp VALUE or --table FILE"
        )


def _read(trained: TrainedModel, path: Path) -> dict[str, tuple[float | None, str | None]]:
    """Slide id -> its µm/px and case; None for an empty cell or a missing column."""
    columns = trained.config.cohort.columns
    slide, mpp = columns.slide or "slide_id", columns.mpp or "mpp"
    table = read_text_table(path)
    if slide not in table.columns or not {mpp, columns.case} & {*table.columns}:
        raise MilsurvError(
            f"--table {path}: needs columns {slide!r}, and {mpp!r} or {columns.case!r} or both; it has: "
            f"{table.column_list()}"
        )
    found: dict[str, tuple[float | None, str | None]] = {}
    for row in table.rows:
        slide_id, of_slide = _values(trained, table, row, (slide, mpp, columns.case))
        if found.setdefault(slide_id, of_slide) != of_slide:
            raise MilsurvError(
                f"--table {path}: row {row.number}: another row has different values for slide {slide_id}"
            )
    return found


def _values(
    trained: TrainedModel, table: TextTable, row: Row, columns: tuple[str, str, str]
) -> tuple[str, tuple[float | None, str | None]]:
    cohort = trained.config.cohort
    slide, mpp, case = (row.cells.get(column, "") for column in columns)
    try:
        if row.flaw is not None:
            raise ValueError(row.flaw)
        case_id = extract_id(case, cohort.case_pattern, "case_pattern") if case else None
        return extract_slide_id(slide, cohort.slide_pattern), (parse_mpp(mpp), case_id)
    except (IdError, ValueError) as error:
        raise MilsurvError(f"--table {table.path}: row {row.number}: {error}; correct it") from error
