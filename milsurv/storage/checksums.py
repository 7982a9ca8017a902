"""Checksums of the text files in a run's folder, so that damaged or edited files are rejected on reading."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from milsurv.errors import MilsurvError
from milsurv.storage.atomic import append_line, write_text
from milsurv.storage.documents import YAMLError, compose_yaml, construct_yaml, parse_json
from milsurv.storage.run_files import CONFIG

CHECKSUMS = "checksums.txt"
"""File in the same folder with a line ``<SHA-256>  <name>`` for each; the last line of a name counts. Lines are only
appended, so that concurrent processes do not lose each other's."""


def sha256_of(path: Path) -> str:
    """SHA-256 of all bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checked(path: Path, text: str) -> None:
    """Write a text file atomically, after its checksum, so that a complete file always has one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    if _checksums(path.parent).get(path.name) != checksum:
        append_line(path.parent / CHECKSUMS, f"{checksum}  {path.name}")
    write_text(path, text)


def read_checked(path: Path) -> str:
    """The text of a file that :func:`write_checked` wrote.

    Raises MilsurvError if it is missing, has no checksum, or has changed.
    """
    if not path.is_file():
        raise MilsurvError(f"{path} is missing; run the milsurv command again, or copy the whole folder")
    expected = _checksums(path.parent).get(path.name)
    if expected is None:
        raise MilsurvError(
            f"{path} has no checksum in {CHECKSUMS}: it was written by an older milsurv, or only a part of its "
            "folder was copied; run the milsurv command again, or copy the whole folder"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise MilsurvError(
            f"{path} is damaged or was edited (its SHA-256 is not the one in {CHECKSUMS}); delete it and run the "
            "milsurv command again, or copy the whole folder again"
        )
    return content.decode()


def read_json(path: Path) -> Any:
    """The data of a JSON file, see :func:`read_checked`. Raises MilsurvError if it cannot be read."""
    return parse_json(read_checked(path), path)


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of a run's ``config.yaml``. Raises MilsurvError if it is damaged."""
    path = folder / CONFIG
    try:
        settings = construct_yaml(compose_yaml(read_checked(path)))
    except YAMLError as error:
        raise MilsurvError(f"{path} is damaged ({error}); copy it again") from error
    if not isinstance(settings, dict):
        raise MilsurvError(f"{path} is damaged (it holds no keys and values); copy it again")
    return settings


def _checksums(folder: Path) -> dict[str, str]:
    """Name -> checksum."""
    try:
        lines = (folder / CHECKSUMS).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
