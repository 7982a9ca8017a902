"""ResNets trained on ImageNet, from timm."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from milsurv.backbones.base import resized_for_crop
from milsurv.backbones.timm_hub import HubConfig, TimmBackbone


class ResNetConfig(HubConfig):
    """Settings of a ResNet."""

    input_px: PositiveInt = 224
    """Input size of the network in pixels."""


class ResNet(TimmBackbone):
    """A ResNet of timm, global average pooled. Weights: torchvision, BSD-3-Clause.

    As evaluated by torchvision: a centre crop of 224 of 256 px.
    """

    Config = ResNetConfig
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    precision = "bfloat16"
    licence = "BSD-3-Clause"
    gated = False
    magnification = 20

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.input_px = config.input_px
        self.resize_px = resized_for_crop(config.input_px)

    def renamed(self, published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        return {name: tensor for name, tensor in published.items() if not name.startswith("fc.")}


class ResNet18(ResNet):
    """ResNet-18 (He et al. 2016): 512 features per patch."""

    architecture = "resnet18"
    repo = "timm/resnet18.tv_in1k"
    dim = 512


class ResNet50(ResNet):
    """ResNet-50 (He et al. 2016): 2048 features per patch."""

    architecture = "resnet50"
    repo = "timm/resnet50.tv_in1k"
    dim = 2048


class ResNet50Trunc(ResNet):
    """ResNet-50 up to its third stage, 1024 features per patch: resnet50_trunc of CLAM (Lu et al. 2021).

    CLAM resizes the whole patch to 224 px without cropping.
    """

    architecture = "resnet50"
    repo = "timm/resnet50.tv_in1k"
    dim = 1024

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.resize_px = None

    def embedder(self, network: Any) -> nn.Module:
        network.layer4 = nn.Identity()
        return network  # type: ignore[no-any-return]
