"""Multi-head attention without an n×m matrix in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from milsurv.errors import MilsurvError

BLOCK_ELEMENTS = 2**21
"""Attention weights computed at once; as many as fit into the cache of a CPU."""
MAX_GROUPS = 65_535
"""Groups computed at once: the limit of the dimension of CUDA's grid that PyTorch's kernels use for them."""


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with query, key, value and output projections, all with bias.

    ``dropout`` is applied to the attention weights, with ``dropout_in_eval`` also in evaluation mode.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, dropout_in_eval: bool = False):
        super().__init__()
        if dim % heads:
            raise MilsurvError(
                f"embed_dim must be a multiple of num_heads, but {dim} is not a multiple of {heads}"
            )
        self.heads = heads
        self.dropout = dropout
        self.dropout_in_eval = dropout_in_eval
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """``(n, dim)`` queries, ``(m, dim)`` context (by default the queries themselves) -> ``(n, dim)``."""
        if context is None:
            query, key, value = (self._split(part) for part in self.qkv(queries).chunk(3, dim=-1))
        else:
            query = self._split(self._project_queries(queries))
            key, value = (self._split(part) for part in self._project_context(context).chunk(2, dim=-1))
        dropout = self.dropout if self.training or self.dropout_in_eval else 0.0
        attended = attend(query, key, value, dropout)
        output: Tensor = self.out(attended[0].transpose(0, 1).reshape(len(queries), -1))
        return output

    def grouped(self, queries: Tensor, context: Tensor, query_groups: Tensor, key_groups: Tensor) -> Tensor:
        """Attention within groups: ``(g, a)`` rows of the queries attend to ``(g, b)`` rows of the context; -1 is none.

        Every query is in one group; time and memory are proportional to ``g · a · b``.
        """
        query = self._split_groups(self._project_queries(queries)[query_groups.clamp_min(0)])
        context_rows = self._project_context(context)[key_groups.clamp_min(0)]
        key, value = (self._split_groups(part) for part in context_rows.chunk(2, dim=-1))
        seen = (key_groups >= 0)[:, None, None, :]
        dropout = self.dropout if self.training or self.dropout_in_eval else 0.0
        attended = _attend_in_groups(query, key, value, seen, dropout)
        real = query_groups >= 0
        rows: Tensor = self.out(attended.transpose(1, 2).flatten(2)[real])
        return torch.empty_like(rows).index_copy(0, query_groups[real], rows)

    def carry_grouped(self, weights: Tensor, queries: Tensor, context: Tensor, key_groups: Tensor) -> Tensor:
        """:meth:`carry` for queries that attend only to their row ``(n, b)`` of ``key_groups``."""
        query = self._split_groups(self._project_queries(queries).unsqueeze(1))
        keys = self._project_context(context).chunk(2, dim=-1)[0]
        key = self._split_groups(keys[key_groups.clamp_min(0)])
        seen = key_groups >= 0
        scores = (query @ key.transpose(-1, -2)).squeeze(-2) * query.shape[-1] ** -0.5
        share = scores.masked_fill(~seen.unsqueeze(1), -torch.inf).softmax(dim=-1).mean(dim=1)
        return weights.new_zeros(len(context)).index_add(
            0, key_groups[seen], (weights[:, None] * share)[seen]
        )

    def carry(self, weights: Tensor, queries: Tensor, context: Tensor) -> Tensor:
        """Weights of the queries propagated to the context: ``Σ_i weights[i] · A[i, :]``, mean over heads, ``(m,)``."""
        query = self._split(self._project_queries(queries))
        key = self._split(self._project_context(context).chunk(2, dim=-1)[0])
        scale = query.shape[-1] ** -0.5
        carried = weights.new_zeros(len(context))
        rows = _rows_per_block(key)
        for w, q in zip(torch.split(weights, rows), torch.split(query, rows, dim=-2), strict=True):
            carried += (w @ (q @ key.transpose(-1, -2) * scale).softmax(dim=-1)).mean(dim=(0, 1))
        return carried

    def _project_queries(self, queries: Tensor) -> Tensor:
        dim = self.out.in_features
        return F.linear(queries, self.qkv.weight[:dim], self.qkv.bias[:dim])

    def _project_context(self, context: Tensor) -> Tensor:
        dim = self.out.in_features
        return F.linear(context, self.qkv.weight[dim:], self.qkv.bias[dim:])

    def _split(self, tokens: Tensor) -> Tensor:
        return self._split_groups(tokens.unsqueeze(0))

    def _split_groups(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], self.heads, -1).transpose(1, 2)


def _attend_in_groups(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, dropout: float) -> Tensor:
    """Masked attention of ``(groups, heads, n, width)`` tensors, :data:`MAX_GROUPS` groups at a time."""
    if dropout and not query.is_cuda:
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        return drop(weights, dropout) @ value
    if len(query) <= MAX_GROUPS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
    split = (tensor.split(MAX_GROUPS) for tensor in (query, key, value, seen))
    parts = zip(*split, strict=True)
    return torch.cat([_attend_in_groups(q, k, v, mask, dropout) for q, k, v, mask in parts])


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention of ``(1, heads, n, width)`` tensors with dropout on the weights.

    PyTorch's kernels need no n×m matrix, except for dropout on a CPU.
    """
    if dropout == 0 or query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    attended: Tensor = _attend_by_blocks(query, key, value, dropout)
    return attended


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_blocks(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    by_head: Tensor = DropoutAttention.apply(query[0], key[0], value[0], dropout)
    return by_head.unsqueeze(0)


class DropoutAttention(torch.autograd.Function):
    """Attention with dropout of ``(heads, n, width)`` tensors, computed in blocks of queries.

    The backward pass recomputes the weights and the dropout of each block, so that only the output is stored; the
    gradient is that of FlashAttention (Dao et al., NeurIPS 2022, appendix B). The dropout probability is rounded to a
    multiple of 2⁻¹⁶.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        ctx.seed = int(torch.randint(2**62, ()))
        ctx.dropped = round(dropout * 2**16)
        output = value.new_empty(*query.shape[:-1], value.shape[-1])
        for at, weights, kept in _blocks(query, key, ctx.seed, ctx.dropped):
            torch.bmm(weights.mul_(kept), value[at[0]], out=output[at])
        output /= 1 - ctx.dropped / 2**16
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output = ctx.saved_tensors
        row_sums = (d_output * output).sum(dim=-1, keepdim=True)
        d_output = d_output / (1 - ctx.dropped / 2**16)
        scale = query.shape[-1] ** -0.5
        d_query, d_key, d_value = (torch.zeros(t.shape, dtype=t.dtype) for t in (query, key, value))
        block = query.new_empty(_block_shape(query, key))
        for at, weights, kept in _blocks(query, key, ctx.seed, ctx.dropped):
            heads = at[0]
            d_scores = block[: weights.shape[0], : weights.shape[1]]
            torch.bmm(d_output[at], value[heads].transpose(1, 2), out=d_scores)
            d_scores.mul_(kept).sub_(row_sums[at]).mul_(weights)
            d_value[heads].baddbmm_(weights.mul_(kept).transpose(1, 2), d_output[at])
            torch.bmm(d_scores, key[heads], out=d_query[at])
            d_key[heads].baddbmm_(d_scores.transpose(1, 2), query[at])
        return d_query.mul_(scale), d_key.mul_(scale), d_value, None


class Dropout(nn.Module):
    """``torch.nn.Dropout``, with :func:`drop` in training."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        return drop(values, self.p) if self.training and self.p else values

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop(values: Tensor, p: float) -> Tensor:
    """``torch.nn.functional.dropout``; on a CPU several times faster, with ``p`` rounded to a multiple of 2⁻¹⁶."""
    if values.is_cuda:
        return F.dropout(values, p)
    dropped = round(p * 2**16)
    kept = _random_bits(_draws_for(values.numel()), values.shape) >= dropped - 2**15
    return values * (kept.to(values.dtype) * (2**16 / (2**16 - dropped)))


def _draws_for(count: int) -> Tensor:
    """Memory for :func:`_random_bits` of up to ``count`` numbers."""
    return torch.empty(math.ceil(count / 4), dtype=torch.int64)


def _random_bits(draws: Tensor, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """Uniform int16 numbers in the memory of ``draws``, four from each 64-bit one.

    ``Tensor.bernoulli_`` takes longer than the products.
    """
    count = shape.numel()
    used = draws[: math.ceil(count / 4)].random_(-(2**63), None, generator=generator)
    return used.view(torch.int16)[:count].view(shape)


def _blocks(
    query: Tensor, key: Tensor, seed: int, dropped: int
) -> Iterator[tuple[tuple[slice, slice], Tensor, Tensor]]:
    """Heads and rows of each block, its attention weights, and a mask that is 0 for ``dropped`` of 2¹⁶ weights.

    All blocks use the same memory, which stays in the cache; allocating it for each takes longer than the products.
    """
    generator = torch.Generator().manual_seed(seed)
    heads, rows, m = shape = _block_shape(query, key)
    draws = _draws_for(heads * rows * m)
    weights_block, kept_block = query.new_empty(shape), query.new_empty(shape)
    for head in range(0, query.shape[0], heads):
        for row in range(0, query.shape[1], rows):
            at = slice(head, head + heads), slice(row, row + rows)
            scaled = query[at] * query.shape[-1] ** -0.5
            weights = weights_block[: scaled.shape[0], : scaled.shape[1]]
            torch.bmm(scaled, key[at[0]].transpose(1, 2), out=weights)
            torch.softmax(weights, dim=-1, out=weights)
            kept = kept_block[: scaled.shape[0], : scaled.shape[1]]
            yield (
                at,
                weights,
                torch.ge(_random_bits(draws, weights.shape, generator), dropped - 2**15, out=kept),
            )


def _block_shape(query: Tensor, key: Tensor) -> tuple[int, int, int]:
    """Heads, rows and keys of a block: whole heads if several fit, otherwise rows of one head."""
    heads, n, m = *query.shape[:2], key.shape[1]
    return min(heads, max(1, BLOCK_ELEMENTS // (n * m))), min(n, _rows_per_block(key)), m


def _rows_per_block(key: Tensor) -> int:
    return max(1, BLOCK_ELEMENTS // key.shape[-2])
