"""A bag: the patch features of one slide, by magnification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from milsurv.executors.memory import pinned_size


@dataclass(frozen=True)
class Bag:
    """Patch features of one slide.

    Attributes:
        features: magnification -> ``(n, d)`` floating-point tensor, n ≥ 1.
        coords: magnification -> ``(n, 2)`` int64, level-0 pixels ``(x, y)`` of the patch's top-left corner.
        grid: magnification -> ``(n, 2)`` int32, ``(column, row)`` in units of that magnification's patches.
            The grids are aligned: the 5x patch (c, r) covers the 10x patches (2c..2c+1, 2r..2r+1) and the
            20x patches (4c..4c+3, 4r..4r+3).

    ``coords`` and ``grid`` are None for imported features without them.
    """

    features: Mapping[int, Tensor]
    coords: Mapping[int, Tensor] | None = None
    grid: Mapping[int, Tensor] | None = None

    @property
    def sizes(self) -> dict[int, int]:
        """Number of patches by magnification."""
        return {magnification: len(features) for magnification, features in self.features.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self._tensors())

    @property
    def pinned_nbytes(self) -> int:
        """Bytes that :meth:`pinned` takes."""
        return sum(pinned_size(tensor.nbytes) for tensor in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        for part in (self.features, self.coords, self.grid):
            if part is not None:
                yield from part.values()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Bag:
        """The bag on ``device``; ``dtype`` applies only to the features. Asynchronous from pinned memory to a GPU."""
        ahead = torch.device(device).type == "cuda"
        features = {m: t.to(device, dtype, non_blocking=ahead) for m, t in self.features.items()}
        move = partial(Tensor.to, device=device, non_blocking=ahead)
        return Bag(features, _each(self.coords, move), _each(self.grid, move))

    def pinned(self) -> Bag:
        """The bag in pinned memory, from which a GPU copies asynchronously."""
        features = {m: t.pin_memory() for m, t in self.features.items()}
        return Bag(features, _each(self.coords, Tensor.pin_memory), _each(self.grid, Tensor.pin_memory))


def _each(
    tensors: Mapping[int, Tensor] | None, change: Callable[[Tensor], Tensor]
) -> dict[int, Tensor] | None:
    return None if tensors is None else {m: change(tensor) for m, tensor in tensors.items()}
