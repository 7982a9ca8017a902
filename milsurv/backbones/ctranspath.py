"""CTransPath: a Swin transformer with a convolutional stem, pretrained on 15 million pathology patches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from milsurv.backbones.base import FoundWeights
from milsurv.backbones.timm_hub import TimmBackbone
from milsurv.backbones.weights import file_id
from milsurv.config.section import AbsolutePath
from milsurv.errors import WeightsError
from milsurv.plugin.base import PluginConfig

PUBLISHED = "https://github.com/Xiyue-Wang/TransPath"


class ConvStem(nn.Module):
    """Two strided 3×3 convolutions and a 1×1 convolution instead of Swin's patch embedding."""

    def __init__(self, img_size: Any, embed_dim: int = 96, norm_layer: Any = nn.LayerNorm, **_settings: Any):
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.grid_size = (side // 4, side // 4)
        layers: list[nn.Module] = []
        for width_in, width in ((3, embed_dim // 8), (embed_dim // 8, embed_dim // 4)):
            layers += [
                nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, 1))
        self.norm = norm_layer(embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(n, 3, h, w)`` -> ``(n, h / 4, w / 4, embed_dim)``."""
        tokens: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


class CTransPathConfig(PluginConfig):
    """Settings of CTransPath."""

    weights: AbsolutePath | None = None
    """The published ``ctranspath.pth``, or its tensors as safetensors. Required, because it is not on the hub."""


class CTransPath(TimmBackbone):
    """CTransPath (Wang et al., Medical Image Analysis 2022): 768 features per patch. Weights: GPL-3.0."""

    Config = CTransPathConfig
    architecture = "swin_tiny_patch4_window7_224"
    arguments = {"embed_layer": ConvStem}  # noqa: RUF012
    dim = 768
    input_px = 224
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    licence = "GPL-3.0"
    gated = False
    magnification = 20
    trained_at = (20,)

    def __init__(self, config: CTransPathConfig):
        self.weights = config.weights

    def weights_id(self) -> str:
        return file_id(self.source())

    def find_weights(self) -> FoundWeights:
        return FoundWeights(self.source())

    def source(self) -> Path:
        if self.weights is None:
            raise WeightsError(
                f"backbone ctranspath needs a local weights file: download ctranspath.pth from {PUBLISHED} and set "
                "backbone.weights: FILE"
            )
        return self.weights

    def renamed(self, published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        """The published file was written with a timm that had more buffers, and downsampling at the end of stages."""
        kept = {name: tensor for name, tensor in published.items() if not name.endswith(COMPUTED)}
        if "layers.0.downsample.reduction.weight" not in kept:
            return kept
        return {_next_stage(name): tensor for name, tensor in kept.items()}


COMPUTED = ("relative_position_index", "attn_mask")


def _next_stage(name: str) -> str:
    return re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", name)
