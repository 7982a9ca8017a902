"""Memory of the host and of GPUs, and recognition of out-of-memory errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from milsurv.errors import MilsurvError, first_line
from milsurv.executors.cgroups import memory_limit

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "status_alloc_failed",
)
"""Parts of out-of-memory messages, in lower case: of PyTorch, its CPU allocator, and the CUDA libraries."""
MAYBE_OUT_OF_MEMORY = (
    "status_not_initialized",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine",
)
"""Parts of messages of CUDA libraries that cannot allocate a workspace, or have another problem."""
LOW_MEMORY = 2**30
"""Free bytes of a GPU below which its libraries may fail to allocate a workspace."""

ASSUMED_MEMORY = 8 * 2**30
"""Memory in bytes that is assumed where Python cannot determine it, on Windows."""


def host_memory() -> int:
    """Memory in bytes that this process may use: of the machine, or the limit of its control group."""
    if not hasattr(os, "sysconf"):
        return ASSUMED_MEMORY
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, memory_limit() or total)


def pinned_size(wanted: int) -> int:
    """Bytes that PyTorch allocates for a block of pinned memory: the next power of two."""
    return 1 << (wanted - 1).bit_length() if wanted > 0 else 0


def free_device_memory(device: str) -> int:
    """Free bytes of a GPU."""
    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def release_device_memory() -> None:
    """Release the GPU memory that PyTorch caches for later use."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException, free: Callable[[], int | None] | None = None) -> bool:
    """Whether an exception reports that memory of a GPU or of the host ran out.

    CUDA libraries that cannot allocate a workspace report that they are not initialised; this counts if less than
    1 GiB is free. ``free`` returns the free bytes, by default of the current GPU, or None without one.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    if any(phrase in text for phrase in OUT_OF_MEMORY):
        return True
    if not any(phrase in text for phrase in MAYBE_OUT_OF_MEMORY):
        return False
    left = (free or _free_on_current)()
    return left is not None and left < LOW_MEMORY


def _free_on_current() -> int | None:
    try:
        return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_initialized() else None
    except RuntimeError:
        return None


@contextmanager
def out_of_memory_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error into a MilsurvError.

    ``explain`` returns a message with the cause and a remedy; the first line of the library's message is appended.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = first_line(error) or type(error).__name__
        raise MilsurvError(f"{explain()} ({reason})") from error
