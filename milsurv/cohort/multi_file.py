"""Slides that consist of several files: which files belong together, according to their headers."""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DICOM, CZI = ".dcm", ".czi"
CHANNEL_LISTS = {
    ".ndpis": re.compile(r"^Image\d+\s*=\s*(.+?)\s*$", re.MULTILINE | re.IGNORECASE),
    ".afi": re.compile(r"<Path>\s*(.+?)\s*</Path>", re.IGNORECASE),
}
"""Suffix of a text file that lists the fluorescence channels of a slide -> pattern of their file names in it."""
MAX_LIST_BYTES = 2**16
CACHED_HEADERS = 2**17
SERIES_INSTANCE_UID = 0x0020_000E
CZI_PART_AT = 80
"""Byte of a CZI header with the number of the part; 0 is the main file."""


@dataclass(frozen=True)
class GroupedFiles:
    """The slides among files, with one file for each."""

    files: tuple[Path, ...]
    """In the order of the files given."""
    other_names: dict[Path, tuple[str, ...]]
    """File -> names of the slide's other files, and of its folder if that contains nothing else."""
    notes: tuple[str, ...]
    """A line for each list and folder whose files are not slides of their own."""


def group_files(files: Sequence[Path], channel_lists: Iterable[Path] = ()) -> GroupedFiles:
    """One file for each slide: the first of a DICOM series in a folder, the main file of a CZI in parts.

    The files in ``channel_lists``, the channels of fluorescence slides, are skipped.
    """
    channels: set[Path] = set()
    notes = []
    for path in channel_lists:
        listed = _channels(path) & {*files}
        channels |= listed
        if listed:
            notes.append(
                f"{path}: skipped with the {len(listed)} files that it lists: they are fluorescence channels of one "
                "slide, and slides are read as RGB"
            )
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    parts: dict[Path, int] = defaultdict(int)
    for file in files:
        if file in channels:
            continue
        if file.suffix.lower() == CZI and _is_czi_part(file):
            parts[file.parent] += 1
            continue
        groups[file.parent, dicom_series(file) or f"file {file.name}"].append(file)
    notes += [
        f"{folder}: {count} files skipped: they are parts of CZI slides" for folder, count in parts.items()
    ]
    in_folder = Counter(file.parent for file in files)
    others = {}
    for (folder, _), (first, *rest) in groups.items():
        if rest:
            alone = [folder.name] if in_folder[folder] == 1 + len(rest) else []
            others[first] = (*(file.name for file in rest), *alone)
    return GroupedFiles(tuple(first for first, *_ in groups.values()), others, tuple(notes))


def files_of_slide(path: Path) -> list[Path]:
    """The files of the DICOM series of ``path`` in its folder; for other formats only ``path``."""
    series = dicom_series(path)
    if series is None:
        return [path]
    beside = sorted(file for file in path.parent.iterdir() if file.suffix.lower() == path.suffix.lower())
    return [file for file in beside if file == path or dicom_series(file) == series]


def dicom_series(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM file; None for other files and unreadable headers."""
    if path.suffix.lower() != DICOM or not path.is_file():
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return _series_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=CACHED_HEADERS)
def _series_of(path: Path, size: int, modified: int) -> str | None:  # noqa: ARG001
    from pydicom.filereader import read_partial

    try:
        with path.open("rb") as file:
            header = read_partial(file, stop_when=lambda tag, vr, length: tag > SERIES_INSTANCE_UID)  # noqa: ARG005
        return str(header.get("SeriesInstanceUID") or "") or None
    except Exception:  # pydicom may raise anything for a damaged header
        return None


def _is_czi_part(path: Path) -> bool:
    header = _head(path, CZI_PART_AT + 4)
    complete = len(header) == CZI_PART_AT + 4 and header.startswith(b"ZISRAWFILE")
    return complete and struct.unpack_from("<i", header, CZI_PART_AT)[0] > 0


def _channels(path: Path) -> set[Path]:
    text = _head(path, MAX_LIST_BYTES).decode("utf-8", "replace")
    names = CHANNEL_LISTS[path.suffix.lower()].findall(text)
    return {path.parent / name.replace("\\", "/").rpartition("/")[2] for name in names}


def _head(path: Path, count: int) -> bytes:
    """At most ``count`` bytes of a file; none if it cannot be read, or is not a regular file."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""
