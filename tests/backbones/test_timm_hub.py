from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from milsurv.backbones.ctranspath import CTransPath
from milsurv.backbones.resnet import ResNet18, ResNet50, ResNet50Trunc
from milsurv.backbones.timm_hub import describe_weights, name_of
from milsurv.backbones.vision_transformers import UNI, GigaPath, HOptimus1, PhikonV2, UNI2h, Virchow2
from milsurv.errors import WeightsError

BACKBONES: tuple[type[Any], ...] = (
    CTransPath,
    GigaPath,
    HOptimus1,
    PhikonV2,
    ResNet18,
    ResNet50,
    ResNet50Trunc,
    UNI,
    UNI2h,
    Virchow2,
)


def _state(backbone: type[Any]) -> dict[str, Tensor]:
    """The tensors of a backbone by timm's names, with one number each."""
    with torch.device("meta"):
        network = backbone(backbone.Config()).build()
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in network.state_dict().items()}


@pytest.mark.parametrize("backbone", BACKBONES, ids=name_of)
def test_a_file_is_recognised(backbone: type[Any]) -> None:
    """Where two backbones are the same network, as UNI and Phikon-v2 are, the first that is registered."""
    same = {ResNet50Trunc: ResNet50, PhikonV2: UNI}
    assert (
        describe_weights(_state(backbone))
        == f"the file contains weights of {name_of(same.get(backbone, backbone))}"
    )


def _whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With all of their numbers, as a file holds them."""
    return {name: tensor.contiguous() for name, tensor in state.items()}


def test_a_file_of_something_else_is_recognised_as_such() -> None:
    assert describe_weights({"weight": torch.zeros(3)}).startswith(
        "the file contains weights of no registered"
    )


@pytest.mark.parametrize(
    ("asked", "found"),
    [(CTransPath, ResNet18), (PhikonV2, CTransPath), (ResNet50, ResNet18), (ResNet18, CTransPath)],
    ids=name_of,
)
def test_weights_of_another_network_are_refused_with_both_names(
    asked: type[Any], found: type[Any], tmp_path: Path
) -> None:
    torch.save(_whole(_state(found)), tmp_path / "w.pth")
    backbone = asked(asked.Config(weights=tmp_path / "w.pth"))
    misfit = rf"w\.pth does not fit {name_of(asked)}: tensor \S+ (is|has) .*"
    with pytest.raises(WeightsError, match=rf"{misfit}; the file contains weights of {name_of(found)}$"):
        backbone.load(torch.device("cpu"), torch.float32)


def test_a_damaged_file_of_the_right_network_is_not_said_to_be_of_another(tmp_path: Path) -> None:
    torch.save(
        _whole(_state(ResNet18)) | {"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, tmp_path / "w.pth"
    )
    backbone = ResNet18(ResNet18.Config(weights=tmp_path / "w.pth"))
    with pytest.raises(
        WeightsError, match=r"does not fit resnet18: tensor conv1\.weight contains NaN or infinity$"
    ):
        backbone.load(torch.device("cpu"), torch.float32)


def test_a_backbone_that_is_not_registered_has_the_name_of_its_class() -> None:
    assert name_of(type("Mine", (ResNet18,), {})) == "Mine"
