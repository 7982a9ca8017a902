"""Seeds that follow from what they are for, so that whatever is drawn is drawn alike after a kill and a resume."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """A 63-bit seed that stands for ``parts``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(*parts: object) -> torch.Generator:
    """A generator on the host with that seed."""
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_draws(device: torch.device, *parts: object) -> None:
    """Make all that PyTorch draws on the host and on ``device`` follow from ``parts``.

    ``torch.manual_seed`` does so too, but in a process without a GPU it keeps each call for one, with its traceback:
    milliseconds and kilobytes for each bag.
    """
    seed = seed_of(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
