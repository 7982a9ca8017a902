"""Edges against brute force over all pairs, the aggregation against its formula and its numerical gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from milsurv import MilsurvError
from milsurv_patchgcn.graph import GraphConvolution, ResidualConvolution, grid_edges, softmax_aggregate

INT32 = 2**31
STAR = torch.tensor([[1, 2, 3, 0, 1, 2], [0, 0, 0, 1, 2, 1]])
"""Patch 0 hears 1, 2 and 3; 1 and 2 hear each other and 1 hears 0; 3 and 4 hear nobody."""


@st.composite
def grids(draw: st.DrawFn) -> Tensor:
    """Up to 40 cells in any order, crowded or scattered, anywhere an int32 grid can be without its very rim."""
    side = draw(st.integers(1, 9))
    corner = draw(st.tuples(*[st.integers(1 - INT32, INT32 - 1 - side)] * 2))
    cell = st.tuples(*[st.integers(0, side - 1)] * 2)
    cells = draw(st.lists(cell, min_size=1, max_size=40, unique=True))
    return torch.tensor([(column + corner[0], row + corner[1]) for column, row in cells], dtype=torch.int32)


def touching_pairs(grid: Tensor) -> list[tuple[int, int]]:
    """All pairs, one by one, whose cells differ by at most one column and one row."""
    cells = grid.tolist()
    return [
        (i, j)
        for i, (column, row) in enumerate(cells)
        for j, (other_column, other_row) in enumerate(cells)
        if i != j and abs(column - other_column) <= 1 and abs(row - other_row) <= 1
    ]


def pairs(edges: Tensor) -> list[tuple[int, int]]:
    return sorted((int(sender), int(receiver)) for sender, receiver in edges.t())


@settings(max_examples=200, deadline=None)
@given(grids())
def test_edges_are_those_of_brute_force_and_symmetric(grid: Tensor) -> None:
    edges = grid_edges(grid)
    assert edges.dtype == torch.int64
    assert pairs(edges) == touching_pairs(grid)
    assert pairs(edges.flip(0)) == pairs(edges)


def test_eight_neighbours_in_the_middle_and_three_in_a_corner() -> None:
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    heard = torch.bincount(grid_edges(grid)[1])
    assert heard.tolist() == [3, 5, 3, 5, 8, 5, 3, 5, 3]


def test_the_end_of_a_row_does_not_touch_the_start_of_the_next() -> None:
    assert grid_edges(torch.tensor([[7, 0], [0, 1], [0, 2], [7, 3]])).tolist() == [[2, 1], [1, 2]]


def test_two_patches_in_one_cell_are_refused() -> None:
    grid = torch.tensor([[0, 0], [3, 5], [1, 0], [3, 5]])
    with pytest.raises(MilsurvError, match="column 3, row 5"):
        grid_edges(grid)


@pytest.mark.parametrize("temperature", [1.0, 0.0, -2.5])
def test_aggregate_is_its_formula(temperature: float) -> None:
    messages = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for receiver in range(5):
        senders = [int(s) for s, r in STAR.t() if int(r) == receiver]
        for feature in range(3):
            heard = [float(messages[s, feature]) for s in senders]
            weights = [math.exp(temperature * m) for m in heard]
            if heard:
                mean = sum(w * m for w, m in zip(weights, heard, strict=True)) / sum(weights)
                expected[receiver, feature] = mean
    found = softmax_aggregate(messages, STAR, torch.tensor([temperature], dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert not found[3:].any()


def test_aggregate_of_large_messages_is_their_largest() -> None:
    messages = torch.tensor([[0.0], [1e4], [3e4], [2e4], [5.0]])
    found = softmax_aggregate(messages, STAR, torch.ones(1))
    assert found.flatten().tolist() == [3e4, 3e4, 1e4, 0.0, 0.0]


def test_gradients_of_the_aggregate() -> None:
    generator = torch.Generator().manual_seed(2)
    messages = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    temperature = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, t: softmax_aggregate(m, STAR, t), (messages, temperature))
    nobody = torch.zeros(2, 0, dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda m, t: softmax_aggregate(m, nobody, t), (messages, temperature))


def test_convolutions_are_those_of_pytorch_geometric() -> None:
    geometric = pytest.importorskip("torch_geometric.nn", reason="pip install torch-geometric")
    torch.manual_seed(3)
    ours = ResidualConvolution(6).double()
    theirs = geometric.DeepGCNLayer(
        geometric.GENConv(6, 6, aggr="softmax", t=1.0, learn_t=True, num_layers=2, norm="layer", bias=True),
        torch.nn.LayerNorm(6),
        torch.nn.ReLU(),
        block="res",
    ).double()
    with torch.no_grad():
        ours.convolution.temperature.fill_(1.7)
    theirs.conv.aggr_module.t.data = ours.convolution.temperature.data
    inner = [0, 1, 4]  # theirs has a dropout before the last layer
    for position, name in zip(inner, ("0", "1", "3"), strict=True):
        theirs.conv.mlp[position].load_state_dict(ours.convolution.mlp.get_submodule(name).state_dict())
    grid = torch.tensor([(c, r) for c in range(5) for r in range(4) if (c * r) % 3 != 2] + [(20, 20)])
    edges = grid_edges(grid)
    patches = torch.randn(len(grid), 6, dtype=torch.float64)
    torch.testing.assert_close(ours.convolution(patches, edges), theirs.conv(patches, edges))
    torch.testing.assert_close(ours(patches, edges), theirs(patches, edges))


def test_under_autocast_neighbours_are_summed_in_float32() -> None:
    torch.manual_seed(4)
    convolution = GraphConvolution(8)
    seen: list[Tensor] = []
    convolution.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    patches = torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(patches.bfloat16(), STAR)
    rounded = patches.bfloat16().float()
    expected = rounded + softmax_aggregate(rounded.relu() + 1e-7, STAR, torch.ones(1))
    torch.testing.assert_close(seen[0], expected)
