"""A backbone without a network, for tests: a patch's colour statistics."""

import torch
from torch import Tensor, nn

from milsurv import Backbone, PluginConfig, Register, hookimpl


class ColourBackbone(Backbone):
    """Mean and deviation of each colour over the patch."""

    Config = PluginConfig
    dim = 6
    input_px = 64
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    licence = "Apache-2.0"
    gated = False
    magnification = 20

    def __init__(self, config: PluginConfig):
        self.config = config

    def weights_id(self) -> str:
        return "none"

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:  # noqa: ARG002
        return ColourStatistics(dtype)


class ColourStatistics(nn.Module):
    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, patches: Tensor) -> Tensor:
        pixels = patches.float().flatten(2) / 255
        return torch.cat((pixels.mean(2), pixels.std(2)), 1).to(self.dtype)


@hookimpl
def milsurv_register_backbones(register: Register) -> None:
    register("colour", f"{__name__}:ColourBackbone", summary="colour statistics, for tests")
