"""Files in the layout of the released checkpoints, filled with random numbers, and the forward pass written out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, wide: int, narrow: int) -> Shapes:
    return {f"{name}.weight": (wide, narrow), f"{name}.bias": (wide,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _pooler(name: str, queries: int, width: int) -> Shapes:
    return {
        f"{name}.query": (queries, width),
        f"{name}.attn.q_proj_weight": (width, width),
        f"{name}.attn.k_proj_weight": (width, 768),
        f"{name}.attn.v_proj_weight": (width, 768),
        f"{name}.attn.in_proj_bias": (3 * width,),
        **_linear(f"{name}.attn.out_proj", width, width),
        **_norm(f"{name}.ln_q", width),
        **_norm(f"{name}.ln_k", 768),
    }


def _conch() -> Shapes:
    """Names and shapes of CONCH's pytorch_model.bin; of the text tower only a few."""
    shapes: Shapes = {
        "logit_scale": (),
        "text.cls_emb": (768,),
        "text.ln_final.weight": (768,),
        "visual.proj_contrast": (512, 512),
        "visual.trunk.cls_token": (1, 1, 768),
        "visual.trunk.pos_embed": (1, 1 + 28 * 28, 768),
        "visual.trunk.patch_embed.proj.weight": (768, 3, 16, 16),
        "visual.trunk.patch_embed.proj.bias": (768,),
    }
    for index in range(12):
        block = f"visual.trunk.blocks.{index}"
        shapes |= _norm(f"{block}.norm1", 768) | _norm(f"{block}.norm2", 768)
        shapes |= _linear(f"{block}.attn.qkv", 3 * 768, 768) | _linear(f"{block}.attn.proj", 768, 768)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * 768, 768) | _linear(f"{block}.mlp.fc2", 768, 4 * 768)
    shapes |= _norm("visual.trunk.norm", 768)
    shapes |= _pooler("visual.attn_pool_contrast", 1, 512) | _norm("visual.ln_contrast", 512)
    shapes |= _pooler("visual.attn_pool_caption", 256, 768) | _norm("visual.ln_caption", 768)
    return shapes


def _clip_blocks(prefix: str, width: int) -> Shapes:
    shapes: Shapes = {}
    for index in range(12):
        block = f"{prefix}transformer.resblocks.{index}"
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
        }
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _linear(f"{block}.mlp.c_fc", 4 * width, width)
        shapes |= _linear(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes


def _quiltnet() -> Shapes:
    """Names and shapes of QuiltNet-B-32's open_clip_pytorch_model.bin, the text tower too: open_clip loads it."""
    shapes: Shapes = {
        "logit_scale": (),
        "positional_embedding": (77, 512),
        "text_projection": (512, 512),
        "token_embedding.weight": (49408, 512),
        "visual.class_embedding": (768,),
        "visual.positional_embedding": (1 + 7 * 7, 768),
        "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 32, 32),
    }
    shapes |= _norm("ln_final", 512) | _norm("visual.ln_pre", 768) | _norm("visual.ln_post", 768)
    return shapes | _clip_blocks("", 512) | _clip_blocks("visual.", 768)


def _random(shapes: Shapes) -> dict[str, Tensor]:
    """Random numbers for the vision tower, about as large as trained ones, norms near 1; zeros for the text tower."""
    generator = torch.Generator().manual_seed(0)
    state = _zeros(shapes)
    for name in (name for name in shapes if name.startswith("visual.")):
        norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) or ".ln_" in name
        state[name] = 0.12 * (torch.rand(shapes[name], generator=generator) - 0.5) + float(norm)
    return state


def _zeros(shapes: Shapes) -> dict[str, Tensor]:
    """As many zeros as the released file has numbers."""
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _save(state: dict[str, Tensor], folder: Path, name: str) -> Path:
    file = folder / name
    torch.save(state, file)
    return file


@pytest.fixture(scope="session")
def conch_state() -> dict[str, Tensor]:
    return _random(_conch())


@pytest.fixture(scope="session")
def quiltnet_state() -> dict[str, Tensor]:
    return _random(_quiltnet())


@pytest.fixture(scope="session")
def conch_file(conch_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = _save(conch_state, tmp_path_factory.mktemp("conch"), "pytorch_model.bin")
    yield file
    file.unlink()


@pytest.fixture(scope="session")
def quiltnet_file(
    quiltnet_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    file = _save(quiltnet_state, tmp_path_factory.mktemp("quiltnet"), "open_clip_pytorch_model.bin")
    yield file
    file.unlink()


@pytest.fixture(scope="session")
def conch_zeros() -> dict[str, Tensor]:
    return _zeros(_conch())
