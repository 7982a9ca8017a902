"""Local attention against dense attention with a mask, and its cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from milsurv.aggregators.attention import MultiHeadAttention
from milsurv.aggregators.blocks import CrossAttention, GridTransformer
from milsurv.aggregators.crossfusion import CrossFusion, CrossFusionConcat
from milsurv.aggregators.layout import SQUARE, WINDOW, Windows, neighbours
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag

DIM = 8
CONFIG = CrossFusion.Config(embed_dim=DIM, num_heads=2)


def tissue(n: int, seed: int = 0) -> dict[int, Tensor]:
    """Aligned grids at 20x, 10x and 5x: n places of 20x patches drawn from a square, and those that cover them."""
    side = round((3 * n) ** 0.5) + 1
    drawn = torch.randperm(side * side, generator=torch.Generator().manual_seed(seed))[:n]
    fine = torch.stack([drawn % side, drawn // side], dim=1).int() + 5
    return {20: fine, 10: torch.unique(fine // 2, dim=0), 5: torch.unique(fine // 4, dim=0)}


def bag(n: int) -> Bag:
    generator = torch.Generator().manual_seed(n)
    grid = tissue(n)
    return Bag({m: torch.randn(len(g), DIM + 2, generator=generator) for m, g in grid.items()}, grid=grid)


def make(
    kind: type[CrossFusion] | type[CrossFusionConcat] = CrossFusion, **settings: object
) -> CrossFusion | CrossFusionConcat:
    torch.manual_seed(0)
    config = {"embed_dim": DIM, "num_heads": 2, "attention": "local"} | settings
    return kind(kind.Config.model_validate(config), dict.fromkeys((20, 10, 5), DIM + 2), 4).eval()


def dense_with_mask(
    attention: MultiHeadAttention, x: Tensor, y: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and weights, mean over heads, of PyTorch's module."""
    dim = x.shape[1]
    other = torch.nn.MultiheadAttention(dim, attention.heads)
    with torch.no_grad():
        other.in_proj_weight.copy_(attention.qkv.weight)
        other.in_proj_bias.copy_(attention.qkv.bias)
        other.out_proj.weight.copy_(attention.out.weight)
        other.out_proj.bias.copy_(attention.out.bias)
    output: tuple[Tensor, Tensor] = other(x, y, y, attn_mask=~seen)
    return output


@pytest.mark.parametrize("class_token", [False, True])
def test_windows_equal_dense_attention_with_a_mask(class_token: bool) -> None:
    grid = tissue(250)[10]
    tokens = torch.randn(len(grid) + class_token, DIM)
    attention = MultiHeadAttention(DIM, heads=2)
    window = (grid - grid.amin(dim=0)) // WINDOW
    seen = (window[:, None] == window[None]).all(dim=2)
    assert len(torch.unique(window, dim=0)) > 3
    if class_token:
        seen = torch.nn.functional.pad(seen, (1, 0, 1, 0), value=True)
    expected, _ = dense_with_mask(attention, tokens, tokens, seen)
    torch.testing.assert_close(Windows(grid).self_attention(attention, tokens, class_token), expected)


@pytest.mark.parametrize(("source", "other"), [(10, 20), (10, 5), (5, 20), (20, 5)])
def test_neighbours_equal_a_search_over_all_pairs(source: int, other: int) -> None:
    grid = tissue(60)
    found = neighbours(grid[source], grid[other], source, other)
    finest = max(source, other)
    up, down = finest // source, finest // other
    for (column, row), listed in zip(grid[source].tolist(), found.tolist(), strict=True):
        expected = {
            i
            for i, (c, r) in enumerate(grid[other].tolist())
            if (c // up, r // up) == (column // down, row // down)
        }
        real = [i for i in listed if i >= 0]
        assert set(real) == expected
        assert len(real) == len(expected)


@pytest.mark.parametrize("other", [20, 5])
@torch.no_grad()
def test_cross_attention_equals_dense_with_a_mask(other: int) -> None:
    grid = tissue(60)
    cross = CrossAttention(CONFIG).eval()
    source, context = torch.randn(len(grid[10]), DIM), torch.randn(len(grid[other]), DIM)
    found = neighbours(grid[10], grid[other], 10, other)
    seen = torch.zeros(len(source), len(context), dtype=torch.bool)
    for i, listed in enumerate(found.tolist()):
        seen[i, [j for j in listed if j >= 0]] = True
    groups = (torch.arange(len(source)).unsqueeze(1), found)
    shifted = source + cross.scale_embedding, context + cross.scale_embedding
    attended, weights = dense_with_mask(cross.attention, *shifted, seen)
    y = cross.norm(source + attended)
    torch.testing.assert_close(cross(source, context, groups), y + cross.feed_forward(y))
    share = torch.rand(len(source))
    torch.testing.assert_close(cross.carry(share, source, context, groups), share @ weights)


@torch.no_grad()
def test_one_window_of_a_full_square_is_the_dense_transformer() -> None:
    side = WINDOW
    grid = torch.stack([torch.arange(side * side) % side, torch.arange(side * side) // side], dim=1) + 3
    transformer = GridTransformer(CONFIG).eval()
    tokens = torch.randn(side * side, DIM)
    torch.testing.assert_close(transformer(tokens, Windows(grid)), transformer(tokens, SQUARE))


@pytest.mark.parametrize("kind", [CrossFusion, CrossFusionConcat])
@pytest.mark.parametrize("n", [1, 70])
def test_any_bag(kind: type[CrossFusion] | type[CrossFusionConcat], n: int) -> None:
    model, features = make(kind), bag(n)
    assert model(features).shape == (4,)
    for magnification, weights in model.attention(features).items():
        assert weights.shape == (features.sizes[magnification],)
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_only_places_matter_not_the_order_of_patches() -> None:
    model, features = make(), bag(70)
    assert features.grid is not None
    order = {m: torch.randperm(n) for m, n in features.sizes.items()}
    shuffled = Bag(
        {m: x[order[m]] for m, x in features.features.items()},
        grid={m: g[order[m]] for m, g in features.grid.items()},
    )
    torch.testing.assert_close(model(features), model(shuffled))
    attention = model.attention(features)
    for m, weights in model.attention(shuffled).items():
        torch.testing.assert_close(weights, attention[m][order[m]])


def test_gradient_with_dropout_is_that_of_the_values_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that are computed again draw the same dropout."""
    model, features = make().train(), bag(70)
    gradients = []
    for recompute in (True, False):
        monkeypatch.setattr(Windows, "recompute", recompute)
        torch.manual_seed(3)
        gradients.append(torch.autograd.grad(model(features).square().sum(), list(model.parameters())))
    for again, kept in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept)


def test_what_is_kept_grows_linearly() -> None:
    model = make().train()

    def kept(n: int) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
            return tensor

        held: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(bag(n))
        return sum(sizes.values())

    small, middle, large = kept(1000), kept(2000), kept(4000)
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.1)


def test_wrong_grids_are_named() -> None:
    features = bag(70)
    with pytest.raises(MilsurvError, match="needs the grid of the patches"):
        make()(Bag(features.features))
    assert make().requires_grid
    assert not make(attention="dense").requires_grid
    grid = tissue(30)
    with pytest.raises(MilsurvError, match="multiples of each other, not 4x and 10x"):
        neighbours(grid[10], grid[5], 10, 4)
    with pytest.raises(MilsurvError, match="a 20x patch lies in no 10x patch"):
        neighbours(grid[10][1:], grid[20], 10, 20)
    with pytest.raises(MilsurvError, match="a 10x patch lies in no 5x patch"):
        neighbours(grid[10], grid[5][1:], 10, 5)
    extra = torch.cat([grid[10], torch.tensor([[900, 900]], dtype=torch.int32)])
    with pytest.raises(MilsurvError, match="a 10x patch covers no 20x patch"):
        neighbours(extra, grid[20], 10, 20)
