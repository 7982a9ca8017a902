"""Find the files of slides in a folder, and say which slide or case each belongs to."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from milsurv.cohort.cases import SlideRef
from milsurv.cohort.ids import SLIDE_SUFFIXES, IdError, cut_id, cut_slide_id, some
from milsurv.errors import CohortError


@dataclass(frozen=True)
class SlideFolder:
    """The slide files in a folder and below it, in order of their paths."""

    folder: Path
    files: tuple[Path, ...]
    unreadable: tuple[str, ...] = ()
    """A line for each folder below that could not be listed."""
    setting: str = "cohort.slides"
    """What names the folder in the configuration."""


@dataclass(frozen=True)
class Located:
    """Slides by the id that they were looked for with, and what was odd on the way."""

    slides: dict[str, tuple[SlideRef, ...]]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def index_slides(folder: Path, suffixes: tuple[str, ...] = SLIDE_SUFFIXES) -> SlideFolder:
    """List the slide files, or those with other ``suffixes``, in ``folder`` and below, once.

    Hidden files and folders are skipped, links to folders followed, and each folder is entered once. Raises
    `CohortError` when there is no such folder.
    """
    if not folder.is_dir():
        raise CohortError(
            [f"{folder}: there is no such folder; cohort.slides must be the folder with the slides"]
        )
    files: list[Path] = []
    errors: list[OSError] = []
    entered = {folder.resolve()}

    def enter(path: Path) -> bool:
        real = path.resolve()
        new = real not in entered
        entered.add(real)
        return new

    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        folders[:] = [
            name for name in sorted(folders) if not name.startswith(".") and enter(Path(parent, name))
        ]
        files += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(suffixes)
        ]
    unreadable = tuple(f"{error.filename}: folder passed over ({error.strerror})" for error in errors)
    return SlideFolder(folder, tuple(sorted(files)), unreadable)


def locate_by_slide(index: SlideFolder, slide_ids: Sequence[str], slide_pattern: str | None) -> Located:
    """The file of each slide id; a slide without one has a reason instead, one with two is a problem."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in index.files:
        try:
            files[cut_slide_id(file.name, slide_pattern)].append(file)
        except IdError:
            continue  # counted below among the files of no case
    wanted = list(dict.fromkeys(slide_ids))
    lacking = [slide_id for slide_id in wanted if slide_id not in files]
    slides: dict[str, tuple[SlideRef, ...]] = {
        slide_id: (SlideRef(slide_id, files[slide_id][0]),)
        if slide_id in files
        else (SlideRef(slide_id, None, reason=f"no file for this slide in {index.folder}"),)
        for slide_id in wanted
    }
    problems = _two_files({slide_id: files[slide_id] for slide_id in wanted if slide_id in files}, index)
    used = {file for slide_id in wanted for file in files.get(slide_id, ())}
    warnings = [*_lacking(lacking, wanted, index), *(_unused(used, index) if used else ()), *index.unreadable]
    return Located(slides, tuple(problems), tuple(warnings))


def locate_by_case(
    index: SlideFolder, case_ids: Sequence[str], case_pattern: str, slide_pattern: str | None
) -> Located:
    """All files whose name ``case_pattern`` cuts to a case's id; a case may have none."""
    slides: dict[str, list[SlideRef]] = {case_id: [] for case_id in case_ids}
    files: dict[str, list[Path]] = defaultdict(list)
    problems = []
    for file in index.files:
        try:
            case_id = cut_id(file.name, case_pattern, "case_pattern")
        except IdError:
            continue  # counted below among the files of no case
        if case_id not in slides:
            continue
        try:
            slide_id = cut_slide_id(file.name, slide_pattern)
        except IdError as error:
            problems.append(f"{file}: {error}; correct the pattern, or rename the file")
            continue
        slides[case_id].append(SlideRef(slide_id, file))
        files[slide_id].append(file)
    problems += _two_files(files, index)
    used = {file for same in files.values() for file in same}
    lacking = [case_id for case_id, refs in slides.items() if not refs]
    warnings = list(_unused(used, index))
    if lacking:
        warnings.insert(
            0, f"{len(lacking)} of {len(slides)} cases have no slide file in {index.folder}: {some(lacking)}"
        )
    found = {case_id: tuple(refs) for case_id, refs in slides.items()}
    return Located(found, tuple(problems), (*warnings, *index.unreadable))


def _two_files(files: dict[str, list[Path]], index: SlideFolder) -> list[str]:
    return [
        f"{index.folder}: slide {slide_id} has {len(same)} files: {', '.join(_names(same, index))}; "
        "one is allowed; move the others away, or set cohort.slide_pattern so that their ids differ"
        for slide_id, same in files.items()
        if len(same) > 1
    ]


def _lacking(lacking: Sequence[str], wanted: Sequence[str], index: SlideFolder) -> list[str]:
    if not lacking:
        return []
    if len(lacking) < len(wanted):
        return [f"{len(lacking)} of {len(wanted)} slides have no file in {index.folder}: {some(lacking)}"]
    there = (
        f"the files there are {some(_names(index.files, index), 1)}"
        if index.files
        else "there is no slide file"
    )
    return [
        f"none of the {len(wanted)} slides has a file in {index.folder}: looked for {some(lacking, 1)}; "
        f"{there}; correct {index.setting}, or cut the ids out with cohort.slide_pattern"
    ]


def _unused(used: set[Path], index: SlideFolder) -> list[str]:
    unused = [file for file in index.files if file not in used]
    if not unused:
        return []
    files = "slide file belongs" if len(unused) == 1 else "slide files belong"
    return [
        f"{len(unused)} {files} to no case of the cohort in {index.folder}: {some(_names(unused, index))}"
    ]


def _names(files: Iterable[Path], index: SlideFolder) -> list[str]:
    return [file.relative_to(index.folder).as_posix() for file in files]
