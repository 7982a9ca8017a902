"""The device that a process computes on, and the cores that it may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from milsurv.errors import MilsurvError
from milsurv.executors.cgroups import cpu_limit

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
AMPERE = 8
"""Compute capability of the first GPUs with bfloat16 matrix multiplication in hardware."""


@dataclass(frozen=True)
class Device:
    """A device that units compute on, as described in fingerprints and messages."""

    name: str
    """``cpu``, ``cuda`` or one GPU such as ``cuda:1``."""
    bfloat16: bool | None = None
    """Whether it multiplies bfloat16 matrices in hardware; None: determined on this machine when needed."""

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.name.partition(":")[0]

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 matrices in hardware."""
        if self.bfloat16 is not None:
            return self.bfloat16
        if self.kind == "cpu":
            return cpu_has_bfloat16()
        return torch.cuda.get_device_capability(torch.device(self.name))[0] >= AMPERE


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware; False if torch is too old to report it."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def find_device(wanted: str) -> Device:
    """The device of this machine for ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises MilsurvError when there is no such GPU. CUDA is not initialised.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return Device("cuda" if gpus else "cpu")
    require_gpu(wanted, gpus)
    return Device(wanted)


def require_gpu(wanted: str, gpus: int) -> None:
    """Raise MilsurvError when ``wanted`` names a GPU and this machine, with so many ``gpus``, does not have it."""
    name, _, number = wanted.partition(":")
    if name != "cuda" or int(number or 0) < gpus:
        return
    limited = os.environ.get(VISIBLE_GPUS)
    because = "" if limited is None else f" (with {VISIBLE_GPUS}={limited})"
    if not gpus:
        raise MilsurvError(f"device '{wanted}': torch finds no GPU here{because}; use --device cpu")
    available = "only cuda:0" if gpus == 1 else f"cuda:0 to cuda:{gpus - 1}"
    raise MilsurvError(f"device '{wanted}': torch finds {available}{because}; use one of these, or cpu")


def cores() -> int:
    """Cores that this process may use: the machine's, or fewer by its affinity or control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(cpu_limit() or allowed)))


def visible_gpus(device: str) -> list[str]:
    """The GPUs that are assigned to workers, as in CUDA_VISIBLE_DEVICES; empty unless ``device`` is ``cuda``."""
    if device != "cuda":
        return []
    limited = os.environ.get(VISIBLE_GPUS)
    if not limited:
        return [str(index) for index in range(torch.cuda.device_count())]
    return list(takewhile(lambda entry: entry not in ("", "-1"), map(str.strip, limited.split(","))))
