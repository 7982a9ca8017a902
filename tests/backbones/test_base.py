from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from milsurv.backbones.base import Backbone, PatchEncoder
from milsurv.plugin.base import PluginConfig, PluginSection
from milsurv.plugin.registry import get_registry
from tests.data.plugins.colour_backbone import ColourBackbone

MIDDLE = (96, 160)
"""Grey levels of patches whose bicubic overshoot stays within 0 to 255, so that nobody clips."""
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


def _patch(side: int, low: int = MIDDLE[0], high: int = MIDDLE[1]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(low, high, (2, 3, side, side), dtype=torch.uint8, generator=generator)


def _seen(backbone: Backbone, patches: torch.Tensor) -> torch.Tensor:
    seen: torch.Tensor = PatchEncoder(nn.Identity(), backbone)(patches)
    return seen


def _published(
    resize: int, crop: int, way: InterpolationMode, mean: Sequence[float], std: Sequence[float]
) -> transforms.Compose:
    """torchvision's transforms, as model cards write them down, on pictures from 0 to 1."""
    return transforms.Compose(
        [
            transforms.Resize(resize, interpolation=way, antialias=True),
            transforms.CenterCrop(crop),
            transforms.Normalize(mean, std),
        ]
    )


BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CARDS = {
    "uni": _published(224, 224, BILINEAR, *IMAGENET),
    "uni2_h": _published(224, 224, BILINEAR, *IMAGENET),
    "virchow2": _published(224, 224, BICUBIC, *IMAGENET),
    "gigapath": _published(256, 224, BICUBIC, *IMAGENET),
    "hoptimus1": _published(
        224, 224, BICUBIC, (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
    ),
    "phikon_v2": _published(224, 224, BICUBIC, *IMAGENET),
    "ctranspath": _published(224, 224, BILINEAR, *IMAGENET),
    "resnet18": _published(256, 224, BILINEAR, *IMAGENET),
    "resnet50": _published(256, 224, BILINEAR, *IMAGENET),
    "resnet50_trunc": _published(224, 224, BILINEAR, *IMAGENET),
    "efficientnet_lite0": _published(256, 224, BICUBIC, (0.5,) * 3, (0.5,) * 3),
}


def test_every_preset_has_its_card_here() -> None:
    built_in = {info.name for info in get_registry().plugins if info.kind == "backbone"}
    assert built_in == {*CARDS, "timm"}


@pytest.mark.parametrize("side", [224, 256, 300])
@pytest.mark.parametrize("name", CARDS)
def test_a_preset_does_to_patches_what_its_card_says(name: str, side: int) -> None:
    backbone: Backbone = get_registry().create("backbone", PluginSection(name=name))
    patches = _patch(side)
    seen = _seen(backbone, patches)
    assert seen.shape[-2:] == (backbone.input_px, backbone.input_px)
    torch.testing.assert_close(seen, CARDS[name](patches / 255), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("resize", "crop"), [(255, 224), (257, 224), (64, 64), (65, 64), (81, 72), (100, 1)])
@pytest.mark.parametrize("side", [63, 64, 224, 257])
def test_the_centre_is_cut_out_where_torchvision_cuts(resize: int, crop: int, side: int) -> None:
    backbone = ColourBackbone(PluginConfig())
    backbone.resize_px, backbone.input_px = resize, crop
    patches = _patch(side)
    expected = _published(resize, crop, BILINEAR, backbone.mean, backbone.std)(patches / 255)
    torch.testing.assert_close(_seen(backbone, patches), expected, rtol=0, atol=1e-5)


def test_a_backbone_that_says_nothing_of_a_crop_sees_the_whole_patch() -> None:
    """Plugins that were written before there was ``resize_px``."""
    backbone = ColourBackbone(PluginConfig())
    assert backbone.resize_px is None
    patches = _patch(backbone.input_px)
    torch.testing.assert_close(_seen(backbone, patches), patches / 255)
    assert backbone.transform == {
        "resize_px": 64,
        "input_px": 64,
        "interpolation": "bilinear",
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }


def test_bicubic_stays_within_the_colours_there_are() -> None:
    backbone = ColourBackbone(PluginConfig())
    backbone.input_px, backbone.interpolation = 100, "bicubic"
    seen = _seen(backbone, _patch(40, 0, 256))
    assert (seen.min().item(), seen.max().item()) == (0, 1)
