"""Reading the CrossFusion authors' checkpoints; that their numbers come out is in aggregators/test_parity.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from milsurv.aggregators.crossfusion import CrossFusion
from milsurv.aggregators.transmil import TransMIL
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.models.interop import from_authors_checkpoint

FOLDER = Path(__file__).parents[1] / "data" / "parity"


def released(case: str) -> dict[str, Tensor]:
    tensors = load_file(FOLDER / f"{case}.safetensors")
    return {name.removeprefix("param."): t for name, t in tensors.items() if name.startswith("param.")}


def test_sizes_are_read_from_shapes() -> None:
    model = from_authors_checkpoint("CrossFusion", released("crossfusion_b"), num_heads=2)
    assert isinstance(model, CrossFusion)
    assert not model.training
    assert len(model.final.before) == 2
    assert model(Bag({m: torch.randn(3, 32) for m in (20, 10, 5)})).shape == (4,)


def test_heads_are_the_released_four_unless_given() -> None:
    state, features = released("crossfusion_a"), Bag({m: torch.randn(9, 48) for m in (20, 10, 5)})
    default, four, two = (
        from_authors_checkpoint("CrossFusion", state, num_heads=heads) for heads in (None, 4, 2)
    )
    assert torch.equal(default(features), four(features))
    assert not torch.allclose(default(features), two(features))


def transmil_state(dim: int = 16, feature_dim: int = 6) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "_fc1.0.weight": (dim, feature_dim),
        "_fc1.0.bias": (dim,),
        "_fc2.weight": (4, dim),
        "_fc2.bias": (4,),
        "cls_token": (1, 1, dim),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for layer in ("layer1", "layer2"):
        shapes |= {f"{layer}.norm.weight": (dim,), f"{layer}.norm.bias": (dim,)}
        shapes |= {
            f"{layer}.attn.to_qkv.weight": (3 * dim, dim),
            f"{layer}.attn.res_conv.weight": (8, 1, 33, 1),
        }
        shapes |= {f"{layer}.attn.to_out.0.weight": (dim, dim), f"{layer}.attn.to_out.0.bias": (dim,)}
    for name, size in (("proj", 7), ("proj1", 5), ("proj2", 3)):
        shapes |= {f"pos_layer.{name}.weight": (dim, 1, size, size), f"pos_layer.{name}.bias": (dim,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_transmil_takes_every_tensor() -> None:
    state = transmil_state()
    model = from_authors_checkpoint("TransMIL", state)
    assert isinstance(model, TransMIL)
    assert torch.equal(model.attention2.qkv.weight, state["layer2.attn.to_qkv.weight"])
    assert torch.equal(model.class_token, state["cls_token"][0])
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in state.values())


def test_wrong_use_is_named() -> None:
    amil = released("amil")
    with pytest.raises(MilsurvError, match=r"unknown model 'Crossfusion' \(did you mean 'CrossFusion'\?\)"):
        from_authors_checkpoint("Crossfusion", amil)
    with pytest.raises(MilsurvError, match="not a CrossFusion checkpoint"):
        from_authors_checkpoint("CrossFusion", amil)
    with pytest.raises(MilsurvError, match="only to CrossFusion models, not to AMIL"):
        from_authors_checkpoint("AMIL", amil, num_heads=4)
    with pytest.raises(MilsurvError, match="32 is not a multiple of 5"):
        from_authors_checkpoint("CrossFusion", released("crossfusion_a"), num_heads=5)
    with pytest.raises(MilsurvError, match=r"no tensor for 'score.bias'; unknown tensor 'extra'"):
        from_authors_checkpoint(
            "AMIL",
            {k: t for k, t in amil.items() if not k.endswith("attention_c.bias")} | {"extra": torch.ones(1)},
        )
    with pytest.raises(MilsurvError, match=r"'gate.bias' is \(3,\), not \(256,\)"):
        from_authors_checkpoint("AMIL", amil | {"attention_net.2.attention_b.0.bias": torch.ones(3)})
    cut = {k: t for k, t in released("crossfusion_a").items() if k != "c_cross_attn.k_proj.weight"}
    with pytest.raises(MilsurvError, match=r"cross_attentions\.5\.attention\.qkv\.weight"):
        from_authors_checkpoint("CrossFusion", cut)
