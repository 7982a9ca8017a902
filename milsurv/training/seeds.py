"""Seeds derived from their purpose, so that a resumed training draws the same random numbers."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """A 63-bit seed derived from ``parts``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(*parts: object) -> torch.Generator:
    """A generator on the CPU with the seed of ``parts``."""
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_torch(device: torch.device, *parts: object) -> None:
    """Seed PyTorch's generators of the CPU and of ``device`` with the seed of ``parts``.

    ``torch.manual_seed`` would queue each call, with its traceback, in a process that has not initialised CUDA:
    milliseconds and kilobytes per bag.
    """
    seed = seed_of(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
