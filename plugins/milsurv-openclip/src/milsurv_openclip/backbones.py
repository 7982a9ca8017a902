"""CONCH and QuiltNet: what they are, and their vision towers up to the embedding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field, PositiveInt
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from milsurv import Backbone, FoundWeights, PatchEncoder, PluginConfig, file_id, read_state
from milsurv_openclip.weights import Release


class TowerConfig(PluginConfig):
    """Settings of a vision tower."""

    weights: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] | None = None
    """Local copy of the checkpoint (safetensors, .bin, .pt or .pth of tensors by name); by default the hub's."""
    input_px: PositiveInt
    """Side to which patches are resized."""


class Tower(Backbone):
    """The vision tower of a released vision-language model.

    Both releases resize the shorter side to what the tower takes, bicubic, and crop to a square: patches are square.
    """

    release: ClassVar[Release]
    interpolation = "bicubic"
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    magnification = 20

    def __init__(self, config: TowerConfig):
        self.weights = config.weights
        self.input_px = config.input_px

    def weights_id(self) -> str:
        return self.release.id if self.weights is None else file_id(self.weights)

    def find_weights(self) -> FoundWeights:
        return self.release.find() if self.weights is None else FoundWeights(self.weights)

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        return PatchEncoder(self.network(), self).to(device, dtype).eval()

    @abstractmethod
    def network(self) -> nn.Module:
        """The tower with its weights: normalised float32 ``(n, 3, input_px, input_px)`` in, ``(n, dim)`` out."""

    def filled(self, build: Callable[[], nn.Module]) -> nn.Module:
        """What ``build`` makes, with the weights of the local file, else of the hub, in it.

        Raises WeightsError when they cannot be had, which is seen before anything is built, or do not fit.
        """
        source = self.release.fetch() if self.weights is None else self.weights
        state = read_state(source)
        tower = build()
        self.release.fill(tower, state, source)
        return tower


class ConchTower(nn.Module):
    """CONCH's vision tower: a ViT-B/16 whose tokens are pooled by the attention of one learned query.

    open_clip's CoCa names its tensors otherwise and has one pooler for both of its tasks, so it cannot hold the
    released tensors; the pooler itself (CoCa, Yu et al. 2022, section 3.2) is open_clip's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=448,
            patch_size=16,
            embed_dim=768,
            depth=12,
            num_heads=12,
            num_classes=0,
            dynamic_img_size=True,
            weight_init="skip",
        )
        self.attn_pool_contrast = _open_clip().transformer.AttentionalPooler(
            d_model=512, context_dim=768, n_head=8, n_queries=1
        )
        self.ln_contrast = nn.LayerNorm(512)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised ``(n, 3, h, w)``, both sides multiples of 16 -> ``(n, 512)``, neither projected nor normalised."""
        tokens = self.trunk.forward_features(pixels)
        embeddings: Tensor = self.ln_contrast(self.attn_pool_contrast(tokens)[:, 0])
        return embeddings


class Conch(Tower):
    """CONCH (Lu et al., Nature Medicine 2024): 512 features a patch, before the projection to the text space.

    Weights: CC-BY-NC-ND-4.0, gated.
    """

    class Config(TowerConfig):
        """Settings of CONCH."""

        input_px: PositiveInt = Field(default=448, multiple_of=16)
        """Side to which patches are resized; another than 448 resamples the position embeddings."""

    release = Release(
        model="CONCH",
        repo="MahmoodLab/CONCH",
        revision="f9ca9f877171a28ade80228fb195ac5d79003357",
        file="pytorch_model.bin",
        gated=True,
        beyond=("proj_contrast", "attn_pool_caption.", "ln_caption."),
    )
    dim = 512
    licence = "CC-BY-NC-ND-4.0"
    gated = release.gated

    def network(self) -> nn.Module:
        return self.filled(ConchTower)


class QuiltNet(Tower):
    """QuiltNet-B-32 (Ikezogwo et al., NeurIPS 2023): 768 features a patch, before the projection to 512.

    Weights: MIT. These are the pooled features that the CrossFusion paper (Soraki et al. 2026) uses.
    """

    class Config(TowerConfig):
        """Settings of QuiltNet."""

        input_px: PositiveInt = Field(default=224, multiple_of=32)
        """Side to which patches are resized; another than 224 resamples the position embeddings."""

    release = Release(
        model="QuiltNet-B-32",
        repo="wisdomik/QuiltNet-B-32",
        revision="8ce77289ce35a90b2f1db1137dfa4bc2df175e33",
        file="open_clip_pytorch_model.bin",
        gated=False,
    )
    dim = 768
    licence = "MIT"
    gated = release.gated

    def network(self) -> nn.Module:
        tower: Any = self.filled(_vit_b_32)
        tower.proj = None
        grid = self.input_px // 32
        positions = resample_abs_pos_embed(tower.positional_embedding[None], new_size=[grid, grid])[0]
        tower.positional_embedding = nn.Parameter(positions)
        network: nn.Module = tower
        return network


def _vit_b_32() -> nn.Module:
    """CLIP's vision tower, as in the released open_clip_config.json: GELU, not the QuickGELU of OpenAI's CLIP."""
    tower: nn.Module = _open_clip().transformer.VisionTransformer(
        image_size=224, patch_size=32, width=768, layers=12, heads=12, mlp_ratio=4.0, output_dim=512
    )
    return tower


def _open_clip() -> ModuleType:
    """open_clip, imported when a tower is built: settings are read without it."""
    return import_module("open_clip")
