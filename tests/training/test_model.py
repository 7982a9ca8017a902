from __future__ import annotations

from pathlib import Path

import pytest
import torch

from milsurv import Bag, MilsurvError
from milsurv.evaluation.recalibration import HeldOutRisks, Recalibration
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import get_registry
from milsurv.training.model import (
    SurvivalModel,
    build_model,
    load_model,
    load_tensors,
    save_model,
    save_tensors,
)

SECTION = PluginSection.model_validate({"name": "abmil", "hidden_dim": 8, "attention_dim": 4})


def _model() -> SurvivalModel:
    torch.manual_seed(1)
    return build_model(get_registry(), SECTION, {20: 3}, 2)


def test_standardised_training_patches_have_mean_0_and_deviation_1() -> None:
    torch.manual_seed(2)
    bags = [Bag({20: (torch.randn(n, 3) * torch.tensor([1.0, 5.0, 0.0]) + 7).half()}) for n in (1, 40, 300)]
    model = _model()
    model.fit_standardization(bags)
    patches = torch.cat([model.standardized(bag).features[20] for bag in bags])
    torch.testing.assert_close(patches.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(patches[:, :2].std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    assert torch.isfinite(patches).all()


def test_without_fitting_features_pass_unchanged() -> None:
    bag = Bag({20: torch.randn(4, 3)})
    torch.testing.assert_close(_model().standardized(bag).features[20], bag.features[20], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["nll", "cox"])
def test_a_saved_model_predicts_as_before(tmp_path: Path, name: str) -> None:
    registry = get_registry()
    section = PluginSection(name=name)
    loss = registry.create("loss", section)
    time, event = torch.arange(1.0, 21), torch.tensor([1.0, 0, 1, 1] * 5)
    loss.fit(time, event)
    model = build_model(registry, SECTION, {20: 3}, loss.n_outputs).eval()
    bags = [Bag({20: torch.randn(n, 3)}) for n in range(1, 21)]
    with torch.no_grad():
        outputs = torch.stack([model(bag) for bag in bags])
    loss.fit_baseline(outputs, time, event)
    about = {"aggregator": SECTION.model_dump(), "loss": section.model_dump()}
    save_model(tmp_path / "model.safetensors", model, loss, about)
    loaded, loaded_loss, loaded_about, recalibration = load_model(
        tmp_path / "model.safetensors", registry, "cpu"
    )
    with torch.no_grad():
        again = torch.stack([loaded(bag) for bag in bags])
    times = torch.tensor([3.0, 8.0, 15.0])
    torch.testing.assert_close(again, outputs, rtol=0, atol=0)
    torch.testing.assert_close(
        loaded_loss.survival(again, times), loss.survival(outputs, times), rtol=0, atol=0
    )
    assert loaded_about["n_outputs"] == loss.n_outputs
    assert recalibration is None


def test_recalibration_is_part_of_the_file(tmp_path: Path) -> None:
    registry, section, path = get_registry(), PluginSection(name="nll"), tmp_path / "model.safetensors"
    loss = registry.create("loss", section)
    time, event, risk = torch.arange(1.0, 21), torch.tensor([1.0, 0, 1, 1] * 5), torch.linspace(2, -2, 20)
    loss.fit(time, event)
    recalibration = Recalibration.fit(
        HeldOutRisks(risk.double(), time, event, event * 0), time, event, 0.5, 2.0
    )
    model = build_model(registry, SECTION, {20: 3}, loss.n_outputs)
    about = {"aggregator": SECTION.model_dump(), "loss": section.model_dump()}
    save_model(path, model, loss, about, recalibration)
    loaded = load_model(path, registry, "cpu").recalibration
    assert loaded is not None
    assert torch.equal(loaded.survival(risk, time), recalibration.survival(risk, time))
    tensors, about = load_tensors(path)
    del tensors["recalibration.event_times"]
    save_tensors(path, tensors, about)
    with pytest.raises(MilsurvError, match=r"model\.safetensors: the model cannot be built"):
        load_model(path, registry, "cpu")


def test_a_model_of_a_version_without_curve_has_linear_survival(tmp_path: Path) -> None:
    registry, section, path = get_registry(), PluginSection(name="nll"), tmp_path / "model.safetensors"
    loss = registry.create("loss", section)
    loss.fit(torch.arange(1.0, 21), torch.ones(20))
    edges = loss.state_dict()["edges"]
    loss.load_state_dict({"edges": edges})
    model = build_model(registry, SECTION, {20: 3}, loss.n_outputs)
    save_model(path, model, loss, {"aggregator": SECTION.model_dump(), "loss": section.model_dump()})
    loaded = load_model(path, registry, "cpu").loss
    middles = (edges[:-1] + edges[1:]) / 2
    survival = loaded.survival(torch.zeros(1, 4), torch.cat([edges, middles]))[0]
    torch.testing.assert_close(survival[5:], (survival[:4] + survival[1:5]) / 2)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save_tensors(
            tmp_path / name, {"x": torch.ones(2), "a": torch.zeros(3)}, {"two": 2, "one": [1.5, None]}
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_tensors(tmp_path / "a")[1] == {"one": [1.5, None], "two": 2}


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.acceptance)])
def test_a_flipped_byte_of_a_model_is_refused_or_harmless(tmp_path: Path, stride: int) -> None:
    path = tmp_path / "model.safetensors"
    saved = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}
    save_tensors(path, saved, {"epoch": 3, "feature_dims": {20: 3, 5: 3}})
    expected, about = load_tensors(path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), stride):
        for flip in (1 << place % 8, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                tensors, told = load_tensors(path)
            except MilsurvError:
                refused += 1
                continue
            assert (told, tensors.keys()) == (about, expected.keys())
            assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert refused > len(whole) / stride


@pytest.mark.parametrize("settings", [{"hidden_dim": 2**16}, {"hidden_dim": 10**9}, {"hidden_dim": "wide"}])
def test_settings_that_are_not_the_weights_are_refused_before_memory_is_taken(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    registry, loss = get_registry(), get_registry().create("loss", PluginSection(name="nll"))
    section = PluginSection.model_validate({"name": "abmil", "hidden_dim": 4, "attention_dim": 3})
    about = {"aggregator": {**section.model_dump(), **settings}, "loss": {"name": "nll"}}
    save_model(tmp_path / "model.safetensors", build_model(registry, section, {20: 3}, 4), loss, about)
    with pytest.raises(MilsurvError, match=r"model\.safetensors: the model cannot be built"):
        load_model(tmp_path / "model.safetensors", registry, "cpu")


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built() -> None:
    section = PluginSection.model_validate({"name": "abmil", "hidden_dim": 2**16, "attention_dim": 2**16})
    with pytest.raises(
        MilsurvError, match=r"'abmil' with these settings needs .* of .* of memory; use smaller"
    ):
        build_model(get_registry(), section, {20: 2**40}, 4)
