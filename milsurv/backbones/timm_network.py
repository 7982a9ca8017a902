"""Builds timm networks and fills them with weights from a local file or from the hub, never at random."""

from __future__ import annotations

import hashlib
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

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
    except Exception as error:
        raise WeightsError(f"weights file {weights} cannot be read: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights file {weights} does not hold tensors by name")
    return state


def timm_network(model: str, weights: Path | None) -> nn.Module:
    """timm's ``model`` without its classifier, with the weights of a local file, else from the hub.

    Raises WeightsError when the file does not fit the model, or the hub cannot be reached.
    """
    if weights is None:
        try:
            return timm.create_model(model, pretrained=True, num_classes=0)
        except Exception as error:
            raise WeightsError(
                f"the weights of {model} cannot be fetched from the hub ({type(error).__name__}: {error}); "
                "with no network, download them elsewhere and give backbone.weights: FILE (safetensors or .pth)"
            ) from error
    network = timm.create_model(model, pretrained=False, num_classes=0)
    state = {name: value for name, value in read_state(weights).items() if not name.startswith("fc.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"weights file {weights} does not fit {model}: {error}") from error
    return network
