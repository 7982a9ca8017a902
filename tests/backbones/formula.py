"""Networks filled by a formula that needs no file: each tensor follows from its published name."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def published_tensors(keys: Mapping[str, tuple[list[int], str]]) -> dict[str, Tensor]:
    """The tensors of a published layout, name -> shape and type, that reference embeddings were made with."""
    return {name: _tensor(name, shape, dtype) for name, (shape, dtype) in keys.items()}


def tensors_like(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same for the layout of a network; it may be on torch's meta device."""
    return {
        name: _tensor(name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }


def _tensor(name: str, shape: list[int], dtype: str) -> Tensor:
    if dtype == "int64":
        return torch.zeros(shape, dtype=torch.int64)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) >= 2 and "bias_table" not in name:
        return values / math.sqrt(values[0].numel())
    if name.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    return 1 + 0.1 * values if name.endswith(("weight", "lambda1", "gamma")) else 0.1 * values
