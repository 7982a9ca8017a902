"""Attention with dropout on a CPU: exact, and without an n×m matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from milsurv.aggregators import attention
from milsurv.aggregators.attention import MultiHeadAttention, attend, drop

HEADS, N, M, WIDTH, DROPOUT = 2, 11, 7, 5, 0.3
KEEP = 1 - round(DROPOUT * 2**16) / 2**16


@pytest.fixture(params=[1, 3 * HEADS * M, 10**6], ids=["row by row", "three rows", "one block"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_ELEMENTS", request.param)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, HEADS, N, WIDTH), (1, HEADS, M, WIDTH), (1, HEADS, M, WIDTH))
    made = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    return made[0], made[1], made[2]


def seeded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    torch.manual_seed(5)
    return attend(query, key, value, DROPOUT)


def whole_matrix(query: Tensor, key: Tensor) -> Tensor:
    scores: Tensor = query @ key.transpose(-1, -2) / math.sqrt(WIDTH)
    return scores.softmax(dim=-1)


@pytest.mark.usefixtures("_blocks")
def test_equals_the_whole_matrix_with_the_same_dropout() -> None:
    query, key, value = inputs()
    weights = whole_matrix(query, key)
    with torch.no_grad():  # with unit vectors as values the output is the weights that were left
        left = seeded(query, key, torch.eye(M, dtype=torch.float64).expand(1, HEADS, M, M))
    mask = left > 0
    assert 0 < mask.double().mean() < 1
    torch.testing.assert_close(left, weights * mask / KEEP)

    output, expected = seeded(query, key, value), (weights * mask / KEEP) @ value
    torch.testing.assert_close(output, expected)
    upstream = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(output, (query, key, value), upstream)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected, (query, key, value), upstream), strict=True
    ):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.usefixtures("_blocks")
def test_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(seeded, inputs())


def test_share_that_is_dropped() -> None:
    query = torch.zeros(1, 1, 400, 4)
    torch.manual_seed(2)
    left = attend(query, query, torch.eye(400).expand(1, 1, 400, 400), 0.2) > 0
    # 160,000 draws have a standard error of 0.001.
    assert left.double().mean().item() == pytest.approx(0.8, abs=0.005)
    assert left.double().mean(dim=-2).std().item() == pytest.approx((0.2 * 0.8 / 400) ** 0.5, rel=0.2)


def test_draws_follow_the_seed() -> None:
    query, key, value = inputs()
    assert torch.equal(seeded(query, key, value), seeded(query, key, value))
    assert not torch.equal(seeded(query, key, value), attend(query, key, value, DROPOUT))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_no_matrix_is_kept_for_the_backward_pass(dropout: float) -> None:
    n = 1500
    module = MultiHeadAttention(16, heads=2, dropout=dropout).train()
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(torch.randn(n, 16))
    assert max(sizes) == n * 16


def test_without_dropout_equals_pytorch() -> None:
    module = MultiHeadAttention(12, heads=3).double()
    other = torch.nn.MultiheadAttention(12, 3, dtype=torch.float64)
    with torch.no_grad():
        other.in_proj_weight.copy_(module.qkv.weight)
        other.in_proj_bias.copy_(module.qkv.bias.normal_())
        other.out_proj.weight.copy_(module.out.weight)
        other.out_proj.bias.copy_(module.out.bias.normal_())
    x, y = torch.randn(6, 12, dtype=torch.float64), torch.randn(9, 12, dtype=torch.float64)
    torch.testing.assert_close(module(x), other(x, x, x)[0])
    torch.testing.assert_close(module(x, y), other(x, y, y)[0])
    weights = F.normalize(torch.rand(6, dtype=torch.float64), p=1, dim=0)
    torch.testing.assert_close(module.carry(weights, x, y), weights @ other(x, y, y)[1])


@pytest.mark.parametrize("most", [1, 3, 7, 8])
def test_many_groups_attend_in_parts_to_the_same_end(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients of seven groups, some with rows that are none, whatever goes into one kernel."""
    generator = torch.Generator().manual_seed(3)
    module = MultiHeadAttention(12, heads=3, dropout=0.0).double()
    queries = torch.randn(13, 12, dtype=torch.float64, generator=generator).requires_grad_()
    context = torch.randn(20, 12, dtype=torch.float64, generator=generator).requires_grad_()
    query_groups = torch.cat([torch.arange(13), torch.tensor([-1])]).view(7, 2)
    key_groups = torch.randint(-1, 20, (7, 5), generator=generator)
    key_groups[:, 0] = key_groups[:, 0].clamp_min(0)

    def outcome() -> list[Tensor]:
        output = module.grouped(queries, context, query_groups, key_groups)
        upstream = torch.arange(output.numel(), dtype=torch.float64).view(output.shape)
        wanted = (queries, context, *module.parameters())
        return [output, *torch.autograd.grad(output, wanted, upstream)]

    whole = outcome()
    seen: list[int] = []
    kernel = F.scaled_dot_product_attention

    def noted(query: Tensor, *arguments: Tensor, **settings: object) -> Tensor:
        seen.append(len(query))
        return kernel(query, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "MAX_GROUPS", most)
    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    for part, expected in zip(outcome(), whole, strict=True):
        torch.testing.assert_close(part, expected)
    assert max(seen) <= most
    assert sum(seen) == 7


def test_no_kernel_gets_more_groups_than_cuda_counts() -> None:
    assert attention.MAX_GROUPS <= 65_535


def test_dropped_values_are_zero_and_the_others_scaled() -> None:
    torch.manual_seed(0)
    values = torch.ones(1000, 101)
    dropped = drop(values, 0.3)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(dropped[dropped > 0].unique(), torch.tensor([1 / 0.7]), rtol=1e-4, atol=0)
