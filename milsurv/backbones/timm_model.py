"""Any model of timm, or of a repository on the Hugging Face hub that timm supports, as a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from pydantic import field_validator
from timm.data.config import resolve_model_data_config
from torch import nn

from milsurv.backbones.base import Backbone, FoundWeights, PatchEncoder, Precision, resized_for_crop
from milsurv.backbones.hub import find_weights
from milsurv.backbones.timm_hub import explain_mismatch
from milsurv.backbones.weights import file_id, fill_network, read_state
from milsurv.config.section import AbsolutePath
from milsurv.errors import WeightsError, first_line, nearest
from milsurv.plugin.base import PluginConfig

HUB = "hf-hub:"
INTERPOLATIONS = ("bilinear", "bicubic")


class TimmModelConfig(PluginConfig):
    """Which model."""

    model: str
    """Name of a timm model, such as ``vit_small_patch16_224.dino``, or ``hf-hub:owner/name[@revision]``."""
    weights: AbsolutePath | None = None
    """Local weights file (safetensors, or .pth of named tensors); by default the pretrained weights of timm."""

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        if model.startswith(HUB):
            return model
        architecture, _, training = model.partition(".")
        if not timm.is_model(architecture):
            raise ValueError(
                f"timm {timm.__version__} has no model '{architecture}'{nearest(architecture, timm.list_models())}; "
                f"use one of timm's names, or {HUB}owner/name"
            )
        trainings = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        if training and training not in trainings:
            raise ValueError(
                f"timm {timm.__version__}'s {architecture} has no weights '{training}'{nearest(training, trainings)}; "
                f"it has {', '.join(trainings) or 'none'}"
            )
        return model


@dataclass(frozen=True)
class _Facts:
    """Description of a model by timm, before its weights are read."""

    dim: int
    input_px: int
    resize_px: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    classifier: tuple[str, ...]
    weights: str
    """The model with timm's default pretrained weights, which may change with timm's version."""
    repo: str
    """``owner/name[@revision]`` on the hub; empty if timm gets the weights from elsewhere."""


@cache
def _facts(model: str) -> _Facts:
    """Raises WeightsError if the hub is needed and cannot be reached."""
    try:
        with torch.device("meta"):
            network = timm.create_model(model, pretrained=False, num_classes=0).eval()
    except Exception as error:
        raise WeightsError(
            f"the description of {model} cannot be downloaded from the hub, or is invalid ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error
    known: Any = network.pretrained_cfg
    training = "" if "." in model or model.startswith(HUB) else known.get("tag") or ""
    about: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    transform = _transform(model, about)
    height, width = about["input_size"][1:]
    with torch.inference_mode():
        embedding = network(torch.empty(1, 3, height, width, device="meta"))
    if embedding.ndim != 2:
        raise WeightsError(
            f"{model} has no embedding vector per patch: its output has shape {tuple(embedding.shape)}"
        )
    classifier = known.get("classifier") or ()
    return _Facts(
        dim=embedding.shape[-1],
        **transform,
        licence=known.get("license") or "unknown",
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        weights=f"{model}.{training}" if training else model,
        repo=model.removeprefix(HUB) if model.startswith(HUB) else known.get("hf_hub_id") or "",
    )


def _transform(model: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing of timm, whose three ways to crop are equal for square patches.

    Raises WeightsError if milsurv does not support it.
    """
    try:
        colours, height, width = about["input_size"]
        share, interpolation = float(about["crop_pct"]), about["interpolation"]
        mean, std = (tuple(map(float, about[name])) for name in ("mean", "std"))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the description of {model} is invalid ({error})") from error
    faults = {
        f"inputs of {colours} channels and {height} × {width} px, but patches are square and have 3 channels": (
            colours != 3 or height != width
        ),
        f"a crop_pct of {share:g}; allowed: above 0, at most 1": not 0 < share <= 1,
        f"the interpolation {interpolation!r}; supported: bilinear and bicubic": (
            interpolation not in INTERPOLATIONS
        ),
        f"the mean {mean} and the standard deviation {std}; allowed: three numbers each, from 0 to 1": (
            len(mean) != 3 or len(std) != 3 or not 0 <= min(mean) <= max(mean) <= 1 or not min(std) > 0
        ),
    }
    for fault, found in faults.items():
        if found:
            raise WeightsError(f"the description of {model} has {fault}; write a backbone plugin for it")
    return {
        "input_px": height,
        "resize_px": resized_for_crop(height, share),
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }


class TimmModel(Backbone):
    """Any model of timm without its classifier, with timm's resizing, cropping, normalization and pooling."""

    Config = TimmModelConfig
    precision: Precision = "float32"
    gated = False
    magnification = 20
    expected_failures = {"config_round_trip": "there is no default model"}  # noqa: RUF012

    def __init__(self, config: TimmModelConfig):
        self.model = config.model
        self.weights = config.weights
        self._of = _facts(self.model)
        for name in ("dim", "input_px", "resize_px", "interpolation", "mean", "std", "licence"):
            setattr(self, name, getattr(self._of, name))

    def weights_id(self) -> str:
        return f"timm:{self._of.weights}" if self.weights is None else file_id(self.weights)

    def find_weights(self) -> FoundWeights:
        if self.weights is not None:
            return FoundWeights(self.weights)
        repo, _, revision = self._of.repo.partition("@")
        if not repo:
            return FoundWeights()
        return find_weights(repo, revision or "main", gated=self.model.startswith(HUB))

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        return PatchEncoder(self._network(), self).to(device, dtype).eval()

    def _network(self) -> nn.Module:
        if self.weights is not None:
            network = timm.create_model(self.model, pretrained=False, num_classes=0)
            behind = tuple(f"{layer}." for layer in self._of.classifier)
            published = read_state(self.weights)
            needed = {name: value for name, value in published.items() if not name.startswith(behind)}
            try:
                fill_network(network, needed, self.model, self.weights)
            except WeightsError as error:
                raise explain_mismatch(error, published, self.model) from None
            return network
        try:
            return timm.create_model(self.model, pretrained=True, num_classes=0)
        except Exception as error:
            raise WeightsError(
                f"the weights of {self.model} cannot be downloaded from the hub ({type(error).__name__}: "
                f"{first_line(error)}); if the model is gated, request access on its page and set a token in the "
                "environment variable HF_TOKEN; or use a local copy: backbone.weights: FILE (.safetensors, .pth)"
            ) from error
