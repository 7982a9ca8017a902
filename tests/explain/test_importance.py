from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from milsurv.errors import MilsurvError
from milsurv.explain.importance import MAX_PASSES, MIN_BLOCKS, attention, fuse, make_blocks, occlusion
from milsurv.features.bag import Bag
from milsurv.losses.base import Loss
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import get_registry
from milsurv.testing import make_bag
from milsurv.training.model import SurvivalModel, build_model

DIM = 5
SIDES = {20: 256.0, 10: 512.0, 5: 1024.0}


def make_model(aggregator: str, **settings: object) -> tuple[SurvivalModel, Loss]:
    """A model of one output, which is its risk."""
    torch.manual_seed(0)
    registry = get_registry()
    section = PluginSection.model_validate({"name": aggregator, **settings})
    model = build_model(registry, section, dict.fromkeys((20, 10, 5), DIM), 1).eval()
    loss: Loss = registry.create("loss", PluginSection(name="cox"))
    return model, loss


def nothing() -> None:
    pass


def without(bag: Bag, left_out: dict[int, NDArray[np.bool_]]) -> Bag:
    features = {
        m: torch.stack([row for row, out in zip(rows, left_out[m], strict=True) if not out])
        if m in left_out
        else rows
        for m, rows in bag.features.items()
    }
    return Bag(features)


@given(
    n=st.integers(1, 80),
    seed=st.integers(0, 4),
    magnifications=st.sets(st.sampled_from([20, 10, 5]), min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_fusion_is_the_mean_of_what_covers_a_patch(n: int, seed: int, magnifications: set[int]) -> None:
    bag = make_bag(n, dim=1, seed=seed)
    assert bag.grid is not None
    rng = np.random.default_rng(seed)
    relative = {m: rng.random(len(bag.grid[m])) for m in magnifications}
    finest = max(magnifications)
    by_place = {
        m: {tuple(place): value for place, value in zip(bag.grid[m].tolist(), relative[m], strict=True)}
        for m in magnifications
    }
    slow = [
        np.mean([by_place[m][c // (finest // m), r // (finest // m)] for m in magnifications])
        for c, r in bag.grid[finest].tolist()
    ]
    assert fuse(relative, bag.grid) == pytest.approx(slow)


def test_a_magnification_without_a_patch_there_has_no_say() -> None:
    grid = {20: torch.tensor([[0, 0], [7, 1]]), 10: torch.tensor([[0, 0]])}
    assert fuse({20: np.array([1.0, 3.0]), 10: np.array([2.0])}, grid) == pytest.approx([1.5, 3.0])


def test_attention_is_told_in_multiples_of_uniform() -> None:
    model, _ = make_model("abmil", magnification="all")
    bag = make_bag(60, dim=DIM)
    found = attention(model, bag, "any")
    raw = model.attention(bag)
    assert found.keys() == {20, 10, 5}
    for m, values in found.items():
        assert values.mean() == pytest.approx(1, abs=1e-5)
        assert values == pytest.approx(raw[m].detach().numpy() * bag.sizes[m], rel=1e-5)
    assert attention(make_model("meanpool")[0], bag, "any") == {}


@given(n=st.integers(2, 300), most=st.integers(2, 40), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_blocks_are_the_smallest_squares_that_are_few_enough(n: int, most: int, seed: int) -> None:
    bag = make_bag(n, dim=1, seed=seed)
    assert bag.grid is not None
    (blocks,) = make_blocks(bag, SIDES, most)
    squares: dict[tuple[int, ...], set[int]] = {}
    for m, places in bag.grid.items():
        for place, number in zip(places.tolist(), blocks.index[m].tolist(), strict=True):
            squares.setdefault(tuple(p // (m // 5) // blocks.side for p in place), set()).add(number)
    assert all(len(numbers) == 1 for numbers in squares.values())
    assert sorted(number for numbers in squares.values() for number in numbers) == list(range(blocks.count))
    assert blocks.count <= most
    if blocks.side > 1:
        smaller = {tuple(p // (blocks.side - 1) for p in place) for place in bag.grid[5].tolist()}
        assert len(smaller) > most


def test_occlusion_is_the_fall_of_the_risk_without_a_square() -> None:
    model, loss = make_model("abmil", magnification="all")
    bag = make_bag(90, dim=DIM)
    assert bag.grid is not None
    blocks = make_blocks(bag, SIDES, 1000)
    passes: list[int] = []
    found = occlusion(model, loss, bag, blocks, lambda: passes.append(1), "any")
    cells = {m: [tuple(p // (m // 5) for p in place) for place in bag.grid[m].tolist()] for m in bag.grid}
    with torch.no_grad():
        whole = model(bag).item()
        for cell in sorted(set(cells[5])):
            left_out = {m: np.array([place == cell for place in cells[m]]) for m in cells}
            fall = whole - model(without(bag, left_out)).item()
            for m in cells:
                assert found[m][left_out[m]] == pytest.approx(fall, abs=1e-6)
    assert len(passes) == 1 + len(set(cells[5]))


def test_what_raises_the_risk_is_above_zero() -> None:
    model, loss = make_model("meanpool", magnification=20)
    with torch.no_grad():
        model.get_parameter("aggregator.head.weight").copy_(torch.tensor([[1.0, 0, 0, 0, 0]]))
    bag = make_bag(16, dim=DIM)
    assert bag.grid is not None
    worst = (bag.grid[20] // 4 == bag.grid[5][1]).all(dim=1)
    bag.features[20][:, 0] = torch.where(worst, 5.0, 0.0)
    found = occlusion(model, loss, bag, make_blocks(bag, SIDES, 100), nothing, "any")
    assert (found[20][worst.numpy()] > 0.1).all()
    assert (found[20][~worst.numpy()] < 0).all()


def test_without_a_grid_each_magnification_is_left_out_by_itself() -> None:
    model, loss = make_model("abmil", magnification="all")
    gridded = make_bag(30, dim=DIM)
    bag = Bag(gridded.features, gridded.coords)
    blocks = make_blocks(bag, SIDES, 600)
    assert [list(part.index) for part in blocks] == [[20], [10], [5]]
    found = occlusion(model, loss, bag, blocks, nothing, "any")
    with torch.no_grad():
        whole = model(bag).item()
        for m, values in found.items():
            falls = [
                whole - model(without(bag, {m: np.arange(bag.sizes[m]) == row})).item()
                for row in range(bag.sizes[m])
            ]
            assert values == pytest.approx(falls, abs=1e-6)


def test_blocks_without_a_grid_are_squares_of_the_slide() -> None:
    corners = torch.tensor([[x, y] for y in range(100, 900, 100) for x in range(50, 850, 100)])
    bag = Bag({20: torch.zeros(64, DIM)}, {20: corners})
    (blocks,) = make_blocks(bag, {20: 100.0}, 16)
    assert (blocks.count, blocks.side) == (16, 2)
    assert blocks.index[20].reshape(8, 8)[:2, :2].tolist() == [[0, 0], [0, 0]]
    assert len(set(blocks.index[20].reshape(8, 8)[1:3, 1:3].ravel().tolist())) == 4


def test_all_that_there_is_cannot_be_left_out() -> None:
    model, loss = make_model("meanpool")
    bag = make_bag(1, dim=DIM)
    with pytest.raises(
        MilsurvError, match="all patches at 20x, 10x, 5x lie in one block; use a slide with more tissue"
    ):
        occlusion(model, loss, bag, make_blocks(bag, SIDES, 100), nothing, "any")
    assert make_blocks(Bag(bag.features, bag.coords), SIDES, 100) == []


def test_the_cost_of_occlusion_is_bounded() -> None:
    bag = make_bag(30_000, magnifications=(20, 10), dim=1)
    for models in (1, 5, 50):
        most = max(MIN_BLOCKS, MAX_PASSES // models - 1)
        (blocks,) = make_blocks(bag, {20: 256, 10: 512}, most)
        assert models * (1 + blocks.count) <= max(MAX_PASSES, models * (1 + MIN_BLOCKS))
        assert blocks.count > most / 3
