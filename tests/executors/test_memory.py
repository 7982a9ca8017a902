from __future__ import annotations

import os

import pytest
import torch

from milsurv.errors import MilsurvError
from milsurv.executors.devices import cores
from milsurv.executors.memory import (
    LOW_MEMORY,
    host_memory,
    out_of_memory,
    out_of_memory_explained,
    pinned_size,
)

SHORT = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15 GiB"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]
PERHAPS = [
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]
OTHER = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    ValueError("out of memory"),
    KeyboardInterrupt(),
    MilsurvError("out of memory"),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_errors_for_want_of_memory(error: BaseException) -> None:
    assert out_of_memory(error)
    with pytest.raises(MilsurvError) as raised, out_of_memory_explained(lambda: "it does not fit; do that"):
        raise error
    assert str(raised.value).startswith("it does not fit; do that (")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", PERHAPS, ids=str)
def test_errors_that_mean_it_where_a_gpu_is_nearly_full(error: BaseException) -> None:
    assert out_of_memory(error, lambda: LOW_MEMORY - 1)
    assert not out_of_memory(error, lambda: LOW_MEMORY)
    assert not out_of_memory(error, lambda: None)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_pass(error: BaseException) -> None:
    assert not out_of_memory(error, lambda: 0)
    with pytest.raises(type(error)) as raised, out_of_memory_explained(lambda: "it does not fit"):
        raise error
    assert raised.value is error


def test_what_torch_raises_where_memory_is_short() -> None:
    with pytest.raises(MilsurvError, match="allocate memory"), out_of_memory_explained(lambda: "no"):
        torch.empty(2**60, dtype=torch.uint8)
    accelerator = getattr(torch, "AcceleratorError", RuntimeError)
    assert issubclass(accelerator, RuntimeError)
    assert issubclass(torch.OutOfMemoryError, RuntimeError)


@pytest.mark.parametrize(
    ("wanted", "taken"), [(0, 0), (1, 1), (3, 4), (4, 4), (5, 8), (2**30, 2**30), (2**30 + 1, 2**31)]
)
def test_pinned_blocks_are_powers_of_two(wanted: int, taken: int) -> None:
    assert pinned_size(wanted) == taken


def test_this_machine_has_memory_and_cores() -> None:
    assert 10**8 < host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 <= cores() <= (os.cpu_count() or 1)
