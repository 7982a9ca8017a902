"""Locks on artifacts, and on the temporary files that they are written to, so that runs share the work.

A lock is held through ``flock``, which the kernel releases when the process ends, or, where the file system has no
``flock``, through a lease: a file that its holder touches and that expires when it is no longer touched.

Locks only save double work. Artifacts are written whole or not at all, so nothing breaks when a lock fails.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, SoftFileLease, Timeout, UnixFileLock, has_fcntl

from milsurv.errors import MilsurvError, name_file_on_full_disk

PREFIX, LOCK, LEASE, TEMPORARY = ".milsurv-", ".lock", ".lease", ".tmp"
"""Prefix and suffixes of the names of locks and temporary files."""
LEASE_SECONDS = 120.0
HEARTBEAT_SECONDS = LEASE_SECONDS / 6
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def try_lock(artifact: Path) -> Iterator[bool]:
    """Lock ``artifact`` until the block ends; False, without waiting, when another process holds the lock.

    Check again whether the artifact exists once it is locked. The lock is a hidden file in the artifact's folder,
    which is created if needed and removed with the lock.
    """
    digest = hashlib.sha256(os.fsencode(artifact.name)).hexdigest()[:16]  # names can have the maximum length
    with name_file_on_full_disk(artifact):
        artifact.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(artifact.parent / f"{PREFIX}{digest}")
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _release(lock)


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A new file in ``folder``, locked until the block ends; to be renamed or removed by then."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}{TEMPORARY}"
        with try_lock(path) as locked:
            if locked:
                path.touch(exist_ok=False)
                yield path
                return


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files and locks of dead processes in ``folder`` and below, as far as permissions allow."""
    for path in list(folder.rglob(f"{PREFIX}*")):
        with suppress(OSError, MilsurvError):
            if path.suffix == TEMPORARY:
                with try_lock(path) as abandoned:
                    if abandoned:
                        path.unlink(missing_ok=True)
            elif path.suffix in (LOCK, LEASE) and (lock := _acquire(path.with_suffix(""))):
                _release(lock)


def _acquire(path: Path) -> BaseFileLock | None:
    """A lock at ``path`` and a suffix; None when another process holds it."""
    try:
        if has_fcntl:
            native = UnixFileLock(path.with_suffix(LOCK), blocking=False, fallback_to_soft=False)
            try:
                native.acquire()
                return native
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                path.with_suffix(LOCK).unlink(missing_ok=True)
        lease = SoftFileLease(
            path.with_suffix(LEASE),
            blocking=False,
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=HEARTBEAT_SECONDS,
        )
        if _age(path.with_suffix(LEASE)) > LEASE_SECONDS:
            lease.force_break()  # filelock lets a lease expire only when the same object has watched it
        lease.acquire()
        return lease
    except Timeout:
        return None


def _release(lock: BaseFileLock) -> None:
    if isinstance(lock, UnixFileLock):
        Path(lock.lock_file).unlink(missing_ok=True)  # still held, so it is this process's own
    lock.release()


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system; 0 when there is none."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        try:
            return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
