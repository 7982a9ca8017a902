"""The contract of a backbone: patches in, vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from milsurv.plugin.base import PluginConfig

Precision = Literal["float32", "bfloat16", "float16"]


class Backbone(ABC):
    """Describes a pretrained network and loads it."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    dim: int
    """Width of an embedding."""
    input_px: int
    """Side in pixels to which patches are resized for the network."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How patches are resized, as the network's own preprocessing does it; with antialiasing."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    gated: bool
    magnification: int
    """Recommended magnification."""
    trained_at: tuple[int, ...] = ()
    """Magnifications of the patches that it was trained on; empty for a network that was not trained on slides."""
    precision: Precision = "float32"
    """The narrowest type in which the network may compute, under autocast."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Promises of ``milsurv.testing`` that this class need not keep, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Keep the settings; no weights are read yet."""

    @abstractmethod
    def weights_id(self) -> str:
        """What identifies the weights in fingerprints: a file's ``sha256:…`` or a hub's name and revision.

        Raises WeightsError when a weights file is named that is not there.
        """

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The network in evaluation mode: uint8 ``(n, 3, h, w)`` in, ``(n, dim)`` of ``dtype`` out.

        Resizing and normalising happen inside, on the device. Raises WeightsError when weights cannot be had.
        """


class PatchEncoder(nn.Module):
    """Resizes uint8 patches to ``input_px``, normalises them and embeds them with ``network``.

    Resizing is done in float32: on a CPU PyTorch resizes nothing narrower.
    """

    def __init__(self, network: nn.Module, backbone: Backbone):
        super().__init__()
        self.network = network
        self.input_px = backbone.input_px
        self.interpolation = backbone.interpolation
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """uint8 ``(n, 3, h, w)`` -> ``(n, dim)``."""
        pixels = patches.float() / 255
        if pixels.shape[-2:] != (self.input_px, self.input_px):
            pixels = nn.functional.interpolate(
                pixels,
                size=(self.input_px, self.input_px),
                mode=self.interpolation,
                antialias=True,
                align_corners=False,
            )
            if self.interpolation == "bicubic":  # which overshoots
                pixels = pixels.clamp(0, 1)
        embeddings: Tensor = self.network((pixels.to(self.mean) - self.mean) / self.std)
        return embeddings
