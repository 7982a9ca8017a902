"""Patch-GCN against its formulas written out in loops, and properties beyond the contract."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from milsurv import Bag, MilsurvError
from milsurv.testing import make_bag
from milsurv_patchgcn.aggregator import PatchGCN, PatchGCNConfig

DIM = 7
Vector = list[float]


def small(magnification: int = 20, num_layers: int = 3, dropout: float = 0.25) -> PatchGCN:
    """A narrow one in float64 and evaluation mode, with other temperatures than at the start."""
    torch.manual_seed(5)
    config = PatchGCNConfig(magnification=magnification, hidden_dim=4, num_layers=num_layers, dropout=dropout)
    model = PatchGCN(config, {20: DIM, 10: DIM, 5: DIM}, 3).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("temperature"):
                parameter.uniform_(-1, 3)
    return model


def double_bag(n: int = 23, seed: int = 0) -> Bag:
    return make_bag(n, dim=DIM, seed=seed).to("cpu", torch.float64)


class WrittenOut:
    """Patch-GCN in loops over patches, neighbours and features, on plain numbers."""

    def __init__(self, model: PatchGCN):
        self.state = {name: value.tolist() for name, value in model.state_dict().items()}

    def __call__(
        self, features: list[Vector], cells: list[list[int]], num_layers: int
    ) -> tuple[Vector, Vector]:
        """The outputs and the attention."""
        patches = [relu(self.linear("projection.0", x)) for x in features]
        heard = [
            [j for j, other in enumerate(cells) if j != i and max(abs(other[0] - c), abs(other[1] - r)) == 1]
            for i, (c, r) in enumerate(cells)
        ]
        outputs = [list(x) for x in patches]
        for layer in range(num_layers):
            patches = self.layer(f"layers.{layer}", patches, heard, residual=layer > 0)
            for output, x in zip(outputs, patches, strict=True):
                output.extend(x)
        hidden = [relu(self.linear("patch_projection.0", x)) for x in outputs]
        scores = []
        for x in hidden:
            value, gate = self.linear("value.0", x), self.linear("gate.0", x)
            gated = [math.tanh(v) / (1 + math.exp(-g)) for v, g in zip(value, gate, strict=True)]
            scores.append(self.linear("score", gated)[0])
        total = sum(math.exp(s) for s in scores)
        attention = [math.exp(s) / total for s in scores]
        pooled = [
            sum(a * x[k] for a, x in zip(attention, hidden, strict=True)) for k in range(len(hidden[0]))
        ]
        return self.linear("head", relu(self.linear("bag_projection.0", pooled))), attention

    def layer(self, name: str, patches: list[Vector], heard: list[list[int]], residual: bool) -> list[Vector]:
        convolution = f"{name}.convolution" if residual else name
        (temperature,) = self.state[f"{convolution}.temperature"]
        new = []
        for x, neighbours in zip(patches, heard, strict=True):
            summed = list(x)
            for k in range(len(x)):
                messages = [max(patches[j][k], 0.0) + 1e-7 for j in neighbours]
                weights = [math.exp(temperature * m) for m in messages]
                for message, weight in zip(messages, weights, strict=True):
                    summed[k] += message * weight / sum(weights)
            wide = self.norm(f"{convolution}.mlp.1", self.linear(f"{convolution}.mlp.0", summed))
            y = self.linear(f"{convolution}.mlp.3", relu(wide))
            if residual:
                y = [a + b for a, b in zip(x, relu(self.norm(f"{name}.norm", y)), strict=True)]
            new.append(y)
        return new

    def linear(self, name: str, x: Vector) -> Vector:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return [
            sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)
        ]

    def norm(self, name: str, x: Vector) -> Vector:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        mean = sum(x) / len(x)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
        return [(v - mean) / deviation * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def relu(x: Vector) -> Vector:
    return [max(v, 0.0) for v in x]


@pytest.mark.parametrize(("n", "num_layers"), [(1, 3), (2, 1), (23, 3), (40, 2)])
def test_forward_and_attention_are_the_formulas_written_out(n: int, num_layers: int) -> None:
    model, bag = small(num_layers=num_layers), double_bag(n)
    assert bag.grid is not None
    output, attention = WrittenOut(model)(bag.features[20].tolist(), bag.grid[20].tolist(), num_layers)
    torch.testing.assert_close(model(bag).tolist(), output, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.attention(bag)[20].tolist(), attention, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_patches_does_not_matter(seed: int) -> None:
    model, bag = small(), double_bag(61, seed)
    assert bag.grid is not None
    order = torch.randperm(61, generator=torch.Generator().manual_seed(seed))
    moved = Bag({20: bag.features[20][order]}, None, {20: bag.grid[20][order]})
    torch.testing.assert_close(model(moved), model(bag), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        model.attention(moved)[20], model.attention(bag)[20][order], rtol=1e-12, atol=1e-12
    )


def test_where_the_slide_lies_does_not_matter_but_who_touches_whom_does() -> None:
    model, bag = small(), double_bag()
    assert bag.grid is not None
    output = model(bag)
    assert torch.equal(model(Bag(bag.features, None, {20: bag.grid[20] + 1000})), output)
    assert not torch.allclose(model(Bag(bag.features, None, {20: bag.grid[20] * 2})), output)


def test_a_patch_reaches_as_far_as_there_are_layers() -> None:
    """In a row of patches the gradient of the last convolution's output at one end ends after three steps."""
    model = small()
    row = torch.stack([torch.arange(6), torch.zeros(6, dtype=torch.int64)], dim=1)
    features = torch.randn(6, DIM, dtype=torch.float64, requires_grad=True)
    seen: list[Tensor] = []
    model.layers[-1].register_forward_hook(lambda *parts: seen.append(parts[2]))
    model(Bag({20: features}, None, {20: row}))
    (gradient,) = torch.autograd.grad(seen[0][0].square().sum(), features)
    assert gradient.abs().sum(dim=1).gt(0).tolist() == [True, True, True, True, False, False]


def test_the_magnification_of_the_settings_is_the_only_one_seen() -> None:
    model, bag = small(magnification=5), double_bag(60)
    assert bag.grid is not None
    alone = Bag({5: bag.features[5]}, None, {5: bag.grid[5]})
    assert torch.equal(model(alone), model(bag))
    assert model.attention(bag).keys() == {5}


def test_dropout_acts_in_training_alone() -> None:
    model, bag = small(dropout=0.5), double_bag()
    assert torch.equal(model(bag), model(bag))
    model.train()
    assert not torch.equal(model(bag), model(bag))
    without = small(dropout=0.0)
    assert torch.equal(without.train()(bag), small(dropout=0.5)(bag))


def test_the_released_sizes_are_the_defaults() -> None:
    model = PatchGCN(PatchGCNConfig(), {20: 1024}, 4)
    projection = 1024 * 128 + 128
    convolution = 1 + (128 * 256 + 256) + 2 * 256 + (256 * 128 + 128)
    graph = 3 * convolution + 2 * (2 * 128)  # a LayerNorm in each of the two residual layers
    pooling = 4 * (512 * 512 + 512) + (512 + 1) + (512 * 4 + 4)
    assert sum(p.numel() for p in model.parameters()) == projection + graph + pooling


def test_a_missing_magnification_is_named() -> None:
    with pytest.raises(
        MilsurvError, match=r"'patchgcn' needs features at 20x, but only 10x, 5x are available"
    ):
        PatchGCN(PatchGCNConfig(), {10: DIM, 5: DIM}, 1)


def test_a_bag_without_grid_is_refused() -> None:
    bag = double_bag()
    with pytest.raises(MilsurvError, match=r"'patchgcn' needs the grid of the 20x patches"):
        small()(Bag(bag.features, bag.coords))
    assert PatchGCN.requires_grid


def test_registering_imports_no_torch() -> None:
    script = "import sys, milsurv_patchgcn.plugin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
