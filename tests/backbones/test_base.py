from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from milsurv.backbones.base import PatchEncoder
from milsurv.plugin.base import PluginConfig
from tests.data.plugins.colour_backbone import ColourBackbone

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("side", [40, 100])
def test_patches_are_resized_as_pillow_does_and_then_normalised(interpolation: str, side: int) -> None:
    """Within 1.2 grey levels: Pillow rounds after each axis, and bicubic weights add up to 1.25 without their signs."""
    backbone = ColourBackbone(PluginConfig())
    backbone.input_px, backbone.mean, backbone.std = side, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    backbone.interpolation = interpolation  # type: ignore[assignment]
    picture = np.random.default_rng(0).integers(96, 160, (64, 64, 3), np.uint8)
    resized = Image.fromarray(picture).resize((side, side), RESAMPLING[interpolation])
    expected = (np.asarray(resized) / 255 - backbone.mean) / backbone.std
    patches = torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0)
    found = PatchEncoder(nn.Identity(), backbone)(patches)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1.2 / 255 / 0.2)
