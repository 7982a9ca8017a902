"""What every aggregator has to do, and each one's own formulas in a slow version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from milsurv.aggregators.abmil import ABMIL
from milsurv.aggregators.attention import MultiHeadAttention
from milsurv.aggregators.base import Aggregator
from milsurv.aggregators.blocks import CrossAttention
from milsurv.aggregators.crossfusion import CrossFusion, CrossFusionBase, CrossFusionConcat, CrossFusionSingle
from milsurv.aggregators.dsmil import DSMIL
from milsurv.aggregators.layout import SQUARE
from milsurv.aggregators.mean_cox import MeanCox
from milsurv.aggregators.pooling import MaxPool, MeanPool
from milsurv.aggregators.transmil import TransMIL
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag

DIMS = {20: 12, 10: 10, 5: 8}
SMALL: dict[type[Aggregator], dict[str, object]] = {
    CrossFusion: {"embed_dim": 8, "num_heads": 2},
    CrossFusionConcat: {"embed_dim": 8, "num_heads": 2},
    CrossFusionSingle: {"embed_dim": 8, "num_heads": 2},
    ABMIL: {"hidden_dim": 8, "attention_dim": 4},
    DSMIL: {"query_dim": 4},
    TransMIL: {"embed_dim": 16},
    MeanPool: {},
    MaxPool: {},
    MeanCox: {},
}
EVERY = pytest.mark.parametrize("kind", SMALL)


def make(
    kind: type[Aggregator], dims: dict[int, int] = DIMS, n_outputs: int = 4, **settings: object
) -> Aggregator:
    torch.manual_seed(0)
    return kind(kind.Config.model_validate(SMALL[kind] | settings), dims, n_outputs).eval()


def bag(sizes: dict[int, int], dims: dict[int, int] = DIMS) -> Bag:
    generator = torch.Generator().manual_seed(sum(sizes.values()))
    return Bag({m: torch.randn(n, dims[m], generator=generator) for m, n in sizes.items()})


@EVERY
@pytest.mark.parametrize("n_outputs", [1, 4])
@pytest.mark.parametrize("sizes", [{20: 1, 10: 1, 5: 1}, {20: 2, 10: 1, 5: 1}, {20: 37, 10: 11, 5: 3}])
def test_one_vector_for_any_number_of_patches(
    kind: type[Aggregator], n_outputs: int, sizes: dict[int, int]
) -> None:
    output = make(kind, n_outputs=n_outputs)(bag(sizes))
    assert output.shape == (n_outputs,)
    assert output.isfinite().all()


@EVERY
@pytest.mark.parametrize("sizes", [{20: 1, 10: 1, 5: 1}, {20: 37, 10: 11, 5: 3}])
def test_attention_is_a_distribution_over_patches(kind: type[Aggregator], sizes: dict[int, int]) -> None:
    attention = make(kind).attention(bag(sizes))
    for magnification, weights in attention.items():
        assert weights.shape == (sizes[magnification],)
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert not weights.requires_grad
    assert bool(attention) == (kind not in (MeanPool, MaxPool, MeanCox))


@EVERY
def test_training_reaches_every_parameter(kind: type[Aggregator]) -> None:
    model = make(kind).train()
    if kind is MeanCox:
        assert not list(model.parameters())
        return
    torch.autograd.backward(model(bag({20: 37, 10: 11, 5: 3})).square().sum())
    untouched = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert untouched == ({"instance.weight", "instance.bias"} if kind is DSMIL else set())


@EVERY
def test_nothing_remembers_a_bag(kind: type[Aggregator]) -> None:
    model, patches = make(kind).train(), bag({20: 9, 10: 4, 5: 2})
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(patches)
    assert bool(before) == (kind is MeanCox)
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@EVERY
def test_missing_magnification_is_named(kind: type[Aggregator]) -> None:
    settings = {"magnification": 20} if kind in (MeanPool, MaxPool, MeanCox) else {}
    with pytest.raises(MilsurvError, match=r"needs features at (20|10)x, but only 40x, 5x are available"):
        make(kind, dims={5: 8, 40: 8}, **settings)


@pytest.mark.parametrize("kind", [ABMIL, DSMIL, MeanPool, MaxPool, MeanCox])
def test_order_of_patches_does_not_matter(kind: type[Aggregator]) -> None:
    model, first = make(kind), bag({20: 9, 10: 4, 5: 2})
    flipped = Bag({m: features.flip(0) for m, features in first.features.items()})
    torch.testing.assert_close(model(first), model(flipped))


@pytest.mark.parametrize("kind", [ABMIL, DSMIL, MeanPool, MaxPool, MeanCox, TransMIL, CrossFusionSingle])
def test_other_magnification(kind: type[Aggregator]) -> None:
    model, features = make(kind, magnification=5), bag({5: 6})
    assert model(features).shape == (4,)
    assert model.attention(features).keys() <= {5}


@pytest.mark.parametrize("kind", [MeanPool, MaxPool])
def test_pooling_takes_all_magnifications_side_by_side(kind: type[Aggregator]) -> None:
    model, patches = make(kind), bag({20: 9, 10: 4, 5: 2})
    pooled = [
        features.mean(0) if kind is MeanPool else features.max(0).values
        for features in (patches.features[m] for m in (20, 10, 5))
    ]
    assert isinstance(model, MeanPool | MaxPool)
    torch.testing.assert_close(model(patches), model.head(torch.cat(pooled)))


@pytest.mark.parametrize("kind", [CrossFusion, CrossFusionConcat, CrossFusionSingle])
def test_heads_that_do_not_divide_the_width_are_refused(kind: type[Aggregator]) -> None:
    with pytest.raises(MilsurvError, match="8 is not a multiple of 3"):
        make(kind, num_heads=3)
    with pytest.raises(ValidationError, match="multiple of 2"):
        make(kind, embed_dim=9, num_heads=3)


@pytest.mark.parametrize("kind", [CrossFusion, CrossFusionConcat])
def test_any_magnifications_with_the_source_named(kind: type[Aggregator]) -> None:
    dims = {40: 6, 20: 12, 10: 10, 5: 8}
    model = make(kind, dims=dims, source=20)
    assert isinstance(model, CrossFusionBase)
    assert (model.source, model.others) == (20, [40, 10, 5])
    assert model.attention(bag({40: 50, 20: 13, 10: 4, 5: 1}, dims)).keys() == dims.keys()
    assert make(kind, dims={20: 12, 10: 10})(bag({20: 8, 10: 3})).shape == (4,)
    with pytest.raises(MilsurvError, match="two or more magnifications, but only 10x is"):
        make(kind, dims={10: 10})


def test_attention_dropout_in_evaluation_only_when_asked() -> None:
    features = bag({20: 37, 10: 11, 5: 3})
    off = make(CrossFusion)
    assert torch.equal(off(features), off(features))
    on = make(CrossFusion, attention_dropout_in_eval=True)
    assert not torch.equal(on(features), on(features))


@pytest.mark.parametrize("kind", [CrossFusion, CrossFusionConcat, CrossFusionSingle])
def test_features_as_wide_as_the_model_are_taken_as_they_are_under_autocast_too(
    kind: type[Aggregator],
) -> None:
    """In float16 under bfloat16 autocast, about what float32 gives."""
    dims = {20: 8, 10: 8, 5: 8}
    model, features = make(kind, dims), bag({20: 37, 10: 11, 5: 3}, dims)
    assert all("projection" not in name for name, _ in model.named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        output = model(features.to("cpu", torch.float16))
    torch.testing.assert_close(output.float(), model(features), rtol=0.1, atol=0.02)


def test_abmil_equals_the_formula() -> None:
    model, x = make(ABMIL), bag({20: 9}).features[20]
    p = dict(model.named_parameters())
    h = (x @ p["projections.20.0.weight"].T + p["projections.20.0.bias"]).clamp_min(0)
    gated = (h @ p["value.weight"].T + p["value.bias"]).tanh() * (
        h @ p["gate.weight"].T + p["gate.bias"]
    ).sigmoid()
    e = (gated @ p["score.weight"].T + p["score.bias"]).exp()
    expected = ((e / e.sum()) * h).sum(dim=0) @ p["head.weight"].T + p["head.bias"]
    torch.testing.assert_close(model(Bag({20: x})), expected)
    plain = dict(make(ABMIL, gated=False).named_parameters())
    assert plain.keys() == p.keys() - {"gate.weight", "gate.bias"}


def test_abmil_over_all_magnifications_is_one_bag() -> None:
    model, features = make(ABMIL, magnification="all"), bag({20: 9, 10: 4, 5: 2})
    assert isinstance(model, ABMIL)
    alone = [model.projections[str(m)](features.features[m]) for m in (20, 10, 5)]
    h = torch.cat(alone)
    e = model.score(model.value(h).tanh() * model.gate(h).sigmoid()).exp() if model.gate else h
    torch.testing.assert_close(model(features), model.head((e / e.sum() * h).sum(dim=0)))
    for weights, part in zip(model.attention(features).values(), e.squeeze(-1).split([9, 4, 2]), strict=True):
        torch.testing.assert_close(weights, part / part.sum())


def full_attention(attention: MultiHeadAttention, x: Tensor, y: Tensor, heads: int) -> Tensor:
    """Attention weights, (heads, n, m), from the projections' rows, head by head."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    dim = weight.shape[1]
    q = x @ weight[:dim].T + bias[:dim]
    k = y @ weight[dim : 2 * dim].T + bias[dim : 2 * dim]
    size = dim // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    return torch.stack([(q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=1) for part in parts])


@torch.no_grad()
def test_crossfusion_attention_equals_whole_matrices() -> None:
    model, features = make(CrossFusion, num_layers=2), bag({20: 17, 10: 6, 5: 3})
    assert isinstance(model, CrossFusion)
    tokens = {m: model.projections[str(m)](x) for m, x in features.features.items()}
    grids = [model.transformers["10"](tokens[10], SQUARE)]
    for m in (20, 5):
        attended = model.cross_attentions[str(m)](tokens[10], tokens[m])
        grids.append(model.transformers[str(m)](attended, SQUARE))
    x = torch.cat([model.final.class_token, model.fuse(grids, SQUARE)])
    rows = []
    for i, layer in enumerate([*model.final.before, *model.final.after]):
        if i == 2:
            x = torch.cat([x[:1], model.final.position(x[1:], SQUARE)])
        normed = layer.norm1(x)
        rows.append(full_attention(layer.attention, normed, normed, heads=2)[:, 0].mean(dim=0))
        x = layer(x, SQUARE, class_token=True)
    to_square = torch.stack(rows).mean(dim=0)[1:]
    source = torch.zeros(6)
    for position, weight in enumerate(to_square):  # six patches on a 3×3 grid: the last three are copies
        source[position % 6] += weight
    source /= source.sum()

    attention = model.attention(features)
    torch.testing.assert_close(attention[10], source)
    for m in (20, 5):
        cross = cast(CrossAttention, model.cross_attentions[str(m)])
        shifted = tokens[10] + cross.scale_embedding, tokens[m] + cross.scale_embedding
        matrix = full_attention(cross.attention, *shifted, heads=2).mean(dim=0)
        torch.testing.assert_close(attention[m], source @ matrix)


def slow_nystrom(p: Mapping[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """Nyström attention written out, head by head, token by token."""
    dim = x.shape[1]
    landmarks, width = dim // 2, dim // heads
    missing = math.ceil(len(x) / landmarks) * landmarks - len(x)
    padded = torch.cat([torch.zeros(missing, dim, dtype=x.dtype), x])
    length = len(padded) // landmarks
    qkv = padded @ p["qkv.weight"].T
    factors = []
    for h in range(heads):
        q, k, v = (qkv[:, part * dim + h * width :][:, :width] for part in range(3))
        q = q / math.sqrt(width)
        ql = torch.stack([q[i * length : (i + 1) * length].mean(dim=0) for i in range(landmarks)])
        kl = torch.stack([k[i * length : (i + 1) * length].mean(dim=0) for i in range(landmarks)])
        factors.append(((q @ kl.T).softmax(1), (ql @ kl.T).softmax(1), (ql @ k.T).softmax(1), v))
    column = max(f[1].sum(dim=0).max() for f in factors)
    row = max(f[1].sum(dim=1).max() for f in factors)
    outputs = []
    for h, (left, middle, right, v) in enumerate(factors):
        z, eye = middle.T / (column * row), torch.eye(landmarks, dtype=x.dtype)
        for _ in range(6):
            az = middle @ z
            z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
        kernel = p["residual.weight"][h, 0, :, 0]
        around = torch.cat([torch.zeros(16, width, dtype=x.dtype), v, torch.zeros(16, width, dtype=x.dtype)])
        smoothed = torch.stack([kernel @ around[t : t + 33] for t in range(len(v))])
        outputs.append(left @ z @ right @ v + smoothed)
    return (torch.cat(outputs, dim=1) @ p["out.weight"].T + p["out.bias"])[missing:]


@torch.no_grad()
def test_transmil_equals_the_slow_version() -> None:
    model = make(TransMIL).double()
    x = bag({20: 29}).features[20].double()
    p = dict(model.named_parameters())

    def nystrom(layer: int, tokens: Tensor) -> Tensor:
        normed = F.layer_norm(tokens, (16,), p[f"norm{layer}.weight"], p[f"norm{layer}.bias"])
        prefix = f"attention{layer}."
        own = {name.removeprefix(prefix): t for name, t in p.items() if name.startswith(prefix)}
        return tokens + slow_nystrom(own, normed, heads=8)

    h = (x @ p["projection.0.weight"].T + p["projection.0.bias"]).relu()
    tokens = nystrom(1, torch.cat([p["class_token"], h, h[:7]]))
    grid = tokens[1:].T.reshape(1, 16, 6, 6)
    ppeg = grid.clone()
    for part, size in enumerate((7, 5, 3)):
        names = [f"position.depthwise.parts.{part}.{kind}" for kind in ("weight", "bias")]
        ppeg += F.conv2d(grid, p[names[0]], p[names[1]], padding=size // 2, groups=16)
    tokens = nystrom(2, torch.cat([tokens[:1], ppeg.reshape(16, 36).T]))
    token = F.layer_norm(tokens[0], (16,), p["norm.weight"], p["norm.bias"])
    torch.testing.assert_close(model(Bag({20: x})), token @ p["head.weight"].T + p["head.bias"])
