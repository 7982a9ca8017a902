"""Checks of backbones (``milsurv.Backbone``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from milsurv.backbones.base import Backbone
from milsurv.testing.contract import (
    Subject,
    config_round_trip,
    documented,
    equal,
    expect,
    finite,
    shown,
)

PATCH_PX = 256
CPU = torch.device("cpu")
ROUNDING = 1e-4
"""Relative and absolute tolerance for the size of a batch in float32."""


@dataclass(frozen=True)
class BackboneSubject(Subject):
    """A backbone to check."""

    def make(self) -> Backbone:
        backbone: Backbone = self.plugin_class(self.config)
        return backbone

    @cached_property
    def network(self) -> nn.Module:
        """The network in float32, loaded once. Raises WeightsError when its weights are not available."""
        return self.make().load(CPU, torch.float32)

    def embed(self, patches: Tensor) -> Tensor:
        with torch.inference_mode():
            vectors: Tensor = self.network(patches)
        return vectors


def _patches(n: int) -> Tensor:
    """uint8 ``(n, 3, PATCH_PX, PATCH_PX)``: noise on backgrounds from dark to light."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 64, (n, 3, PATCH_PX, PATCH_PX), generator=generator)
    ground = torch.linspace(0, 191, n).view(n, 1, 1, 1)
    return (noise + ground).to(torch.uint8)


def described(subject: BackboneSubject) -> None:
    """Dimension, preprocessing, licence, gating and magnification are known before weights are loaded."""
    backbone = subject.make()
    for name in ("dim", "input_px", "magnification"):
        value = getattr(backbone, name, None)
        expect(isinstance(value, int) and value > 0, f"{name} {value!r}", "a positive whole number")
    resize_px = backbone.resize_px
    expect(
        resize_px is None or (isinstance(resize_px, int) and resize_px >= backbone.input_px),
        f"resize_px {resize_px!r}",
        f"None, or a whole number of at least input_px {backbone.input_px}",
    )
    interpolation = backbone.interpolation
    expect(
        interpolation in ("bilinear", "bicubic"),
        f"interpolation {interpolation!r}",
        "'bilinear' or 'bicubic'",
    )
    for name, lowest in (("mean", 0.0), ("std", 1e-6)):
        values: Any = getattr(backbone, name, None)
        valid = isinstance(values, tuple) and len(values) == 3 and all(lowest <= v <= 1 for v in values)
        expect(valid, f"{name} {values!r}", "three numbers from 0 to 1, for red, green and blue")
    licence = getattr(backbone, "licence", None)
    expect(isinstance(licence, str) and bool(licence), "no licence", "the name of the weights' licence")
    gated = getattr(backbone, "gated", None)
    expect(isinstance(gated, bool), "no gated", "True if access to the weights must be requested, else False")


def weights_identified(subject: BackboneSubject) -> None:
    """``weights_id`` identifies the weights, the same each time: it decides whether stored features are reused."""
    first, second = subject.make().weights_id(), subject.make().weights_id()
    stable = isinstance(first, str) and bool(first) and first == second
    expect(stable, f"{first!r}, then {second!r}", "the same text twice")


def dimension(subject: BackboneSubject) -> None:
    """Patches, uint8 ``(n, 3, h, w)`` of any size, give finite vectors ``(n, dim)``."""
    dim = subject.make().dim
    for patches in (_patches(3), _patches(1), _patches(2)[:, :, :224, :224]):
        vectors = subject.embed(patches)
        what, shape = f"patches {tuple(patches.shape)}", (len(patches), dim)
        expect(vectors.shape == shape, f"shape {tuple(vectors.shape)} for {what}", f"{shape}")
        finite(vectors, what)


def dtype(subject: BackboneSubject) -> None:
    """The vectors have the requested type."""
    for wanted in (torch.float32, torch.bfloat16):
        network = subject.network if wanted == torch.float32 else subject.make().load(CPU, wanted)
        with torch.inference_mode():
            vectors = network(_patches(1))
        expect(vectors.dtype == wanted, f"{vectors.dtype}", f"{wanted}")


def batch_independence(subject: BackboneSubject) -> None:
    """The vector of a patch does not depend on the other patches in its batch."""
    patches = _patches(4)
    together = subject.embed(patches)
    alone = torch.cat([subject.embed(patch.unsqueeze(0)) for patch in patches])
    atol = ROUNDING * float(alone.abs().max())
    equal(together, alone, "for four patches in one batch", rtol=ROUNDING, atol=atol)


def evaluation_deterministic(subject: BackboneSubject) -> None:
    """The same patches give the same vectors."""
    first = subject.embed(_patches(2))
    torch.rand(1)
    equal(subject.embed(_patches(2)), first, "for the same patches again")


def sees_pixels(subject: BackboneSubject) -> None:
    """Dark and light patches give different vectors."""
    dark, light = subject.embed(_patches(2))
    expect(not torch.equal(dark, light), f"{shown(dark)} for a dark and a light patch", "different vectors")


CHECKS: tuple[Callable[[BackboneSubject], None], ...] = (
    documented,
    config_round_trip,
    described,
    weights_identified,
    dimension,
    dtype,
    batch_independence,
    evaluation_deterministic,
    sees_pixels,
)
