"""How much memory there is, on the host and on GPUs, and which errors say that there is not enough."""

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
"""What errors for want of memory say, in lower case: PyTorch's, its CPU allocator's, those of CUDA's libraries."""
PERHAPS_OUT_OF_MEMORY = (
    "status_not_initialized",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine",
)
"""What they say too when a GPU has no room for a library's workspace, and for other reasons when it has."""
TIGHT = 2**30
"""Bytes free on a GPU below which its libraries may lack room for their workspaces."""

UNTOLD_MEMORY = 8 * 2**30
"""Bytes that are taken for a machine's memory where Python does not tell it, on Windows."""


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a control group is limited."""
    if not hasattr(os, "sysconf"):
        return UNTOLD_MEMORY
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, memory_limit() or total)


def pinned_size(wanted: int) -> int:
    """Bytes of a block of pinned memory, which PyTorch rounds up to a power of two and does not share out."""
    return 1 << (wanted - 1).bit_length() if wanted > 0 else 0


def free_device_memory(device: str) -> int:
    """Bytes that are free on a GPU now."""
    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def release_device_memory() -> None:
    """Give back to the GPU what PyTorch keeps of it for later use."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException, free: Callable[[], int | None] | None = None) -> bool:
    """Whether an exception says that memory is short, a GPU's or the host's.

    Libraries of CUDA that find no room for a workspace say that they are not initialised: this counts where less
    than 1 GiB is free. ``free`` tells how much is, by default of the current GPU; None when there is none.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    if any(phrase in text for phrase in OUT_OF_MEMORY):
        return True
    if not any(phrase in text for phrase in PERHAPS_OUT_OF_MEMORY):
        return False
    left = (free or _free_on_current)()
    return left is not None and left < TIGHT


def _free_on_current() -> int | None:
    try:
        return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_initialized() else None
    except RuntimeError:
        return None


@contextmanager
def want_of_memory_named(explain: Callable[[], str]) -> Iterator[None]:
    """Turn an error that says that memory is short into a MilsurvError.

    ``explain`` gives what did not fit and what to do; the first line of the library's message is added.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        told = first_line(error) or type(error).__name__
        raise MilsurvError(f"{explain()} ({told})") from error
