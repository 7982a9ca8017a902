"""Slides that consist of several files: which files belong together, told from their headers alone."""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DICOM, CZI = ".dcm", ".czi"
SETS = {
    ".ndpis": re.compile(r"^Image\d+\s*=\s*(.+?)\s*$", re.MULTILINE | re.IGNORECASE),
    ".afi": re.compile(r"<Path>\s*(.+?)\s*</Path>", re.IGNORECASE),
}
"""Suffix of a text file that lists the fluorescence channels of a slide -> what finds their files' names in it."""
SET_BYTES = 2**16
"""Most of such a file that is read."""
HEADER_BYTES = 2**16
"""Most of a DICOM file that is read to find its series."""
CACHED_HEADERS = 2**17
SYNTAX, SERIES = (0x0002, 0x0010), (0x0020, 0x000E)
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
IMPLICIT = b"1.2.840.10008.1.2"
ENDLESS = 0xFFFFFFFF
LONG_TYPES = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations whose length takes four bytes."""
CZI_PART_AT = 80
"""Byte of a CZI's header that holds the number of its part; 0 is the main file."""


@dataclass(frozen=True)
class Slides:
    """The slides among files: one file stands for each."""

    files: tuple[Path, ...]
    """In the order of the files given."""
    other_names: dict[Path, tuple[str, ...]]
    """File -> names of the slide's other files, and of a folder that holds nothing else."""
    notes: tuple[str, ...]
    """A line for each set and folder whose files are no slides of their own."""


def group_files(files: Sequence[Path], sets: Iterable[Path] = ()) -> Slides:
    """One file for each slide: the first of a DICOM series in a folder, the main file of a CZI in parts.

    The files that one of ``sets`` lists, the channels of a fluorescence slide, are left out.
    """
    members: set[Path] = set()
    notes = []
    for listing in sets:
        listed = _members(listing) & {*files}
        members |= listed
        if listed:
            notes.append(
                f"{listing}: passed over with the {len(listed)} files that it lists: they are fluorescence channels of "
                "one slide, and slides are read as RGB"
            )
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    parts: dict[Path, int] = defaultdict(int)
    for file in files:
        if file in members:
            continue
        if file.suffix.lower() == CZI and _is_czi_part(file):
            parts[file.parent] += 1
            continue
        groups[file.parent, dicom_series(file) or f"file {file.name}"].append(file)
    notes += [
        f"{folder}: {count} files passed over: they are further parts of CZI slides"
        for folder, count in parts.items()
    ]
    in_folder = Counter(file.parent for file in files)
    others = {}
    for (folder, _), (first, *rest) in groups.items():
        alone = [folder.name] if rest and in_folder[folder] == 1 + len(rest) else []
        if rest:
            others[first] = (*(file.name for file in rest), *alone)
    return Slides(tuple(first for first, *_ in groups.values()), others, tuple(notes))


def files_of_slide(path: Path) -> list[Path]:
    """The files beside ``path`` of its DICOM series, with itself; itself alone for all other formats."""
    series = dicom_series(path)
    if series is None:
        return [path]
    beside = sorted(file for file in path.parent.iterdir() if file.suffix.lower() == path.suffix.lower())
    return [file for file in beside if file == path or dicom_series(file) == series]


def dicom_series(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM file; None of other files, and of those whose header cannot be read."""
    if path.suffix.lower() != DICOM:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return _series_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=CACHED_HEADERS)
def _series_of(path: Path, size: int, modified: int) -> str | None:  # noqa: ARG001
    header = _beginning(path, HEADER_BYTES)
    if header[128:132] != b"DICM":
        return None
    try:
        return _find_series(header)
    except struct.error:  # the header ends
        return None


def _find_series(header: bytes) -> str | None:
    """Walk through the elements of a DICOM header, in little endian, to the series; what is nested is passed over."""
    at, depth, explicit = 132, 0, True
    syntax = b""
    while True:
        tag = struct.unpack_from("<HH", header, at)
        if tag[0] != SYNTAX[0]:
            explicit = syntax != IMPLICIT
        if tag in (ITEM, ITEM_END, SEQUENCE_END) or not explicit:
            length, start = struct.unpack_from("<I", header, at + 4)[0], at + 8
        elif header[at + 4 : at + 6] in LONG_TYPES:
            length, start = struct.unpack_from("<I", header, at + 8)[0], at + 12
        else:
            length, start = struct.unpack_from("<H", header, at + 6)[0], at + 8
        at = start
        if tag in (ITEM_END, SEQUENCE_END):
            depth -= 1
        elif length == ENDLESS:
            depth += 1
        else:
            at += length
        if tag == SYNTAX:
            syntax = header[start:at].strip(b"\0 ")
        if depth == 0 and tag == SERIES:
            return header[start:at].strip(b"\0 ").decode("ascii", "replace") or None
        if depth == 0 and SERIES < tag < ITEM:
            return None


def _is_czi_part(path: Path) -> bool:
    header = _beginning(path, CZI_PART_AT + 4)
    whole = len(header) == CZI_PART_AT + 4 and header.startswith(b"ZISRAWFILE")
    return whole and struct.unpack_from("<i", header, CZI_PART_AT)[0] > 0


def _members(listing: Path) -> set[Path]:
    text = _beginning(listing, SET_BYTES).decode("utf-8", "replace")
    names = SETS[listing.suffix.lower()].findall(text)
    return {listing.parent / name.replace("\\", "/").rpartition("/")[2] for name in names}


def _beginning(path: Path, count: int) -> bytes:
    """At most ``count`` bytes of a file; none of what cannot be read, or is a pipe."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""
