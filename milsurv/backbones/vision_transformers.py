"""Vision transformers pretrained on pathology slides, configured as on their model cards."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn

from milsurv.backbones.timm_hub import TimmBackbone

VIT = {"init_values": 1e-5, "dynamic_img_size": True, "weight_init": "skip"}
"""timm's arguments for most of them; weights are not initialized, since they are loaded."""


class PathologyTransformer(TimmBackbone):
    """A vision transformer for patches of 224 px at 0.5 µm/px; by default the class token is the embedding."""

    input_px = 224
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    gated = True
    magnification = 20
    trained_at: tuple[int, ...] = (20,)


class UNI(PathologyTransformer):
    """UNI (Chen et al., Nature Medicine 2024), ViT-L/16: 1024 features per patch."""

    architecture = "vit_large_patch16_224"
    arguments = VIT
    repo = "MahmoodLab/UNI"
    dim = 1024
    precision = "float16"
    licence = "CC-BY-NC-ND-4.0"


class UNI2h(PathologyTransformer):
    """UNI2-h (Mahmood Lab 2025), ViT-H/14 with 8 registers: 1536 features per patch."""

    architecture = "vit_giant_patch14_224"
    arguments = {  # noqa: RUF012
        **VIT,
        "depth": 24,
        "num_heads": 24,
        "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2,
        "reg_tokens": 8,
        "no_embed_class": True,
        "mlp_layer": SwiGLUPacked,
        "act_layer": nn.SiLU,
    }
    repo = "MahmoodLab/UNI2-h"
    dim = 1536
    precision = "bfloat16"
    licence = "CC-BY-NC-ND-4.0"


class Virchow2(PathologyTransformer):
    """Virchow2 (Zimmermann et al. 2024), ViT-H/14 with 4 registers: class token and mean patch token, 2560 features."""

    architecture = "vit_huge_patch14_224"
    arguments = {  # noqa: RUF012
        **VIT,
        "mlp_ratio": 5.3375,
        "reg_tokens": 4,
        "global_pool": "",
        "mlp_layer": SwiGLUPacked,
        "act_layer": nn.SiLU,
    }
    repo = "paige-ai/Virchow2"
    dim = 2560
    interpolation = "bicubic"
    precision = "float16"
    licence = "CC-BY-NC-ND-4.0"
    trained_at = (40, 20, 10, 5)

    def embedder(self, network: nn.Module) -> nn.Module:
        return ClassAndMeanToken(network)


class ClassAndMeanToken(nn.Module):
    """The class token of a vision transformer concatenated with the mean of its patch tokens, without registers."""

    def __init__(self, transformer: Any):
        super().__init__()
        self.transformer = transformer
        self.prefix_tokens: int = transformer.num_prefix_tokens

    def forward(self, pixels: Tensor) -> Tensor:
        """``(n, 3, h, w)`` -> ``(n, 2 · width)``."""
        tokens: Tensor = self.transformer(pixels)
        return torch.cat((tokens[:, 0], tokens[:, self.prefix_tokens :].mean(1)), dim=1)


class GigaPath(PathologyTransformer):
    """The tile encoder of Prov-GigaPath (Xu et al., Nature 2024), ViT-g/16: 1536 features per patch.

    As on its card, with a centre crop of 224 of 256 px.
    """

    architecture = "vit_giant_patch14_dinov2"
    arguments = {  # noqa: RUF012
        "img_size": 224,
        "patch_size": 16,
        "mlp_ratio": 5.33334,
        "dynamic_img_size": True,
        "weight_init": "skip",
    }
    repo = "prov-gigapath/prov-gigapath"
    dim = 1536
    resize_px = 256
    interpolation = "bicubic"
    precision = "float16"
    licence = "Apache-2.0, research only"


class HOptimus1(PathologyTransformer):
    """H-optimus-1 (Bioptimus 2025), ViT-g/14 with 4 registers: 1536 features per patch."""

    architecture = "vit_giant_patch14_reg4_dinov2"
    arguments = {"img_size": 224, "init_values": 1e-5, "weight_init": "skip"}  # noqa: RUF012
    repo = "bioptimus/H-optimus-1"
    dim = 1536
    interpolation = "bicubic"
    mean = (0.707223, 0.578729, 0.703617)
    std = (0.211883, 0.230117, 0.177517)
    precision = "float16"
    licence = "CC-BY-NC-ND-4.0"


class PhikonV2(PathologyTransformer):
    """Phikon-v2 (Filiot et al. 2024), ViT-L/16: 1024 features per patch."""

    architecture = "vit_large_patch16_224"
    arguments = VIT
    repo = "owkin/phikon-v2"
    dim = 1024
    interpolation = "bicubic"
    licence = "Owkin, non-commercial"
    gated = False

    def renamed(self, published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        tensors = {_timm_name(name): value for name, value in published.items() if name != MASK_TOKEN}
        for name in [name for name in tensors if ".attn.query." in name]:
            parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if all(part in tensors for part in parts):
                merged = torch.cat([tensors.pop(part) for part in parts])
                tensors[name.replace(".query.", ".qkv.")] = merged
        return tensors


MASK_TOKEN = "embeddings.mask_token"
"""Only used in training."""
DINOV2_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
"""Names of tensors in transformers' Dinov2 -> in timm's vision transformer."""


def _timm_name(name: str) -> str:
    for pattern, replacement in DINOV2_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
