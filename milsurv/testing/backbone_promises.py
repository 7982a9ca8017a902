"""What every backbone promises (``milsurv.Backbone``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from milsurv.backbones.base import Backbone
from milsurv.testing.promise import (
    BrokenPromise,
    Subject,
    config_round_trip,
    documented,
    equal,
    finite,
    shown,
)

PATCH_PX = 256
CPU = torch.device("cpu")
ROUNDING = 1e-4
"""Relative and absolute difference that the size of a batch may make in float32."""


@dataclass(frozen=True)
class BackboneSubject(Subject):
    """A backbone under check."""

    def make(self) -> Backbone:
        backbone: Backbone = self.plugin_class(self.config)
        return backbone

    @cached_property
    def network(self) -> nn.Module:
        """The network in float32, loaded once. Raises WeightsError when its weights cannot be had."""
        return self.make().load(CPU, torch.float32)

    def embed(self, patches: Tensor) -> Tensor:
        with torch.inference_mode():
            vectors: Tensor = self.network(patches)
        return vectors


def _patches(n: int) -> Tensor:
    """uint8 ``(n, 3, PATCH_PX, PATCH_PX)``: noise on grounds from dark to light."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 64, (n, 3, PATCH_PX, PATCH_PX), generator=generator)
    ground = torch.linspace(0, 191, n).view(n, 1, 1, 1)
    return (noise + ground).to(torch.uint8)


def described(subject: BackboneSubject) -> None:
    """Dimension, preprocessing, licence, gating and magnification are said before weights are read."""
    backbone = subject.make()
    for name in ("dim", "input_px", "magnification"):
        value = getattr(backbone, name, None)
        if not isinstance(value, int) or value <= 0:
            raise BrokenPromise.of(f"{name} {value!r}", "a positive whole number")
    resize_px, ways = backbone.resize_px, ("bilinear", "bicubic")
    if resize_px is not None and not (isinstance(resize_px, int) and resize_px >= backbone.input_px):
        raise BrokenPromise.of(
            f"resize_px {resize_px!r}", f"None, or a whole number from input_px {backbone.input_px} on"
        )
    if backbone.interpolation not in ways:
        raise BrokenPromise.of(f"interpolation {backbone.interpolation!r}", " or ".join(map(repr, ways)))
    for name, lowest in (("mean", 0.0), ("std", 1e-6)):
        values: Any = getattr(backbone, name, None)
        if not isinstance(values, tuple) or len(values) != 3 or not all(lowest <= v <= 1 for v in values):
            raise BrokenPromise.of(
                f"{name} {values!r}", "three numbers for red, green and blue within 0 to 1"
            )
    if not isinstance(getattr(backbone, "licence", None), str) or not backbone.licence:
        raise BrokenPromise.of("no licence", "the name of the weights' licence")
    if not isinstance(getattr(backbone, "gated", None), bool):
        raise BrokenPromise.of("no gated", "True when the weights must be asked for, else False")


def weights_identified(subject: BackboneSubject) -> None:
    """``weights_id`` names the weights, the same each time: it decides whether old features still count."""
    first, second = subject.make().weights_id(), subject.make().weights_id()
    if not isinstance(first, str) or not first or first != second:
        raise BrokenPromise.of(f"{first!r}, then {second!r}", "the same text twice")


def dimension(subject: BackboneSubject) -> None:
    """uint8 ``(n, 3, h, w)`` of any size goes in, finite ``(n, dim)`` comes out."""
    dim = subject.make().dim
    for patches in (_patches(3), _patches(1), _patches(2)[:, :, :224, :224]):
        vectors = subject.embed(patches)
        what = f"patches {tuple(patches.shape)}"
        if vectors.shape != (len(patches), dim):
            raise BrokenPromise.of(f"shape {tuple(vectors.shape)} for {what}", f"{(len(patches), dim)}")
        finite(vectors, what)


def dtype(subject: BackboneSubject) -> None:
    """The vectors have the type that was asked for."""
    for wanted in (torch.float32, torch.bfloat16):
        network = subject.network if wanted == torch.float32 else subject.make().load(CPU, wanted)
        with torch.inference_mode():
            vectors = network(_patches(1))
        if vectors.dtype != wanted:
            raise BrokenPromise.of(f"{vectors.dtype}", f"{wanted}")


def batch_independence(subject: BackboneSubject) -> None:
    """A patch's vector does not depend on the others in its batch."""
    patches = _patches(4)
    together = subject.embed(patches)
    alone = torch.cat([subject.embed(patch.unsqueeze(0)) for patch in patches])
    equal(
        together,
        alone,
        "for four patches in one batch",
        rtol=ROUNDING,
        atol=ROUNDING * float(alone.abs().max()),
    )


def evaluation_deterministic(subject: BackboneSubject) -> None:
    """The same patches give the same vectors."""
    first = subject.embed(_patches(2))
    torch.rand(1)
    equal(subject.embed(_patches(2)), first, "for the same patches once more")


def sees_pixels(subject: BackboneSubject) -> None:
    """Dark and light patches get different vectors."""
    dark, light = subject.embed(_patches(2))
    if torch.equal(dark, light):
        raise BrokenPromise.of(f"{shown(dark)} for a dark and a light patch", "different vectors")


PROMISES: tuple[Callable[[BackboneSubject], None], ...] = (
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
