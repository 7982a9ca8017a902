"""Find the files of slides in a folder, and say which slide or case each belongs to."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from milsurv.cohort.cases import SlideRef
from milsurv.cohort.id_doubts import by_likeness
from milsurv.cohort.ids import SLIDE_SUFFIXES, IdError, extract_id, extract_slide_id, shorten
from milsurv.cohort.parts import SETS, group_files
from milsurv.errors import CohortError


@dataclass(frozen=True)
class SlideFolder:
    """The slide files in a folder and below it, in order of their paths."""

    folder: Path
    files: tuple[Path, ...]
    unreadable: tuple[str, ...] = ()
    """A line for each folder below that could not be listed, and each name that cannot be written down."""
    setting: str = "cohort.slides"
    """What names the folder in the configuration."""
    other_names: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)
    """File -> other names of a slide that consists of several files."""


@dataclass(frozen=True)
class Located:
    """Slides by the id that they were looked for with, and what was odd on the way."""

    slides: dict[str, tuple[SlideRef, ...]]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def index_slides(folder: Path, suffixes: tuple[str, ...] = SLIDE_SUFFIXES) -> SlideFolder:
    """List the slide files, or those with other ``suffixes``, in ``folder`` and below, once.

    Hidden files and folders are skipped, links to folders followed, and each folder is entered once. A name that is
    not UTF-8 could not stand in any table, and is passed over. Of a slide in several files (a DICOM series, a CZI in
    parts) one file is listed. Raises `CohortError` when there is no such folder.
    """
    if not folder.is_dir():
        raise CohortError(
            [f"{folder}: there is no such folder; cohort.slides must be the folder with the slides"]
        )
    files: list[Path] = []
    sets: list[Path] = []
    errors: list[OSError] = []
    unwritable: list[str] = []
    entered = {folder.resolve()}

    def enter(path: Path) -> bool:
        real = path.resolve()
        new = real not in entered
        entered.add(real)
        return new

    def writable(path: Path) -> bool:
        shown = str(path).encode(errors="backslashreplace").decode()
        if shown == str(path):
            return True
        unwritable.append(f"{shown}: passed over (its name is not UTF-8; rename it)")
        return False

    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and writable(Path(parent, name)) and enter(Path(parent, name))
        ]
        slides = [name for name in names if name.lower().endswith(suffixes)]
        paths = [Path(parent, name) for name in slides if not name.startswith(".")]
        files += [path for path in paths if writable(path)]
        sets += [Path(parent, name) for name in names if name.lower().endswith((*SETS,))]
    unreadable = [f"{error.filename}: folder passed over ({error.strerror})" for error in errors]
    grouped = group_files(sorted(files), sorted(sets))
    return SlideFolder(
        folder,
        grouped.files,
        (*unreadable, *unwritable, *grouped.notes),
        other_names=grouped.other_names,
    )


def locate_by_slide(index: SlideFolder, slide_ids: Sequence[str], slide_pattern: str | None) -> Located:
    """The file of each slide id; a slide without one, or with several, has a reason instead."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in index.files:
        try:
            files[extract_slide_id(file.name, slide_pattern)].append(file)
        except IdError:
            continue  # counted below among the files of no case
    wanted = list(dict.fromkeys(slide_ids))
    twice = _find_by_other_names(index, wanted, files, slide_pattern)
    lacking = [slide_id for slide_id in wanted if slide_id not in files and slide_id not in twice]
    slides = {slide_id: _slides([slide_id], files, index) for slide_id in wanted}
    slides |= {ref.slide_id: (ref,) for ref in twice.values()}
    used = {file for slide_id in wanted for file in files.get(slide_id, ())}
    warnings = [
        *_lacking(lacking, wanted, index),
        *_nearly(lacking, files),
        *(_unused(used, index) if used else ()),
        *index.unreadable,
    ]
    return Located(slides, (), tuple(warnings))


def _find_by_other_names(
    index: SlideFolder, wanted: Sequence[str], files: dict[str, list[Path]], slide_pattern: str | None
) -> dict[str, SlideRef]:
    """Add to ``files`` the slides of several files that go by another name; those named before have a reason."""
    others: dict[str, list[Path]] = defaultdict(list)
    for file, names in index.other_names.items():
        for name in names:
            with suppress(IdError):
                others[extract_slide_id(name, slide_pattern)].append(file)
    named = {file: slide_id for slide_id in wanted for file in files.get(slide_id, ())}
    twice = {}
    for slide_id in wanted:
        for file in others[slide_id] if slide_id in others and slide_id not in files else ():
            if file in named:
                reason = (
                    f"it is of the same DICOM series as slide {named[file]}: one slide, which counts once"
                )
                twice[slide_id] = SlideRef(slide_id, None, reason=reason)
            else:
                named[file] = slide_id
                files[slide_id].append(file)
    return twice


def locate_by_case(
    index: SlideFolder, case_ids: Sequence[str], case_pattern: str, slide_pattern: str | None
) -> Located:
    """All files whose name ``case_pattern`` cuts to a case's id; a case may have none."""
    slide_ids: dict[str, list[str]] = {case_id: [] for case_id in case_ids}
    files: dict[str, list[Path]] = defaultdict(list)
    problems = []
    for file in index.files:
        case_id = _case_of([file.name, *index.other_names.get(file, ())], case_pattern, slide_ids)
        if case_id is None:
            continue  # counted below among the files of no case
        try:
            slide_id = extract_slide_id(file.name, slide_pattern)
        except IdError as error:
            problems.append(f"{file}: {error}; correct the pattern, or rename the file")
            continue
        slide_ids[case_id].append(slide_id)
        files[slide_id].append(file)
    used = {file for same in files.values() for file in same}
    lacking = [case_id for case_id, found in slide_ids.items() if not found]
    warnings = list(_unused(used, index))
    if lacking:
        warnings.insert(
            0,
            f"{len(lacking)} of {len(slide_ids)} cases have no slide file in {index.folder}: {shorten(lacking)}",
        )
    slides = {case_id: _slides(dict.fromkeys(found), files, index) for case_id, found in slide_ids.items()}
    return Located(slides, tuple(problems), (*warnings, *index.unreadable))


def _case_of(names: Iterable[str], case_pattern: str, case_ids: Collection[str]) -> str | None:
    """The first id of a case that is cut out of a slide's names."""
    for name in names:
        with suppress(IdError):
            case_id = extract_id(name, case_pattern, "case_pattern")
            if case_id in case_ids:
                return case_id
    return None


def _slides(
    slide_ids: Iterable[str], files: Mapping[str, Sequence[Path]], index: SlideFolder
) -> tuple[SlideRef, ...]:
    return tuple(_slide(slide_id, files.get(slide_id, ()), index) for slide_id in slide_ids)


def _slide(slide_id: str, files: Sequence[Path], index: SlideFolder) -> SlideRef:
    if len(files) == 1:
        return SlideRef(slide_id, files[0])
    if not files:
        return SlideRef(slide_id, None, reason=f"no file for this slide in {index.folder}")
    reason = (
        f"{len(files)} files of this id in {index.folder}: {shorten(_names(files, index))}; one is allowed: move the "
        "others away, or set cohort.slide_pattern so that their ids differ"
    )
    return SlideRef(slide_id, None, reason=reason)


def _lacking(lacking: Sequence[str], wanted: Sequence[str], index: SlideFolder) -> list[str]:
    if not lacking:
        return []
    if len(lacking) < len(wanted):
        return [f"{len(lacking)} of {len(wanted)} slides have no file in {index.folder}: {shorten(lacking)}"]
    there = (
        f"the files there are {shorten(_names(index.files, index), 1)}"
        if index.files
        else "there is no slide file"
    )
    return [
        f"none of the {len(wanted)} slides has a file in {index.folder}: looked for {shorten(lacking, 1)}; "
        f"{there}; correct {index.setting}, or cut the ids out with cohort.slide_pattern"
    ]


def _nearly(lacking: Sequence[str], found: Iterable[str]) -> list[str]:
    """A line when ids without a file and ids ``found`` among the files are alike but for how they are written."""
    by_id = by_likeness(found)
    pairs = [
        (name, by_id[like][0])
        for like, names in by_likeness(lacking).items()
        if like in by_id
        for name in names
    ]
    if not pairs:
        return []
    told = shorten([f"{name!r} and {file!r}" for name, file in pairs])
    return [
        f"{len(pairs)} ids of the table differ from a file's in capital letters, spaces or leading zeros alone "
        f"({told}); write them as the files are called"
    ]


def _unused(used: set[Path], index: SlideFolder) -> list[str]:
    unused = [file for file in index.files if file not in used]
    if not unused:
        return []
    files = "slide file belongs" if len(unused) == 1 else "slide files belong"
    return [
        f"{len(unused)} {files} to no case of the cohort in {index.folder}: {shorten(_names(unused, index))}"
    ]


def _names(files: Iterable[Path], index: SlideFolder) -> list[str]:
    return [file.relative_to(index.folder).as_posix() for file in files]
