"""The contract of a backbone: patches in, vectors out."""

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
    """Where a backbone's weights are before they are loaded."""

    file: Path | None = None
    """On this machine; None when they are not, or when the backbone does not say."""
    note: str | None = None
    """What loading them does besides, such as a download; None for nothing."""


class Backbone(ABC):
    """Describes a pretrained network and loads it."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    dim: int
    """Width of an embedding."""
    input_px: int
    """Side in pixels of what the network gets."""
    resize_px: int | None = None
    """Side in pixels to which a patch is resized before the ``input_px`` in its centre are cut out; None for no cut."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How patches are resized; with antialiasing."""
    mean: tuple[float, float, float]
    """Of red, green and blue from 0 to 1, subtracted from them."""
    std: tuple[float, float, float]
    """What they are divided by then. All five are the preprocessing that the weights were published with."""
    licence: str
    gated: bool
    magnification: int
    """Recommended magnification."""
    trained_at: tuple[int, ...] = ()
    """Magnifications of the patches that it was trained on; empty for a network that was not trained on slides."""
    precision: Precision = "float32"
    """The narrowest type in which the network may compute, under autocast."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Keep the settings; no weights are read yet."""

    @property
    def transform(self) -> dict[str, Any]:
        """What is done to patches before the network, JSON-able: part of the features' fingerprint."""
        return {
            "resize_px": self.resize_px or self.input_px,
            "input_px": self.input_px,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @abstractmethod
    def weights_id(self) -> str:
        """What identifies the weights in fingerprints: a file's ``sha256:…`` or a hub's name and revision.

        Raises WeightsError when a weights file is named that is not there.
        """

    def find_weights(self) -> FoundWeights:
        """Where :meth:`load` will take the weights from; nothing is downloaded or read. Default: not known.

        Raises WeightsError when it is clear that they cannot be had.
        """
        return FoundWeights()

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The network in evaluation mode: uint8 ``(n, 3, h, w)`` in, ``(n, dim)`` of ``dtype`` out.

        Resizing and normalising happen inside, on the device. Raises WeightsError when weights cannot be had.
        """


def resized_for_crop(input_px: int, share: float = 0.875) -> int:
    """``resize_px`` of networks that see the central ``share`` of a picture, as timm counts it: 256 for 224 px."""
    return math.floor(input_px / share)


class PatchEncoder(nn.Module):
    """Resizes uint8 patches, cuts out their centre, normalises it and embeds it with ``network``, as ``backbone`` says.

    Resizing is done in float32: on a CPU PyTorch resizes nothing narrower.
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
            if self.interpolation == "bicubic":  # which overshoots
                pixels = pixels.clamp(0, 1)
        edge = round((self.resize_px - self.input_px) / 2)
        pixels = pixels[..., edge : edge + self.input_px, edge : edge + self.input_px]
        embeddings: Tensor = self.network((pixels.to(self.mean) - self.mean) / self.std)
        return embeddings
