"""Reading weights from local files, without running any code that stands in them."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from milsurv.errors import WeightsError, first_line, size

MOST_SHARED = 4
"""Times the size of a file that its tensors may have together: some share their numbers."""


def file_id(weights: Path) -> str:
    """``sha256:…`` of a weights file. Raises WeightsError when it is not there."""
    if not weights.is_file():
        raise WeightsError(f"weights file {weights} is not there")
    with weights.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def load_pickled(file: Path, mmap: bool = False) -> Any:
    """What torch.save wrote, read without running any code in it, and within what the file's size allows.

    ``mmap`` leaves values on the disk until they are used. Raises ValueError with the reason in one line, whatever is
    wrong.
    """
    there = file.stat().st_size
    try:
        archive = zipfile.is_zipfile(file)
        if archive:
            with zipfile.ZipFile(file) as opened:
                if sum(info.file_size for info in opened.infolist()) > there:
                    raise ValueError("it is compressed, which torch.save never does")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap and archive)
    except pickle.UnpicklingError:
        raise ValueError(
            "it is damaged, or holds more than tensors, which might run code and is not loaded"
        ) from None
    except Exception as error:
        raise ValueError(f"it is damaged or not written by torch.save: {first_line(error)}") from error
    return content


def require_held(tensors: Iterable[Tensor], file: Path) -> None:
    """Raise ValueError when tensors say that they are larger than their file: one number can stand for many."""
    needed, there = sum(tensor.numel() * tensor.element_size() for tensor in tensors), file.stat().st_size
    if needed > MOST_SHARED * there:
        raise ValueError(f"its tensors say that they have {size(needed)}, and the file has {size(there)}")


def read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt``/``.pth`` file read without running any code in it.

    Raises WeightsError when the file is missing, unreadable, or holds something else than tensors by name.
    """
    if not weights.is_file():
        raise WeightsError(f"weights file {weights} is not there")
    try:
        state = load_file(weights) if weights.suffix == ".safetensors" else load_pickled(weights)
        for container in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(container), dict):
                state = state[container]
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise WeightsError(f"weights file {weights} does not hold tensors by name")
        require_held(state.values(), weights)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"weights file {weights} cannot be read: {first_line(error)}") from error
    return {str(name): value for name, value in state.items()}


def fill_network(
    network: nn.Module, tensors: Mapping[str, Tensor], model: str, source: Path, prefix: str = ""
) -> None:
    """Put all of ``tensors`` into ``network``, so that nothing is left at random, and nothing left over.

    Args:
        network: filled in place.
        tensors: by the names of the network.
        model: what the network is, for messages.
        source: the file that the tensors were read from, for messages.
        prefix: how their names begin in that file, for messages.

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
    """What is wrong with a tensor, beginning with its name; None when it fits."""
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is none of the model's"
    if found.shape != expected.shape:
        return f"{name} has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point():
        return f"{name} has type {found.dtype} instead of {expected.dtype}"
    if not bool(found.isfinite().all()):
        return f"{name} holds NaN or infinity"
    return None
