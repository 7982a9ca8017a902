from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from torch import Tensor, nn

from milsurv.backbones.base import PatchEncoder
from milsurv.backbones.timm_model import TimmModel, TimmModelConfig
from milsurv.errors import WeightsError
from tests.backbones.formula import tensors_like

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _made(model: str, **arguments: Any) -> nn.Module:
    """A network with weights made by a formula."""
    network = timm.create_model(model, **arguments)
    network.load_state_dict(tensors_like(network.state_dict()))
    return network.eval()


def _normalised(patches: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (patches / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def _as_timm_evaluates(network: nn.Module, patches: Tensor) -> Tensor:
    """Patches through timm's own transform of the network, which works on tensors from 0 to 1."""
    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    transform: Any = create_transform(**config, is_training=False)
    kept = [step for step in transform.transforms if not type(step).__name__.startswith("MaybeToTensor")]
    pixels = patches / 255
    for step in kept:
        pixels = step(pixels).clamp(0, 1) if "Resize" in type(step).__name__ else step(pixels)
    return pixels


def _patches(count: int, side: int = 224) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and nothing else to be had."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def _snapshot(cache: Path, name: str) -> Path:
    """Where the cache keeps the one commit of ``owner/<name>``."""
    repository = cache / f"models--owner--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_repository_of_the_hub_gives_timms_own_embedding(no_network: Path) -> None:
    network: Any = _made("resnet10t", num_classes=3)
    about = {"mean": (0.7, 0.6, 0.5), "std": (0.1, 0.2, 0.3), "interpolation": "bicubic", "crop_pct": 1.0}
    network.pretrained_cfg = {**network.pretrained_cfg, **about, "input_size": (3, 96, 96), "license": "mit"}
    save_for_hf(network, str(_snapshot(no_network, "pooled")), safe_serialization=True)
    backbone = TimmModel(TimmModelConfig(model="hf-hub:owner/pooled"))
    assert (backbone.dim, backbone.input_px, backbone.interpolation) == (512, 96, "bicubic")
    assert (backbone.mean, backbone.std, backbone.licence) == (about["mean"], about["std"], "mit")
    patches = _patches(2, 96)
    with torch.inference_mode():
        pixels = _normalised(patches, backbone.mean, backbone.std)
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(backbone.load(CPU, torch.float32)(patches), expected, rtol=1e-4, atol=1e-5)


REPOSITORIES = (f"repository{number}" for number in count())
"""A description is read once for each name."""


def _described(cache: Path, **about: Any) -> TimmModel:
    """A small network in a repository of the hub whose description says this."""
    name = next(REPOSITORIES)
    network: Any = _made("test_resnet", num_classes=3)
    snapshot = _snapshot(cache, name)
    save_for_hf(network, str(snapshot), safe_serialization=True)
    written = json.loads((snapshot / "config.json").read_text())
    written["pretrained_cfg"] |= about
    (snapshot / "config.json").write_text(json.dumps(written))
    return TimmModel(TimmModelConfig(model=f"hf-hub:owner/{name}"))


@pytest.mark.parametrize(
    ("about", "resize_px"),
    [
        ({"crop_pct": 1.0}, 96),
        ({"crop_pct": 0.875}, 109),
        ({"crop_pct": 0.9}, 106),
        ({"crop_pct": 0.95, "crop_mode": "squash"}, 101),
        ({"crop_pct": 0.9, "crop_mode": "border"}, 106),
        ({"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}, 96),
        ({"crop_pct": None}, 109),
        ({"crop_pct": 0.5, "input_size": (3, 64, 64)}, 128),
        ({"crop_pct": 1.0, "input_size": (3, 384, 384), "interpolation": "bilinear"}, 384),
    ],
)
@pytest.mark.parametrize("side", [256, 96])
def test_patches_are_resized_and_cropped_as_timm_does_it(
    about: dict[str, Any], resize_px: int, side: int, no_network: Path
) -> None:
    backbone = _described(no_network, **{"input_size": (3, 96, 96), **about})
    assert backbone.resize_px == resize_px
    patches = _patches(1, side)
    network = timm.create_model(backbone.model, pretrained=False)
    expected = _as_timm_evaluates(network, patches)
    seen = PatchEncoder(nn.Identity(), backbone)(patches)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("about", "fault"),
    [
        ({"crop_pct": 1.2}, r"a crop_pct of 1\.2"),
        ({"crop_pct": -0.5}, r"a crop_pct of -0\.5"),
        ({"crop_pct": "all"}, r"is invalid \(could not convert"),
        ({"interpolation": "lanczos"}, r"the interpolation 'lanczos'; supported: bilinear and bicubic"),
        ({"input_size": (3, 96, 128)}, r"inputs of 3 channels and 96 × 128 px"),
        ({"input_size": (96, 96)}, r"cannot be downloaded from the hub, or is invalid"),
        ({"input_size": None}, r"cannot be downloaded from the hub, or is invalid"),
        ({"mean": (0.5,)}, r"the mean \(0\.5,\)"),
        ({"mean": (124, 117, 104)}, r"three numbers each, from 0 to 1"),
        ({"std": (0.5, 0.5, 0.0)}, r"three numbers each, from 0 to 1"),
        ({"std": "abc"}, r"is invalid"),
    ],
)
def test_a_description_that_milsurv_cannot_follow_is_refused(
    about: dict[str, Any], fault: str, no_network: Path
) -> None:
    with pytest.raises(WeightsError, match=f"the description of hf-hub:owner/repository.*{fault}"):
        _described(no_network, **about)


@pytest.mark.parametrize(
    "model", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_a_local_file_gives_timms_own_embedding_with_or_without_a_classifier(
    model: str, tmp_path: Path
) -> None:
    network: Any = _made(model)
    state = network.state_dict()
    patches = _patches(2)
    found = []
    for which, tensors in (
        ("whole", state),
        ("headless", timm.create_model(model, num_classes=0).state_dict().keys()),
    ):
        save_file({name: state[name] for name in tensors}, tmp_path / f"{which}.safetensors")
        backbone = TimmModel(TimmModelConfig(model=model, weights=tmp_path / f"{which}.safetensors"))
        with torch.inference_mode():
            found.append(backbone.load(CPU, torch.float32)(patches))
    with torch.inference_mode():
        pixels = _as_timm_evaluates(network, patches)
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
    assert expected.shape == (2, backbone.dim)
    for embedding in found:
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "dim", "input_px"),
    [
        ("resnet50", 2048, 224),
        ("vit_small_patch16_224.dino", 384, 224),
        ("vit_giant_patch14_dinov2", 1536, 518),
        ("tf_efficientnet_b4", 1792, 380),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_the_width_is_known_before_there_are_weights(model: str, dim: int, input_px: int) -> None:
    backbone = TimmModel(TimmModelConfig(model=model))
    assert (backbone.dim, backbone.input_px) == (dim, input_px)


@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_had_are_named_in_one_line() -> None:
    backbone = TimmModel(TimmModelConfig(model="resnet10t"))
    with pytest.raises(
        WeightsError, match=r"\Athe weights of resnet10t cannot be downloaded .*weights: FILE.*\Z"
    ):
        backbone.load(CPU, torch.float32)


def test_weights_are_identified_by_the_training_that_they_are_of() -> None:
    """timm may make another training the default of ``resnet18`` one day: the name alone is not enough."""
    network: Any = timm.create_model("resnet18")
    taken = network.pretrained_cfg["tag"]
    assert TimmModel(TimmModelConfig(model="resnet18")).weights_id() == f"timm:resnet18.{taken}"
    assert TimmModel(TimmModelConfig(model="resnet18.a3_in1k")).weights_id() == "timm:resnet18.a3_in1k"


@pytest.mark.usefixtures("no_network")
def test_a_repository_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(
        WeightsError, match=r"\Athe description of hf-hub:owner/none cannot be downloaded .*\Z"
    ):
        TimmModel(TimmModelConfig(model="hf-hub:owner/none"))


@pytest.mark.parametrize("model", ["resnet81", "resnet81.a1_in1k"])
def test_an_unknown_name_is_refused_with_the_nearest(model: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TimmModelConfig(model=model)
    (error,) = refused.value.errors()
    assert "has no model 'resnet81' (did you mean 'resnet" in error["msg"]
    assert "\n" not in error["msg"]


def test_an_unknown_training_of_a_known_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ValidationError, match=r"resnet18 has no weights 'gluon_in1' \(did you mean 'gluon_in1k'\?\)"
    ):
        TimmModelConfig(model="resnet18.gluon_in1")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(_made("resnet18").state_dict(), tmp_path / "w.safetensors")
    backbone = TimmModel(TimmModelConfig(model="vit_tiny_patch16_224", weights=tmp_path / "w.safetensors"))
    misfit = r"w\.safetensors does not fit vit_tiny_patch16_224: tensor cls_token is missing"
    with pytest.raises(WeightsError, match=rf"{misfit}; the file contains weights of resnet18$"):
        backbone.load(CPU, torch.float32)


def test_a_network_without_a_vector_is_refused(no_network: Path) -> None:
    network: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="")
    save_for_hf(
        network,
        str(_snapshot(no_network, "unpooled")),
        model_args={"global_pool": ""},
        safe_serialization=True,
    )
    with pytest.raises(
        WeightsError, match=r"has no embedding vector per patch: its output has shape \(1, 197, 192\)"
    ):
        TimmModel(TimmModelConfig(model="hf-hub:owner/unpooled"))


def test_the_settings_come_back_from_their_text() -> None:
    config = TimmModelConfig(model="resnet18", weights=Path("/w.pth"))
    assert TimmModelConfig(**config.model_dump(mode="json")) == config
