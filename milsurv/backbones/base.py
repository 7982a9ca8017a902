"""The base class of backbones, and the preprocessing of patches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from milsurv.plugin.base import PluginConfig

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class FoundWeights:
    """Location of a backbone's weights before they are loaded."""

    file: Path | None = None
    """Local file; None if there is none, or if it is not known."""
    note: str | None = None
    """What loading them involves, such as a download."""


class Backbone(ABC):
    """A pretrained network: its description, and how it is loaded."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    dim: int
    """Width of an embedding."""
    input_px: int
    """Input size of the network in pixels."""
    resize_px: int | None = None
    """Size to which a patch is resized before it is centre-cropped to ``input_px``; None for no crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How patches are resized, with antialiasing."""
    mean: tuple[float, float, float]
    """Of red, green and blue in [0, 1], subtracted before dividing by ``std``."""
    std: tuple[float, float, float]
    """Divisor of red, green and blue. All five are the preprocessing published with the weights."""
    licence: str
    gated: bool
    magnification: int
    """Recommended magnification."""
    trained_at: tuple[int, ...] = ()
    """Magnifications of the patches it was trained on; empty if it was not trained on slides."""
    precision: Precision = "float32"
    """The narrowest dtype that the network supports under autocast."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Store the settings; no weights are read yet."""

    @property
    def transform(self) -> dict[str, Any]:
        """The preprocessing, JSON-serializable: part of the fingerprint of features."""
        return {
            "resize_px": self.resize_px or self.input_px,
            "input_px": self.input_px,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @abstractmethod
    def weights_id(self) -> str:
        """Identifies the weights in fingerprints: a file's ``sha256:…``, or repository and revision on the hub.

        Raises WeightsError if a configured weights file does not exist.
        """

    def find_weights(self) -> FoundWeights:
        """Where :meth:`load` will find the weights, without downloading or reading them. Default: not known.

        Raises WeightsError if they are known to be unavailable.
        """
        return FoundWeights()

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The network in evaluation mode: uint8 ``(n, 3, h, w)`` in, ``(n, dim)`` of ``dtype`` out.

        It includes resizing and normalization, on the device. Raises WeightsError if weights are not available.
        """


def resized_for_crop(input_px: int, share: float = 0.875) -> int:
    """``resize_px`` for a centre crop of ``share`` (timm's ``crop_pct``): 256 for 224 px."""
    return math.floor(input_px / share)


class PatchEncoder(nn.Module):
    """Resizes, centre-crops and normalizes uint8 patches as ``backbone`` describes, and embeds them with ``network``.

    Resizing is done in float32, since PyTorch does not support narrower dtypes on CPUs.
    """

    def __init__(self, network: nn.Module, backbone: Backbone):
        super().__init__()
        self.network = network
        self.input_px = backbone.input_px
        self.resize_px = backbone.resize_px or backbone.input_px
        self.interpolation = backbone.interpolation
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """uint8 ``(n, 3, h, w)`` -> ``(n, dim)``."""
        pixels = patches.float() / 255
        if pixels.shape[-2:] != (self.resize_px, self.resize_px):
            pixels = nn.functional.interpolate(
                pixels,
                size=(self.resize_px, self.resize_px),
                mode=self.interpolation,
                antialias=True,
                align_corners=False,
            )
            if self.interpolation == "bicubic":  # it overshoots
                pixels = pixels.clamp(0, 1)
        edge = round((self.resize_px - self.input_px) / 2)
        pixels = pixels[..., edge : edge + self.input_px, edge : edge + self.input_px]
        embeddings: Tensor = self.network((pixels.to(self.mean) - self.mean) / self.std)
        return embeddings
