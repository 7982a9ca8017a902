"""What this machine computes on, and how its cores and GPUs are shared out."""

from __future__ import annotations

import math
import os
from itertools import takewhile

import torch

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.executors.cgroups import cpu_limit

MOST_WORKERS = 8
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def choose_device(wanted: str) -> str:
    """The device to compute on; ``auto`` takes a GPU when there is one. Raises MilsurvError for a GPU that is not."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if gpus else "cpu"
    require_gpu(wanted, gpus)
    return wanted


def require_gpu(wanted: str, gpus: int) -> None:
    """Raise MilsurvError when ``wanted`` names a GPU that is not among those so many."""
    name, _, number = wanted.partition(":")
    if name != "cuda" or int(number or 0) < gpus:
        return
    limited = os.environ.get(VISIBLE_GPUS)
    because = "" if limited is None else f" (with {VISIBLE_GPUS}={limited})"
    if not gpus:
        raise MilsurvError(
            f"device '{wanted}' is asked for, but torch finds no GPU here{because}; use --device cpu"
        )
    there = "cuda:0 alone" if gpus == 1 else f"cuda:0 to cuda:{gpus - 1}"
    raise MilsurvError(
        f"device '{wanted}' is asked for, but torch finds {there}{because}; use one of these, or cpu"
    )


def count_workers(wanted: int | str, device: str) -> int:
    """Processes side by side: as wanted; ``auto`` is one per core up to 8, or one per GPU."""
    if isinstance(wanted, int):
        return wanted
    if device.startswith("cuda"):
        return max(1, len(visible_gpus(device)))
    return min(cores(), MOST_WORKERS)


def cores() -> int:
    """Cores that this process may use: the machine's, or fewer by its affinity or a limited control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(cpu_limit() or allowed)))


def workers_on_device(workers: int, device: str) -> int:
    """Of so many workers, those that compute on one device at most."""
    return math.ceil(workers / max(1, len(visible_gpus(device))))


def visible_gpus(device: str) -> list[str]:
    """What each worker in turn is to see as its only GPU, in CUDA's words; empty on a CPU, or when one is named."""
    if device != "cuda":
        return []
    limited = os.environ.get(VISIBLE_GPUS)
    if not limited:
        return [str(index) for index in range(torch.cuda.device_count())]
    return list(takewhile(lambda entry: entry not in ("", "-1"), map(str.strip, limited.split(","))))


def slides_in_hand(device: str) -> int:
    """Slides that a worker extracts side by side: two on a GPU, which has patches while one is opened or written."""
    return 1 if device == "cpu" else 2


def decoding_threads(config: RunConfig, device: str) -> int:
    """Threads that decode a slide's patches: one on a CPU, where each core has a worker; else all of a GPU's share."""
    if config.extraction.decoding_threads != "auto":
        return config.extraction.decoding_threads
    if device == "cpu":
        return 1
    return max(1, cores() // (count_workers(config.executor.workers, device) * slides_in_hand(device)))
