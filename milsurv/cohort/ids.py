"""Case and slide ids, extracted in the same way from table values, file names and split files."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

ARRANGEMENT_SUFFIX = ".blocks"
"""Of the files that represent the slides of a synthetic scenario, see ``milsurv.synthetic.scenarios``."""
SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn"),
    *(".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi"),
    ARRANGEMENT_SUFFIX,
)
"""Suffixes of slide files, matched without case."""
FEATURE_SUFFIXES = (".h5", ".pt")
"""Suffixes of feature files, which tables of slides may list."""
MAX_ID_BYTES = 251
"""Longest slide id: file systems allow names of 255 bytes, including the suffix."""


class IdError(ValueError):
    """A value has no valid id. The message says why and, unless it is obvious, what to do."""


def extract_id(value: str, pattern: str | None, setting: str) -> str:
    """The part of ``value`` matched by the group of ``pattern``, or all of ``value`` without a pattern.

    Unicode is normalized to NFC, since file names from macOS are decomposed and tables are not. ``setting`` is the
    name of the pattern in the configuration, for the message of the `IdError`.
    """
    value = unicodedata.normalize("NFC", value)
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise IdError(f"{value!r} contains a control character, which is not allowed in ids; remove it")
    if pattern is None:
        return value
    match = re.search(pattern, value)
    part = (match.group(1) or "").strip() if match else ""
    if not part:
        raise IdError(f"{value!r} does not match cohort.{setting} {pattern!r}")
    return part


def extract_slide_id(name: str, pattern: str | None, suffixes: tuple[str, ...] = FEATURE_SUFFIXES) -> str:
    """The slide id in a file name or table value: extracted by ``pattern``, without the suffix of a slide file.

    ``suffixes`` are those of files that represent slides, such as feature files.
    Raises `IdError` if the id cannot be the name of a feature file.
    """
    slide_id = strip_slide_suffix(extract_id(name, pattern, "slide_pattern"), suffixes)
    if "/" in slide_id or "\\" in slide_id:
        raise IdError(
            f"slide id {slide_id!r} contains a path separator; remove it with cohort.slide_pattern: '([^/\\\\]+)$'"
        )
    if slide_id in ("", ".", "..") or not slide_id.isprintable():
        raise IdError(f"slide id {slide_id!r} cannot be a file name")
    if (length := len(slide_id.encode())) > MAX_ID_BYTES:
        raise IdError(
            f"slide id {slide_id[:20]!r}… has {length} bytes, too many for a file name; shorten it with "
            f"cohort.slide_pattern to at most {MAX_ID_BYTES}"
        )
    return slide_id


def strip_slide_suffix(name: str, suffixes: tuple[str, ...] = FEATURE_SUFFIXES) -> str:
    """``name`` without the suffixes of feature and slide files. Other suffixes are kept, since ids may contain dots."""
    for known in (suffixes, SLIDE_SUFFIXES):
        suffix = next((suffix for suffix in known if name.lower().endswith(suffix)), "")
        name = name[: len(name) - len(suffix)]
    return name


def shorten(ids: Sequence[str], at_most: int = 3) -> str:
    """The first few ids for a message, with ``…`` if there are more."""
    return ", ".join(ids[:at_most]) + (", …" if len(ids) > at_most else "")


def first_few(problems: Sequence[str], at_most: int, what: str = "problems") -> list[str]:
    """The first problems, and a line with the number of the rest."""
    more = len(problems) - at_most
    return [*problems[:at_most], *([f"and {more} more such {what}"] if more > 0 else [])]


def group_similar(ids: Iterable[str]) -> dict[str, list[str]]:
    """Ids grouped by their form without upper case, spaces and leading zeros."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ids:
        letters = "".join(char for char in name.casefold() if char.isprintable() and not char.isspace())
        groups[re.sub(r"(?<!\d)0+(?=\d)", "", letters)].append(name)
    return groups
