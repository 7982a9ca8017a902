from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from milsurv.backbones.resnet import ResNet18, ResNet50, ResNet50Trunc, ResNetConfig
from milsurv.errors import WeightsError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resnet18() -> Any:
    torch.manual_seed(0)
    return timm.create_model("resnet18").eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_give_timms_own_embedding(resnet18: Any, tmp_path: Path, suffix: str) -> None:
    weights = tmp_path / f"resnet18{suffix}"
    if suffix == ".safetensors":
        save_file(resnet18.state_dict(), weights)
    else:
        torch.save(resnet18.state_dict(), weights)
    encoder = ResNet18(ResNetConfig(weights=weights)).load(CPU, torch.float32)
    patches = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    middle = patches[..., 16:240, 16:240]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = resnet18.forward_features((middle.float() / 255 - mean) / std).mean((2, 3))
        torch.testing.assert_close(encoder(patches), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape[1] == ResNet18.dim


def test_the_truncated_resnet50_ends_with_its_third_stage(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("resnet50", features_only=True, out_indices=(3,)).eval()
    whole = timm.create_model("resnet50")
    whole.load_state_dict(plain.state_dict(), strict=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    encoder: Any = ResNet50Trunc(ResNetConfig(weights=tmp_path / "w.safetensors")).load(CPU, torch.float32)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.network(pixels), plain(pixels)[0].mean((2, 3)))
    assert encoder.network(pixels).shape == (2, ResNet50Trunc.dim)


def test_a_changed_file_has_another_identity(resnet18: Any, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(resnet18.state_dict(), weights)
    backbone = ResNet18(ResNetConfig(weights=weights))
    before = backbone.weights_id()
    save_file({**resnet18.state_dict(), "fc.bias": torch.ones(1000)}, weights)
    assert backbone.weights_id() != before
    assert ResNet50(ResNetConfig()).weights_id() == "hub:timm/resnet50.tv_in1k@main"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    backbone = ResNet18(ResNetConfig(weights=tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match=r"none\.pth not found"):
        backbone.weights_id()
    with pytest.raises(WeightsError, match=r"none\.pth not found"):
        backbone.load(CPU, torch.float32)


def test_weights_of_another_model_are_refused(resnet18: Any, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(resnet18.state_dict(), weights)
    with pytest.raises(
        WeightsError,
        match=r"does not fit resnet50: tensor layer1\.0\.conv1\.weight has shape \(64, 64, 3, 3\) instead of "
        r"\(64, 64, 1, 1\); the file contains weights of resnet18$",
    ):
        ResNet50(ResNetConfig(weights=weights)).load(CPU, torch.float32)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_pickle_that_carries_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "evil.pth"
    torch.save({"conv1.weight": _Payload()}, weights)
    with pytest.raises(WeightsError, match="cannot be read"):
        ResNet18(ResNetConfig(weights=weights)).load(CPU, torch.float32)
    assert "code ran" not in capsys.readouterr().out


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot be downloaded from the hub.*backbone.weights: FILE"):
        ResNet18(ResNetConfig()).load(CPU, torch.float32)
