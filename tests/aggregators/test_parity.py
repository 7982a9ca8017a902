"""The models and losses give the numbers that the CrossFusion authors' released code gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from milsurv.features.bag import Bag
from milsurv.losses.discrete import CE, NLL, DiscreteTime
from milsurv.models.interop import from_authors_checkpoint, translate

FOLDER = Path(__file__).parents[1] / "data" / "parity"
CASES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


@dataclass
class ParityCase:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @property
    def bag(self) -> Bag:
        return Bag({int(name): features[0] for name, features in self.group("input.x").items()})

    def loss(self, kind: type[DiscreteTime], logits: Tensor) -> Tensor:
        """The loss with bins [0, 1), [1, 2), … so that the label's bin holds the time label + 0.5."""
        loss = kind(kind.Config(bins=len(logits), alpha=float(self.metadata["alpha"])))
        loss.load_state_dict({"edges": torch.arange(len(logits) + 1, dtype=torch.float64)})
        time = torch.tensor([int(self.metadata["label"]) + 0.5])
        event = torch.tensor([1.0 - int(self.metadata["censorship"])])
        return loss(logits.unsqueeze(0), time, event)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> ParityCase:
    with safe_open(FOLDER / f"{request.param}.safetensors", "pt") as file:
        return ParityCase({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118


def load(case: ParityCase) -> torch.nn.Module:
    heads = json.loads(case.metadata["kwargs"]).get("num_heads")
    return from_authors_checkpoint(case.metadata["model"], case.group("param."), num_heads=heads)


def test_there_are_cases() -> None:
    assert len(CASES) == 6


def test_outputs(case: ParityCase) -> None:
    logits = load(case)(case.bag)
    expected = case.group("output.")
    survival = torch.sigmoid(-logits).cumprod(dim=0)
    loss = NLL(NLL.Config())
    torch.testing.assert_close(logits, expected["logits"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits.sigmoid(), expected["hazards"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(survival, expected["survival"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss.risk(logits.unsqueeze(0)), expected["risk"], rtol=0, atol=1e-5)


def test_losses(case: ParityCase) -> None:
    logits = load(case)(case.bag)
    expected = case.group("loss.")
    for kind, name in ((NLL, "nll"), (CE, "ce")):
        torch.testing.assert_close(case.loss(kind, logits), expected[name][0], rtol=0, atol=1e-5)


def test_gradient_norms(case: ParityCase) -> None:
    model = load(case)
    torch.autograd.backward(case.loss(NLL, model(case.bag)))
    parameters = dict(model.named_parameters())
    expected = case.group("grad.")
    for key, norm in expected.items():
        name, part = translate(case.metadata["model"], key)
        gradient = parameters[name].grad
        assert gradient is not None, key
        if part is not None:
            gradient = gradient.chunk(3)[part]
        assert gradient.norm().item() == pytest.approx(norm.item(), rel=1e-4, abs=1e-8), key
    seen = {translate(case.metadata["model"], key)[0] for key in expected}
    assert all(parameter.grad is None for name, parameter in parameters.items() if name not in seen)
