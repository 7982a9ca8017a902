"""What a living process has in hand: claims on artifacts, and on the temporary files that they are written to.

A claim is a hidden file that its owner keeps locked with flock, which the kernel ends with the process, however it
ends. Where the file system has no flock a claim is a lease instead: its owner touches it, and one that was not touched
for `LEASE` seconds is free. All times are the file system's own, so that clocks of other machines do not matter.

Claims only save double work. What they guard is written whole or not at all, so nothing breaks when one fails.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from milsurv.errors import MilsurvError, full_disk_named

try:
    import fcntl
except ImportError:
    FLOCK = False
else:
    FLOCK = True

PREFIX, CLAIM, TEMPORARY = ".milsurv-", ".claim", ".tmp"
"""What names of claims and temporary files begin and end with: other hidden files are somebody else's."""
LEASE = 120.0
"""Seconds after which a claim that was not touched is free, where there is no flock."""
HEARTBEAT = LEASE / 6
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def claim(artifact: Path) -> Iterator[bool]:
    """True when ``artifact`` is this process's to make until the block ends; False when another process makes it.

    The owner's claim is a hidden file beside the artifact. Look again whether the artifact is there once it is claimed.
    """
    digest = hashlib.sha256(os.fsencode(artifact.name)).hexdigest()[:16]  # names may be as long as allowed
    path = artifact.parent / f"{PREFIX}{digest}{CLAIM}"
    with ExitStack() as held:
        with full_disk_named(artifact):
            artifact.parent.mkdir(parents=True, exist_ok=True)
            claimed = _take(path, held)
        yield claimed


def _take(path: Path, held: ExitStack) -> bool:
    """Whether the claim is taken, until ``held`` ends; False when another process has it."""
    while True:
        try:
            descriptor, fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            try:
                descriptor, fresh = os.open(path, os.O_RDWR), False
            except FileNotFoundError:
                continue
        locked = _try_lock(descriptor)
        if locked is None and (fresh or _age(path.parent, descriptor) > LEASE):
            _touch(path, descriptor)
            held.callback(
                _remove, path, os.fstat(descriptor)
            )  # once it is closed: Windows removes no open file
            held.callback(os.close, descriptor)
            held.enter_context(_heartbeat(path, descriptor))
            return True
        if locked and _is_at(descriptor, path):
            held.callback(os.close, descriptor)
            held.callback(_remove, path, os.fstat(descriptor))  # while it is locked: nobody else's is removed
            return True
        os.close(descriptor)
        if not locked:
            return False


@contextmanager
def _heartbeat(path: Path, descriptor: int) -> Iterator[None]:
    """Touch the file now and then, from a thread, until the block ends."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with suppress(OSError):
                _touch(path, descriptor)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A new file in ``folder`` that is claimed until the block ends; to be renamed or removed by then."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}{TEMPORARY}"
        with claim(path) as claimed:
            if claimed:
                path.touch(exist_ok=False)
                yield path
                return


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and claims in ``folder`` and below whose owner is dead, as far as it is allowed."""
    for path in folder.rglob(f"{PREFIX}*{TEMPORARY}"):
        with suppress(OSError, MilsurvError), claim(path) as abandoned:
            if abandoned:
                path.unlink(missing_ok=True)
    for path in folder.rglob(f"{PREFIX}*{CLAIM}"):
        with suppress(OSError), ExitStack() as held:
            _take(path, held)


def _try_lock(descriptor: int) -> bool | None:
    """Whether the file is now locked; None where the file system has no flock."""
    if not FLOCK:  # on Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _touch(path: Path, descriptor: int) -> None:
    os.utime(descriptor if os.utime in os.supports_fd else path)


def _remove(path: Path, claim: os.stat_result) -> None:
    with suppress(FileNotFoundError, PermissionError):  # on Windows, while another process looks at it
        if os.path.samestat(claim, path.stat()):
            path.unlink()


def _age(folder: Path, descriptor: int) -> float:
    """Seconds since the file was touched, by the clock that stamps files in ``folder``."""
    with tempfile.TemporaryFile(dir=folder) as now:
        return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime
