"""Atomic writing of files, and fingerprints of content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from milsurv.errors import name_file_on_full_disk
from milsurv.storage.locks import temporary_file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to, in the same folder; fsynced and renamed to ``path`` if the block succeeds.

    A file with its final name is complete. If the block fails, the temporary file is removed; if the process is
    killed, the next run removes it. Raises MilsurvError if the disk is full.
    """
    with name_file_on_full_disk(path), temporary_file(path.parent) as temporary:
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link ``target`` to ``source``, or copy it if the file system has no hard links, unless it exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, or nothing if the disk is full."""
    content = f"{line}\n".encode()
    with name_file_on_full_disk(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(end)
            raise


def append_event(path: Path, event: Mapping[str, Any]) -> None:
    """Append a line of JSON with the time to a file of events, creating its folder; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    finite = {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in event.items()
    }
    at = datetime.now(UTC).isoformat(timespec="seconds")
    append_line(path, json.dumps({"at": at, **finite}, allow_nan=False))


def json_text(data: Any) -> str:
    """JSON for a file. Raises ValueError for NaN: missing values are null with a reason."""
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def fingerprint(content: Any) -> str:
    """12 hexadecimal digits of a hash of JSON-serializable ``content``, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
