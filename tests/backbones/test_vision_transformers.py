from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from milsurv.backbones.timm_hub import HubConfig
from milsurv.backbones.vision_transformers import (
    UNI,
    GigaPath,
    HOptimus1,
    PathologyTransformer,
    PhikonV2,
    UNI2h,
    Virchow2,
)
from milsurv.errors import WeightsError
from tests.backbones.formula import published_tensors, tensors_like
from tests.conftest import DATA

CPU = torch.device("cpu")
PUBLISHED = {
    UNI: (1024, 303_350_784),
    UNI2h: (1536, 681_394_176),
    Virchow2: (2560, 631_239_424),
    GigaPath: (1536, 1_134_953_984),
    HOptimus1: (1536, 1_134_774_272),
    PhikonV2: (1024, 303_350_784),
}
"""Width of an embedding and number of parameters. Prov-GigaPath's model card prints its number; the others' round
theirs (0.3 B, 681 M, 631 M, 1.1 B, 0.3 B), and the numbers are those of the networks that their recipes give."""


Made = dict[type[PathologyTransformer], PathologyTransformer]


def _shallow(preset: type[PathologyTransformer], depth: int = 2) -> type[PathologyTransformer]:
    return type(preset.__name__, (preset,), {"arguments": {**preset.arguments, "depth": depth}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Each preset with one block of its full width, and weights made by a formula in a file."""
    backbones: Made = {}
    for preset in PUBLISHED:
        shallow = _shallow(preset, depth=1)
        with torch.device("meta"):
            state = shallow(HubConfig()).build().state_dict()
        file: Path = tmp_path_factory.mktemp("weights") / f"{preset.__name__}.safetensors"
        save_file(tensors_like(state), file)
        backbones[preset] = shallow(HubConfig(weights=file))
    return backbones


def _patches(count: int, side: int = 224) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_whole_network_has_the_published_size(preset: type[PathologyTransformer]) -> None:
    dim, parameters = PUBLISHED[preset]
    backbone = preset(HubConfig())
    with torch.device("meta"), torch.inference_mode():
        network = backbone.build().eval()
        embedding = backbone.embedder(network)(torch.empty(2, 3, 224, 224))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert embedding.shape == (2, dim)
    assert backbone.dim == dim


@pytest.mark.parametrize("preset", PUBLISHED)
def test_an_embedding_has_its_width_and_does_not_depend_on_its_batch(
    preset: type[PathologyTransformer], made: Made
) -> None:
    encoder = made[preset].load(CPU, torch.float32)
    patches = _patches(2, 256)
    with torch.inference_mode():
        together = encoder(patches)
        alone = torch.cat([encoder(patch.unsqueeze(0)) for patch in patches])
    assert together.shape == (2, PUBLISHED[preset][0])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_bfloat16_turns_no_embedding_by_much(preset: type[PathologyTransformer], made: Made) -> None:
    encoder = made[preset].load(CPU, torch.float32)
    patches = _patches(2)
    with torch.inference_mode():
        exact = encoder(patches)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = encoder(patches).float()
    assert not torch.equal(exact, narrow)
    assert float(1 - torch.cosine_similarity(exact, narrow).min()) < 1e-2


def test_virchow2_joins_the_class_token_and_the_mean_of_the_patches_without_registers(made: Made) -> None:
    encoder: Any = made[Virchow2].load(CPU, torch.float32)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.manual_seed(0))
    with torch.inference_mode():
        tokens = encoder.network.transformer.forward_features(pixels)
        found = encoder.network(pixels)
    assert tokens.shape == (2, 1 + 4 + 16 * 16, 1280)
    for patch, vector in zip(tokens, found, strict=True):
        mean = sum(patch[index] for index in range(5, 261)) / 256
        torch.testing.assert_close(vector, torch.cat((patch[0], mean)), rtol=1e-4, atol=1e-5)


def test_hoptimus1_normalises_with_its_own_mean_and_deviation(made: Made) -> None:
    """By the numbers of its model card."""
    encoder: Any = made[HOptimus1].load(CPU, torch.float32)
    patches = _patches(2)
    mean = torch.tensor([0.707223, 0.578729, 0.703617]).view(1, 3, 1, 1)
    std = torch.tensor([0.211883, 0.230117, 0.177517]).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = encoder.network((patches / 255 - mean) / std)
        torch.testing.assert_close(encoder(patches), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def phikon() -> Any:
    return json.loads((DATA / "parity" / "phikon_v2.json").read_text())


def test_phikon_v2_read_by_its_published_names_is_the_dinov2_of_transformers(
    phikon: Any, tmp_path: Path
) -> None:
    save_file(published_tensors(phikon["keys"]), tmp_path / "model.safetensors")
    backbone = _shallow(PhikonV2)(HubConfig(weights=tmp_path / "model.safetensors"))
    encoder: Any = backbone.load(CPU, torch.float32)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = encoder.network(pixels)[:, :128]
    torch.testing.assert_close(found, torch.tensor(phikon["embedding"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("part", ["key.bias", "value.weight"])
def test_phikon_v2_names_a_part_of_attention_that_is_missing(phikon: Any, tmp_path: Path, part: str) -> None:
    tensors = published_tensors(phikon["keys"])
    del tensors[f"encoder.layer.1.attention.attention.{part}"]
    save_file(tensors, tmp_path / "cut.safetensors")
    backbone = _shallow(PhikonV2)(HubConfig(weights=tmp_path / "cut.safetensors"))
    kind = part.partition(".")[2]
    with pytest.raises(WeightsError, match=rf"tensor blocks\.1\.attn\.qkv\.{kind} is missing"):
        backbone.load(CPU, torch.float32)
