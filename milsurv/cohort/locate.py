"""Finding the files of slides in a folder, and the slide or case that each belongs to."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.ids import (
    FEATURE_SUFFIXES,
    SLIDE_SUFFIXES,
    IdError,
    extract_id,
    extract_slide_id,
    first_few,
    group_similar,
    shorten,
)
from milsurv.cohort.multi_file import CHANNEL_LISTS, group_files
from milsurv.errors import CohortError, SlideError

MAX_PROBLEMS = 10
"""Problems that are listed; the rest are counted."""
ContentKeys = Sequence[Callable[[Path], Hashable]]
"""Functions of a file that are equal for files of equal content, from the fastest to the most certain."""


@dataclass(frozen=True)
class SlideFolder:
    """The slide files in a folder and its subfolders, sorted by path."""

    folder: Path
    files: tuple[Path, ...]
    unreadable: tuple[str, ...] = ()
    """A line for each subfolder that could not be listed, and each name that is not UTF-8."""
    setting: str = "cohort.slides"
    """The setting with the folder."""
    other_names: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)
    """File -> other names of a slide that consists of several files."""
    suffixes: tuple[str, ...] = FEATURE_SUFFIXES
    """Suffixes of files that represent slides, such as feature files."""


@dataclass(frozen=True)
class Located:
    """Slides by the id that was searched, and the problems found."""

    slides: dict[str, tuple[SlideRef, ...]]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def index_slides(folder: Path, suffixes: tuple[str, ...] = SLIDE_SUFFIXES) -> SlideFolder:
    """List the slide files, or files with other ``suffixes``, in ``folder`` and its subfolders.

    Hidden files and folders are skipped, links to folders are followed, and each folder is visited once. Names that
    are not UTF-8 cannot be in any table, and are skipped. One file is listed for a slide that consists of several (a
    DICOM series, a CZI in parts). Raises `CohortError` if the folder does not exist.
    """
    if not folder.is_dir():
        raise CohortError([f"{folder}: folder not found; cohort.slides must be the folder with the slides"])
    files: list[Path] = []
    channel_lists: list[Path] = []
    errors: list[OSError] = []
    not_utf8: list[str] = []
    visited = {folder.resolve()}

    def visit(path: Path) -> bool:
        real = path.resolve()
        new = real not in visited
        visited.add(real)
        return new

    def is_utf8(path: Path) -> bool:
        shown = str(path).encode(errors="backslashreplace").decode()
        if shown == str(path):
            return True
        not_utf8.append(f"{shown}: skipped (its name is not UTF-8; rename it)")
        return False

    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and is_utf8(Path(parent, name)) and visit(Path(parent, name))
        ]
        slides = [name for name in names if name.lower().endswith(suffixes)]
        paths = [Path(parent, name) for name in slides if not name.startswith(".")]
        files += [path for path in paths if is_utf8(path)]
        channel_lists += [Path(parent, name) for name in names if name.lower().endswith((*CHANNEL_LISTS,))]
    unreadable = [f"{error.filename}: folder skipped ({error.strerror})" for error in errors]
    grouped = group_files(sorted(files), sorted(channel_lists))
    return SlideFolder(
        folder, grouped.files, (*unreadable, *not_utf8, *grouped.notes), other_names=grouped.other_names
    )


def locate_by_slide(index: SlideFolder, slide_ids: Sequence[str], slide_pattern: str | None) -> Located:
    """The file of each slide id. A slide with no file, or with several, has a reason instead."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in index.files:
        with suppress(IdError):  # reported below as a file of no case
            files[extract_slide_id(file.name, slide_pattern, index.suffixes)].append(file)
    wanted = list(dict.fromkeys(slide_ids))
    repeated = _find_by_other_names(index, wanted, files, slide_pattern)
    absent = [slide_id for slide_id in wanted if slide_id not in files and slide_id not in repeated]
    slides: dict[str, tuple[SlideRef, ...]] = {
        slide_id: (repeated.get(slide_id) or _slide(slide_id, files.get(slide_id, ()), index),)
        for slide_id in wanted
    }
    used = {file for slide_id in wanted for file in files.get(slide_id, ())}
    warnings = [
        *_check_absent(absent, wanted, index),
        *_check_similar(absent, files),
        *(_check_unused(used, index) if used else ()),
        *index.unreadable,
    ]
    return Located(slides, (), tuple(warnings))


def _find_by_other_names(
    index: SlideFolder, wanted: Sequence[str], files: dict[str, list[Path]], slide_pattern: str | None
) -> dict[str, SlideRef]:
    """Add to ``files`` the multi-file slides that are wanted by another name; repeated ones are returned."""
    others: dict[str, list[Path]] = defaultdict(list)
    for file, names in index.other_names.items():
        for name in names:
            with suppress(IdError):
                others[extract_slide_id(name, slide_pattern)].append(file)
    named = {file: slide_id for slide_id in wanted for file in files.get(slide_id, ())}
    repeated = {}
    for slide_id in wanted:
        for file in others[slide_id] if slide_id in others and slide_id not in files else ():
            if file in named:
                reason = f"it is the same DICOM series as slide {named[file]}, which is used once"
                repeated[slide_id] = SlideRef(slide_id, None, reason=reason)
            else:
                named[file] = slide_id
                files[slide_id].append(file)
    return repeated


def locate_by_case(
    index: SlideFolder, case_ids: Sequence[str], case_pattern: str, slide_pattern: str | None
) -> Located:
    """All files from whose name ``case_pattern`` extracts the id of a case. A case may have none."""
    slide_ids: dict[str, list[str]] = {case_id: [] for case_id in case_ids}
    files: dict[str, list[Path]] = defaultdict(list)
    problems = []
    for file in index.files:
        case_id = _case_of([file.name, *index.other_names.get(file, ())], case_pattern, slide_ids)
        if case_id is None:
            continue  # reported below as a file of no case
        try:
            slide_id = extract_slide_id(file.name, slide_pattern, index.suffixes)
        except IdError as error:
            problems.append(f"{file}: {error}; correct the pattern, or rename the file")
            continue
        slide_ids[case_id].append(slide_id)
        files[slide_id].append(file)
    warnings = list(_check_unused({file for same in files.values() for file in same}, index))
    if absent := [case_id for case_id, found in slide_ids.items() if not found]:
        warnings.insert(
            0,
            f"{len(absent)} of {len(slide_ids)} cases have no slide file in {index.folder}: {shorten(absent)}",
        )
    slides = {
        case_id: tuple(_slide(slide_id, files[slide_id], index) for slide_id in dict.fromkeys(found))
        for case_id, found in slide_ids.items()
    }
    return Located(slides, tuple(problems), (*warnings, *index.unreadable))


def _case_of(names: Iterable[str], case_pattern: str, case_ids: Collection[str]) -> str | None:
    """The first id of a case in the names of a slide."""
    for name in names:
        with suppress(IdError):
            case_id = extract_id(name, case_pattern, "case_pattern")
            if case_id in case_ids:
                return case_id
    return None


def _slide(slide_id: str, files: Sequence[Path], index: SlideFolder) -> SlideRef:
    if len(files) == 1:
        return SlideRef(slide_id, files[0])
    if not files:
        return SlideRef(slide_id, None, reason=f"no file for this slide in {index.folder}")
    reason = (
        f"{len(files)} files with this id in {index.folder}: {shorten(_names(files, index))}; one is allowed: move "
        "the others, or set cohort.slide_pattern so that their ids differ"
    )
    return SlideRef(slide_id, None, reason=reason)


def _check_absent(absent: Sequence[str], wanted: Sequence[str], index: SlideFolder) -> list[str]:
    if not absent:
        return []
    if len(absent) < len(wanted):
        return [f"{len(absent)} of {len(wanted)} slides have no file in {index.folder}: {shorten(absent)}"]
    there = (
        f"the files there are {shorten(_names(index.files, index), 1)}"
        if index.files
        else "it contains no slide file"
    )
    return [
        f"none of the {len(wanted)} slides has a file in {index.folder}: searched for {shorten(absent, 1)}; "
        f"{there}; correct {index.setting}, or extract the ids with cohort.slide_pattern"
    ]


def _check_similar(absent: Sequence[str], found: Iterable[str]) -> list[str]:
    """A warning if ids without a file differ from ids ``found`` among the files only in how they are written."""
    files = group_similar(found)
    pairs = [
        f"{name!r} and {files[key][0]!r}"
        for key, names in group_similar(absent).items()
        if key in files
        for name in names
    ]
    if not pairs:
        return []
    return [
        f"{len(pairs)} ids of the table differ from a file's only in case, spaces or leading zeros "
        f"({shorten(pairs)}); write them as in the file names"
    ]


def _check_unused(used: set[Path], index: SlideFolder) -> list[str]:
    unused = [file for file in index.files if file not in used]
    if not unused:
        return []
    files = "slide file does not" if len(unused) == 1 else "slide files do not"
    return [
        f"{len(unused)} {files} belong to any case of the cohort, in {index.folder}: {shorten(_names(unused, index))}"
    ]


def _names(files: Iterable[Path], index: SlideFolder) -> list[str]:
    return [file.relative_to(index.folder).as_posix() for file in files]


def without_duplicates(cohort: Cohort, keys: ContentKeys, dropping: bool) -> Cohort:
    """The cohort with each slide content used once, so that no content is on both sides of a split.

    Of a case's slides with the same content, the first is used. The same content under several cases raises
    `CohortError` or, if ``dropping``, is excluded from all of these cases, since it cannot belong to all of them.
    """
    case_of = {slide.slide_id: case.case_id for case in cohort.cases for slide in case.slides}
    slides = {slide.slide_id: slide for case in cohort.cases for slide in case.slides}
    reasons: dict[str, str] = {}
    shared = []
    for copies in _group_by_content(list(slides.values()), keys):
        if len({case_of[slide_id] for slide_id in copies}) > 1:
            shared.append(", ".join(f"{slide_id} (case {case_of[slide_id]})" for slide_id in copies))
            reasons |= dict.fromkeys(copies, f"the same content under several cases: {shared[-1]}")
        else:
            reasons |= dict.fromkeys(
                copies[1:], f"the same content as slide {copies[0]} of its case, used once"
            )
    if shared and not dropping:
        problems = [
            f"slides with the same content under several cases: {slides}; remove the wrong rows or files, use one case "
            "id for one patient, or exclude all of them with cohort.on_invalid: drop"
            for slides in shared
        ]
        raise CohortError(first_few(problems, MAX_PROBLEMS, "contents"))
    if not reasons:
        return cohort
    kept = tuple(
        replace(
            case,
            slides=tuple(
                replace(slide, path=None, reason=reasons[slide.slide_id])
                if slide.slide_id in reasons
                else slide
                for slide in case.slides
            ),
        )
        for case in cohort.cases
    )
    warning = (
        f"{len(reasons)} slides are excluded because they have the same content as another ({shorten(sorted(reasons))})"
        + (f"; {len(shared)} contents are listed under several cases" if shared else "")
    )
    return replace(cohort, cases=kept, warnings=(*cohort.warnings, warning))


def _group_by_content(slides: Sequence[SlideRef], keys: ContentKeys) -> list[list[str]]:
    """Ids of slides whose files agree in all ``keys``, two or more each, in the order of ``slides``.

    Files that cannot be read are in no group; they are reported when they are opened.
    """
    groups = [[(slide.slide_id, slide.path) for slide in slides if slide.path is not None]]
    for key in keys:
        finer = []
        for group in groups:
            by_content = defaultdict(list)
            for slide_id, path in group:
                with suppress(SlideError, OSError):
                    by_content[key(path)].append((slide_id, path))
            finer += [same for same in by_content.values() if len(same) > 1]
        groups = finer
    return [[slide_id for slide_id, _ in group] for group in groups]
