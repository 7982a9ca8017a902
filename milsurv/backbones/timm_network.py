"""Builds timm networks and fills them with weights from a local file or from the hub, never at random."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from milsurv.backbones.weights import fill, read_state
from milsurv.errors import WeightsError


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
    fill(network, state, model, weights)
    return network
