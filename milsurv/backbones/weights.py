"""Reading weights from local files without executing code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from milsurv.errors import WeightsError, first_line, size
from milsurv.storage.checksums import sha256_of

MAX_SHARING = 4
"""Ratio of the total size of tensors to the size of their file: some tensors share storage."""


def file_id(weights: Path) -> str:
    """``sha256:…`` of a weights file. Raises WeightsError if it does not exist."""
    if not weights.is_file():
        raise WeightsError(f"weights file {weights} not found")
    return f"sha256:{sha256_of(weights)}"


def load_pickled(file: Path, mmap: bool = False) -> Any:
    """Load a file of torch.save without executing code in it, and within the size of the file.

    With ``mmap``, values stay on the disk until they are used. Raises ValueError with a reason of one line.
    """
    there = file.stat().st_size
    try:
        archive = zipfile.is_zipfile(file)
        if archive:
            with zipfile.ZipFile(file) as opened:
                if sum(info.file_size for info in opened.infolist()) > there:
                    raise ValueError("it is compressed, unlike files of torch.save")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap and archive)
    except pickle.UnpicklingError:
        raise ValueError(
            "it is damaged, or contains objects other than tensors, which are not loaded since they could execute code"
        ) from None
    except Exception as error:
        raise ValueError(f"it is damaged, or was not written by torch.save: {first_line(error)}") from error
    return content


def require_held(tensors: Iterable[Tensor], file: Path) -> None:
    """Raise ValueError if tensors are larger than their file: one stored value can be expanded to many."""
    needed, there = sum(tensor.numel() * tensor.element_size() for tensor in tensors), file.stat().st_size
    if needed > MAX_SHARING * there:
        raise ValueError(f"its tensors declare {size(needed)}, but the file has {size(there)}")


def read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt``/``.pth`` file, read without executing code in it.

    Raises WeightsError if the file is missing, unreadable, or contains anything but named tensors.
    """
    if not weights.is_file():
        raise WeightsError(f"weights file {weights} not found")
    try:
        state = load_file(weights) if weights.suffix == ".safetensors" else load_pickled(weights)
        for container in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(container), dict):
                state = state[container]
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise WeightsError(f"weights file {weights} does not contain named tensors")
        require_held(state.values(), weights)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"weights file {weights} cannot be read: {first_line(error)}") from error
    return {str(name): value for name, value in state.items()}


def fill_network(
    network: nn.Module, tensors: Mapping[str, Tensor], model: str, source: Path, prefix: str = ""
) -> None:
    """Load all of ``tensors`` into ``network``, all of which must be filled.

    Args:
        network: filled in place.
        tensors: name in the network -> tensor.
        model: name of the network, for messages.
        source: file of the tensors, for messages.
        prefix: prefix of their names in that file, for messages.

    Raises WeightsError with the first tensor of ``source`` that is missing, unknown to the network, of another shape
    or type, or not finite.
    """
    expected = network.state_dict()
    names = dict.fromkeys((*expected, *tensors))
    faults = (_fault(name, tensors.get(name), expected.get(name)) for name in names)
    fault = next((text for text in faults if text), None)
    if fault:
        raise WeightsError(f"weights file {source} does not fit {model}: tensor {prefix}{fault}")
    network.load_state_dict(tensors)


def _fault(name: str, found: Tensor | None, expected: Tensor | None) -> str | None:
    """What is wrong with a tensor, starting with its name; None if it fits."""
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is not in the model"
    if found.shape != expected.shape:
        return f"{name} has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point():
        return f"{name} has type {found.dtype} instead of {expected.dtype}"
    if not bool(found.isfinite().all()):
        return f"{name} contains NaN or infinity"
    return None
