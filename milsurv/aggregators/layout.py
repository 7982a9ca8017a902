"""Spatial layouts of the tokens of a bag, for convolutions and local attention."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from milsurv.aggregators.attention import MultiHeadAttention
from milsurv.errors import MilsurvError

WINDOW = 8
"""Side of a window of local self-attention, in patches."""


class Layout(ABC):
    """How tokens ``(n, dim)`` form an image, and which tokens attend to each other."""

    recompute: ClassVar[bool]
    """Whether activations are recomputed in the backward pass, which saves most of the memory."""
    bags: int = 1
    """Number of bags, whose tokens follow each other."""

    @abstractmethod
    def pad(self, tokens: Tensor) -> Tensor:
        """The tokens with the padding that the layout needs."""

    @abstractmethod
    def to_image(self, tokens: Tensor) -> Tensor:
        """Padded tokens -> ``(1, dim, height, width)``."""

    @abstractmethod
    def to_tokens(self, image: Tensor) -> Tensor:
        """``(1, dim, height, width)`` -> padded tokens."""

    @abstractmethod
    def self_attention(self, attention: MultiHeadAttention, tokens: Tensor, class_token: bool) -> Tensor:
        """Self-attention of the padded tokens, which follow a class token for each bag if ``class_token``."""

    def repeat_for_tokens(self, of_bags: Tensor) -> Tensor:
        """A row for each bag ``(bags, dim)`` -> a row for each padded token, or one that broadcasts to all."""
        return of_bags


class Square(Layout):
    """The layout of the released models: the smallest square, row-major, padded with copies of the first tokens.

    All tokens attend to all.
    """

    recompute = False

    def pad(self, tokens: Tensor) -> Tensor:
        side = math.isqrt(len(tokens) - 1) + 1
        missing = side * side - len(tokens)
        return torch.cat([tokens, tokens[:missing]]) if missing else tokens

    def to_image(self, tokens: Tensor) -> Tensor:
        side = math.isqrt(len(tokens))
        return tokens.t().view(1, -1, side, side)

    def to_tokens(self, image: Tensor) -> Tensor:
        return image.flatten(2)[0].t()

    def self_attention(self, attention: MultiHeadAttention, tokens: Tensor, class_token: bool) -> Tensor:  # noqa: ARG002
        attended: Tensor = attention(tokens)
        return attended


SQUARE = Square()


class Squares(Layout):
    """Several bags, each of whose tokens form a square of its own, as in :class:`Square`."""

    recompute = False

    def __init__(self, sizes: Sequence[int], device: torch.device):
        """``sizes``: number of tokens of each bag."""
        self.bags = len(sizes)
        n = torch.tensor(sizes, device=device)
        side = torch.tensor([math.isqrt(size - 1) + 1 for size in sizes], device=device)
        self._side = int(side.max())
        self._bag, place, self._groups = _enumerated(side * side)
        self._token = place % n[self._bag] + (n.cumsum(0) - n)[self._bag]
        width = side[self._bag]
        self._cell = (self._bag * self._side + place // width) * self._side + place % width

    def pad(self, tokens: Tensor) -> Tensor:
        return tokens[self._token]

    def to_image(self, tokens: Tensor) -> Tensor:
        cells = tokens.new_zeros(self.bags * self._side**2, tokens.shape[-1])
        image = cells.index_copy(0, self._cell, tokens).view(self.bags, self._side**2, -1)
        return image.transpose(1, 2).reshape(self.bags, -1, self._side, self._side)

    def to_tokens(self, image: Tensor) -> Tensor:
        return image.flatten(2).transpose(1, 2).flatten(0, 1)[self._cell]

    def self_attention(self, attention: MultiHeadAttention, tokens: Tensor, class_token: bool) -> Tensor:
        groups = self._groups
        if class_token:
            first = torch.arange(self.bags, device=groups.device).unsqueeze(1)
            groups = torch.cat([first, torch.where(groups >= 0, groups + self.bags, -1)], dim=1)
        return attention.grouped(tokens, tokens, groups, groups)

    def repeat_for_tokens(self, of_bags: Tensor) -> Tensor:
        return of_bags[self._bag]


def groups_of(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Indices of the rows of each of several bags that follow each other: ``(bags, largest size)``, padded with -1."""
    return _enumerated(torch.tensor(sizes, device=device))[2]


def _enumerated(sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row of bags that follow each other its bag and its place in it, and the rows of each bag."""
    bags = torch.arange(len(sizes), device=sizes.device)
    bag = torch.repeat_interleave(bags, sizes)
    rows = torch.arange(len(bag), device=sizes.device)
    place = rows - (sizes.cumsum(0) - sizes)[bag]
    groups = rows.new_full((len(sizes), int(sizes.max())), -1)
    groups[bag, place] = rows
    return bag, place, groups


class Windows(Layout):
    """Tokens at their positions in the slide; each attends to its window of the grid and to the class token.

    The class token attends to all. The image is zero where there are no patches.
    """

    recompute = True

    def __init__(self, grid: Tensor):
        """``grid``: ``(n, 2)`` (column, row) of each token."""
        column, row = (grid - grid.amin(dim=0)).long().unbind(dim=1)
        self.height, self.width = int(row.max()) + 1, int(column.max()) + 1
        self.cells = row * self.width + column
        """Index of each token in the flattened image."""
        window = (row // WINDOW) * self.width + column // WINDOW
        _, group, count = torch.unique(window, return_inverse=True, return_counts=True)
        order = group.argsort(stable=True)
        slot = torch.arange(len(order), device=grid.device) - (count.cumsum(0) - count)[group[order]]
        self.windows = order.new_full((len(count), int(count.max())), -1)
        """``(windows, tokens of the largest)``: the tokens of each window, padded with -1."""
        self.windows[group[order], slot] = order

    def pad(self, tokens: Tensor) -> Tensor:
        return tokens

    def to_image(self, tokens: Tensor) -> Tensor:
        image = tokens.new_zeros(self.height * self.width, tokens.shape[-1]).index_copy(0, self.cells, tokens)
        return image.t().view(1, -1, self.height, self.width)

    def to_tokens(self, image: Tensor) -> Tensor:
        return image.flatten(2)[0].t()[self.cells]

    def self_attention(self, attention: MultiHeadAttention, tokens: Tensor, class_token: bool) -> Tensor:
        if not class_token:
            return attention.grouped(tokens, tokens, self.windows, self.windows)
        shifted = torch.where(self.windows >= 0, self.windows + 1, -1)
        keys = torch.cat([shifted.new_zeros(len(shifted), 1), shifted], dim=1)
        attended = attention.grouped(tokens[1:], tokens, self.windows, keys)
        return torch.cat([attention(tokens[:1], tokens), attended])


def neighbours(source: Tensor, other: Tensor, source_magnification: int, magnification: int) -> Tensor:
    """The patches of another magnification that each source patch covers or lies in: ``(n, k)``, padded with -1.

    Args:
        source: ``(n, 2)`` grid of the source patches.
        other: ``(m, 2)`` grid of the patches at the other magnification.

    Raises MilsurvError if the grids are not aligned: a patch has no counterpart, or neither magnification is a multiple
    of the other.
    """
    if max(source_magnification, magnification) % min(source_magnification, magnification):
        raise MilsurvError(
            f"attention 'local' needs magnifications that are multiples of each other, not {magnification}x and "
            f"{source_magnification}x; change tiling.magnifications, or set aggregator.attention to dense"
        )
    if magnification < source_magnification:
        inside = _find(source // (source_magnification // magnification), other)
        if (inside < 0).any():
            raise _not_aligned(source_magnification, magnification, "lies in")
        return inside.unsqueeze(1)
    ratio = magnification // source_magnification
    parent = _find(other // ratio, source)
    if (parent < 0).any():
        raise _not_aligned(magnification, source_magnification, "lies in")
    covered = parent.new_full((len(source), ratio * ratio), -1)
    column, row = (other % ratio).long().unbind(dim=1)
    covered[parent, row * ratio + column] = torch.arange(len(other), device=other.device)
    if (covered < 0).all(dim=1).any():
        raise _not_aligned(source_magnification, magnification, "covers")
    return covered


def _find(wanted: Tensor, grid: Tensor) -> Tensor:
    """Row of ``grid`` that equals each of ``wanted``; -1 if there is none."""
    places, sought = (g.long()[:, 1] * 2**32 + g.long()[:, 0] for g in (grid, wanted))
    ordered, order = places.sort()
    index = torch.searchsorted(ordered, sought).clamp_max(len(ordered) - 1)
    return torch.where(ordered[index] == sought, order[index], -1)


def _not_aligned(magnification: int, other: int, relation: str) -> MilsurvError:
    return MilsurvError(
        f"attention 'local' needs aligned grids, but a {magnification}x patch {relation} no {other}x patch; "
        f"extract the features with milsurv, or set aggregator.attention to dense"
    )
