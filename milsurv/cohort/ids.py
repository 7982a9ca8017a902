"""Ids of cases and slides, cut in the same way out of table values, file names and split files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SLIDE_SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".svslide",
    ".dcm",
    ".czi",
)
"""What a slide file's name ends with, in small or capital letters."""
LONGEST_ID = 251
"""Bytes of a slide id: file systems take names of 255, and the suffix of its file belongs to that."""
FEATURE_SUFFIXES = (".h5", ".pt")
"""What the name of a file with a slide's features ends with; tables of slides may list these."""


class IdError(ValueError):
    """No usable id can be made of a value; the message says why, and what to do when that is not plain."""


def extract_id(value: str, pattern: str | None, setting: str) -> str:
    """The part of ``value`` that the group of ``pattern`` matches, or all of it without a pattern.

    Accents are composed (NFC): tables have them so, and file names from a Mac apart from their letters.
    ``setting`` is the pattern's name in the configuration, for the message of the `IdError`.
    """
    value = unicodedata.normalize("NFC", value)
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value):
        raise IdError(f"{value!r} holds a control character, which no id may hold; remove it from the table")
    if pattern is None:
        return value
    match = re.search(pattern, value)
    part = (match.group(1) or "").strip() if match else ""
    if not part:
        raise IdError(f"{value!r} does not match cohort.{setting} {pattern!r}")
    return part


def extract_slide_id(name: str, pattern: str | None) -> str:
    """The slide id in a file name or table value: cut by ``pattern``, and without a slide file's suffix.

    It becomes the name of a feature file, so an `IdError` refuses what cannot be one.
    """
    slide_id = strip_slide_suffix(extract_id(name, pattern, "slide_pattern"))
    if "/" in slide_id or "\\" in slide_id:
        raise IdError(
            f"slide id {slide_id!r} holds a path separator; cohort.slide_pattern: '([^/\\\\]+)$' cuts it off"
        )
    if slide_id in ("", ".", "..") or not slide_id.isprintable():
        raise IdError(f"slide id {slide_id!r} cannot be a file name")
    if len(slide_id.encode()) > LONGEST_ID:
        raise IdError(
            f"slide id {slide_id[:20]!r}… has {len(slide_id.encode())} bytes, too many for a file name; cut it with "
            f"cohort.slide_pattern to {LONGEST_ID} or fewer"
        )
    return slide_id


def strip_slide_suffix(name: str) -> str:
    """``name`` without the suffixes of feature and slide files: ids may hold dots, so no others are taken off."""
    for suffixes in (FEATURE_SUFFIXES, SLIDE_SUFFIXES):
        suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
        name = name[: len(name) - len(suffix)]
    return name


def shorten(ids: Sequence[str], at_most: int = 3) -> str:
    """The first few ids for a message, with ``…`` when there are more."""
    return ", ".join(ids[:at_most]) + (", …" if len(ids) > at_most else "")
