"""Reading weights from local files, without running any code that stands in them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from milsurv.errors import WeightsError


def file_id(weights: Path) -> str:
    """``sha256:…`` of a weights file. Raises WeightsError when it is not there."""
    if not weights.is_file():
        raise WeightsError(f"weights file {weights} is not there")
    with weights.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt``/``.pth`` file read without running any code in it.

    Raises WeightsError when the file is missing, unreadable, or holds something else than tensors by name.
    """
    if not weights.is_file():
        raise WeightsError(f"weights file {weights} is not there")
    try:
        if weights.suffix == ".safetensors":
            return load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"weights file {weights} cannot be read: it is damaged, or holds more than tensors, which might run "
            "code and is not loaded; save the state dict alone"
        ) from None
    except Exception as error:
        raise WeightsError(
            f"weights file {weights} cannot be read, it is damaged or no weights file: {_first_line(error)}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights file {weights} does not hold tensors by name")
    return state


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
