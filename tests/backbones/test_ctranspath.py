from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from milsurv.backbones.ctranspath import CTransPath
from milsurv.errors import WeightsError
from tests.backbones.formula import published_tensors
from tests.conftest import DATA

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parity() -> Any:
    return json.loads((DATA / "parity" / "ctranspath.json").read_text())


@pytest.fixture(scope="module")
def published(parity: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "ctranspath.pth"
    torch.save({"model": published_tensors(parity["keys"])}, path)
    return path


def test_the_published_layout_gives_the_embedding_of_the_old_timm(parity: Any, published: Path) -> None:
    encoder: Any = CTransPath(CTransPath.Config(weights=published)).load(CPU, torch.float32)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = encoder.network(pixels)
    torch.testing.assert_close(found, torch.tensor(parity["embedding"]), rtol=0, atol=1e-4)


def test_without_a_file_it_says_where_to_get_one() -> None:
    backbone = CTransPath(CTransPath.Config())
    for ask in (backbone.weights_id, lambda: backbone.load(CPU, torch.float32)):
        with pytest.raises(
            WeightsError, match=r"ctranspath\.pth from https://github.com/Xiyue-Wang/TransPath"
        ):
            ask()


def test_a_tensor_too_few_is_named(published: Path, tmp_path: Path) -> None:
    tensors = torch.load(published, weights_only=True)["model"]
    del tensors["layers.2.downsample.norm.weight"]
    torch.save({"model": tensors}, tmp_path / "cut.pth")
    backbone = CTransPath(CTransPath.Config(weights=tmp_path / "cut.pth"))
    with pytest.raises(
        WeightsError,
        match=r"cut\.pth does not fit ctranspath: tensor layers\.3\.downsample\.norm\.weight is missing",
    ):
        backbone.load(CPU, torch.float32)
