"""ResNets trained on ImageNet, from timm."""

from __future__ import annotations

import timm
import torch
from pydantic import PositiveInt
from torch import nn

from milsurv.backbones.base import Backbone, PatchEncoder
from milsurv.backbones.timm_network import timm_network
from milsurv.backbones.weights import file_id
from milsurv.config import AbsolutePath
from milsurv.plugin.base import PluginConfig


class ResNetConfig(PluginConfig):
    """Settings of a ResNet."""

    weights: AbsolutePath | None = None
    """Local weights (safetensors, or .pth of tensors by name); by default timm's, from the hub."""
    input_px: PositiveInt = 224
    """Side to which patches are resized."""


class ResNet(Backbone):
    """A ResNet of timm, global average pooled. Weights: torchvision, BSD-3-Clause."""

    Config = ResNetConfig
    model: str
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    licence = "BSD-3-Clause"
    gated = False
    magnification = 20

    def __init__(self, config: ResNetConfig):
        self.weights = config.weights
        self.input_px = config.input_px

    def weights_id(self) -> str:
        if self.weights is not None:
            return file_id(self.weights)
        pretrained = timm.get_pretrained_cfg(self.model)
        return f"hub:{pretrained.hf_hub_id}" if pretrained and pretrained.hf_hub_id else f"timm:{self.model}"

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        network = timm_network(self.model, self.weights)
        return PatchEncoder(network, self).to(device, dtype).eval()


class ResNet18(ResNet):
    """ResNet-18 (He et al. 2016): 512 features a patch."""

    model = "resnet18.tv_in1k"
    dim = 512


class ResNet50(ResNet):
    """ResNet-50 (He et al. 2016): 2048 features a patch."""

    model = "resnet50.tv_in1k"
    dim = 2048


class ResNet50Trunc(ResNet):
    """ResNet-50 up to its third stage, 1024 features a patch: what CLAM (Lu et al. 2021) calls resnet50_trunc."""

    model = "resnet50.tv_in1k"
    dim = 1024

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        network = timm_network(self.model, self.weights)
        network.layer4 = nn.Identity()
        return PatchEncoder(network, self).to(device, dtype).eval()
