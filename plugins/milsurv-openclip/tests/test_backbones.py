from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from milsurv_openclip.backbones import Conch, QuiltNet

open_clip = import_module("open_clip")
CPU = torch.device("cpu")
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
State = dict[str, Tensor]


def _patches(n: int, px: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, px, px), dtype=torch.uint8, generator=generator)


def _normalised(patches: Tensor) -> Tensor:
    return (patches.float() / 255 - MEAN) / STD


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _attention(heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Head by head: softmax(q k' / sqrt(width of a head)) v."""
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    scale = math.sqrt(q.shape[-1] / heads)
    return torch.cat([torch.softmax(a @ b.transpose(1, 2) / scale, -1) @ c for a, b, c in parts], -1)


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _cut(state: State, pixels: Tensor, name: str, px: int) -> Tensor:
    """Squares of ``px`` pixels, row by row, each projected: ``(n, squares, 768)``."""
    n, _, height, width = pixels.shape
    squares = [
        pixels[:, :, top : top + px, left : left + px].reshape(n, -1)
        for top in range(0, height, px)
        for left in range(0, width, px)
    ]
    return torch.stack(squares, 1) @ state[f"{name}.weight"].reshape(768, -1).T


def _conch(state: State, pixels: Tensor) -> Tensor:
    """CONCH's embedding, written out: encode_image(proj_contrast=False, normalize=False)."""
    tokens = _cut(state, pixels, "trunk.patch_embed.proj", 16) + state["trunk.patch_embed.proj.bias"]
    tokens = (
        torch.cat([state["trunk.cls_token"].expand(len(tokens), 1, 768), tokens], 1)
        + state["trunk.pos_embed"]
    )
    for block in (f"trunk.blocks.{index}" for index in range(12)):
        qkv = _linear(state, f"{block}.attn.qkv", _norm(state, f"{block}.norm1", tokens, 1e-6))
        tokens = tokens + _linear(state, f"{block}.attn.proj", _attention(12, *qkv.chunk(3, -1)))
        hidden = _linear(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", tokens, 1e-6))
        tokens = tokens + _linear(state, f"{block}.mlp.fc2", _gelu(hidden))
    tokens = _norm(state, "trunk.norm", tokens, 1e-6)
    pool = "attn_pool_contrast"
    keys = _norm(state, f"{pool}.ln_k", tokens, 1e-5)
    query = _norm(state, f"{pool}.ln_q", state[f"{pool}.query"], 1e-5).expand(len(tokens), 1, 512)
    bias_q, bias_k, bias_v = state[f"{pool}.attn.in_proj_bias"].chunk(3)
    pooled = _attention(
        8,
        query @ state[f"{pool}.attn.q_proj_weight"].T + bias_q,
        keys @ state[f"{pool}.attn.k_proj_weight"].T + bias_k,
        keys @ state[f"{pool}.attn.v_proj_weight"].T + bias_v,
    )
    return _norm(state, "ln_contrast", _linear(state, f"{pool}.attn.out_proj", pooled)[:, 0], 1e-5)


def _quiltnet(state: State, pixels: Tensor) -> Tensor:
    """QuiltNet's pooled features, written out: the normalised class token, with exact GELU, without projection."""
    tokens = _cut(state, pixels, "conv1", 32)
    tokens = torch.cat([state["class_embedding"].expand(len(tokens), 1, 768), tokens], 1)
    tokens = _norm(state, "ln_pre", tokens + state["positional_embedding"], 1e-5)
    for block in (f"transformer.resblocks.{index}" for index in range(12)):
        inputs = _norm(state, f"{block}.ln_1", tokens, 1e-5)
        qkv = inputs @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]
        tokens = tokens + _linear(state, f"{block}.attn.out_proj", _attention(12, *qkv.chunk(3, -1)))
        hidden = _linear(state, f"{block}.mlp.c_fc", _norm(state, f"{block}.ln_2", tokens, 1e-5))
        tokens = tokens + _linear(state, f"{block}.mlp.c_proj", _gelu(hidden))
    return _norm(state, "ln_post", tokens[:, 0], 1e-5)


def _visual(state: State) -> State:
    """The vision tensors in double precision, named as in the tower."""
    return {name.removeprefix("visual."): t for name, t in state.items() if name.startswith("visual.")}


def test_conch_gives_the_forward_pass_written_out(conch_file: Path, conch_state: State) -> None:
    encoder = Conch(Conch.Config(weights=conch_file)).load(CPU, torch.float32)
    patches = _patches(1, 448)
    with torch.inference_mode():
        found = encoder(patches)
        expected = _conch(_visual(conch_state), _normalised(patches))
    assert found.shape == (1, Conch.dim)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def quiltnet(quiltnet_file: Path) -> nn.Module:
    return QuiltNet(QuiltNet.Config(weights=quiltnet_file)).load(CPU, torch.float32)


def test_quiltnet_gives_the_forward_pass_written_out(quiltnet: nn.Module, quiltnet_state: State) -> None:
    patches = _patches(2, 224)
    with torch.inference_mode():
        found = quiltnet(patches)
        expected = _quiltnet(_visual(quiltnet_state), _normalised(patches))
    assert found.shape == (2, QuiltNet.dim)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_quiltnet_projected_is_open_clips_image_embedding(
    quiltnet: nn.Module, quiltnet_file: Path, quiltnet_state: State
) -> None:
    model = open_clip.create_model("ViT-B-32", pretrained=str(quiltnet_file)).eval()
    patches = _patches(2, 224)
    with torch.inference_mode():
        found = quiltnet(patches) @ quiltnet_state["visual.proj"]
        expected = model.encode_image(_normalised(patches))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_position_embeddings_are_resampled_as_open_clip_does(
    quiltnet_file: Path, quiltnet_state: State
) -> None:
    state = dict(quiltnet_state)
    open_clip.model.resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(5, 5))))
    encoder = QuiltNet(QuiltNet.Config(weights=quiltnet_file, input_px=160)).load(CPU, torch.float32)
    patches = _patches(2, 160)
    with torch.inference_mode():
        expected = _quiltnet(_visual(state), _normalised(patches))
        torch.testing.assert_close(encoder(patches), expected, rtol=1e-4, atol=1e-4)


def test_the_same_tensors_as_safetensors_give_the_same_numbers(
    quiltnet: nn.Module, quiltnet_state: State, tmp_path: Path
) -> None:
    file = tmp_path / "vision.safetensors"
    save_file({n: t for n, t in quiltnet_state.items() if n.startswith("visual.")}, file)
    patches = _patches(1, 256)
    with torch.inference_mode():
        found = QuiltNet(QuiltNet.Config(weights=file)).load(CPU, torch.float32)(patches)
        assert torch.equal(found, quiltnet(patches))
    file.unlink()


def test_the_file_or_the_release_identifies_the_weights(tmp_path: Path) -> None:
    assert (
        Conch(Conch.Config()).weights_id() == "hub:MahmoodLab/CONCH@f9ca9f877171a28ade80228fb195ac5d79003357"
    )
    assert QuiltNet(QuiltNet.Config()).weights_id().startswith("hub:wisdomik/QuiltNet-B-32@")
    file = tmp_path / "w.bin"
    file.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Conch(Conch.Config(weights=file)).weights_id() == f"sha256:{digest}"


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Conch.Config(weights=Path("w.bin")).weights == tmp_path / "w.bin"


@pytest.mark.parametrize(("backbone", "side"), [(Conch, 16), (QuiltNet, 32)])
def test_the_input_is_cut_into_whole_squares(backbone: type[Conch] | type[QuiltNet], side: int) -> None:
    assert backbone.Config(input_px=5 * side).input_px == 5 * side
    with pytest.raises(ValidationError, match=f"multiple of {side}"):
        backbone.Config(input_px=5 * side + 8)
