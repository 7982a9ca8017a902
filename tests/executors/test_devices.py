from __future__ import annotations

import pytest
import torch

from milsurv.config.loading import load_config
from milsurv.errors import ConfigError, MilsurvError
from milsurv.executors.devices import find_device, require_gpu


@pytest.mark.parametrize("wanted", ["auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:12"])
def test_a_configuration_takes_a_device(wanted: str) -> None:
    assert load_config("demo", [f"device={wanted}"])[0].device == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        "banana",
        "mps",
        "CUDA",
        "gpu",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:01",
        "cuda:1,2",
        "cuda:٣",
        "",
        "[cpu]",
        "7",
    ],
)
def test_another_word_is_one_line_with_what_is_allowed(wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [f"device='{wanted}'"])
    (problem,) = caught.value.problems
    assert "must be auto, cpu, cuda or one GPU such as cuda:1" in problem
    assert repr(wanted) in problem


@pytest.mark.parametrize(
    ("wanted", "gpus", "told"),
    [
        ("cuda", 0, "finds no GPU here"),
        ("cuda:9", 0, "finds no GPU here"),
        ("cuda:9", 1, "finds only cuda:0"),
        ("cuda:2", 2, "finds cuda:0 to cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(
    wanted: str, gpus: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(MilsurvError) as caught:
        require_gpu(wanted, gpus)
    assert f"device '{wanted}': torch {told}; use" in str(caught.value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(MilsurvError, match=r"\(with CUDA_VISIBLE_DEVICES=3\)"):
        require_gpu(wanted, gpus)


def test_a_gpu_that_is_there_is_taken() -> None:
    for wanted, gpus in (("cpu", 0), ("cuda", 1), ("cuda:0", 1), ("cuda:1", 2)):
        require_gpu(wanted, gpus)
    assert find_device("auto").name == ("cuda" if torch.cuda.is_available() else "cpu")
