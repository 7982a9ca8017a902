"""How everything is written: whole or not at all, and under a name that says what made it."""

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
    """A temporary path beside ``path`` to write to; fsynced and renamed to ``path`` when the block ends well.

    What has its final name is whole. When the block fails the temporary file is removed; when the process is killed
    the next run removes it. Raises MilsurvError when the disk is full.
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
    """Make ``target`` the file ``source``, unless it is there: linked where the file system can, else copied whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file: all of it, or nothing when the disk is full."""
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
    """Add a line of JSON with the time to a file of events, which is made with its folder; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    finite = {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in event.items()
    }
    at = datetime.now(UTC).isoformat(timespec="seconds")
    append_line(path, json.dumps({"at": at, **finite}, allow_nan=False))


def json_text(data: Any) -> str:
    """JSON for a file. NaN is refused: what cannot be computed is null with a reason."""
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def fingerprint(content: Any) -> str:
    """12 hexadecimal digits that stand for JSON-able ``content``, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
