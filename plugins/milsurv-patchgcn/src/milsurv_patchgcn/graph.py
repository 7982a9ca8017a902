"""Which patches touch on the grid, and graph convolutions over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milsurv import MilsurvError

ROW = 2**32
"""Cell (column, row) is packed into ``row · ROW + column``, so that cells of all int32 grids stay apart."""
DIRECTIONS = tuple(row * ROW + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)
"""From a packed cell to the eight around it."""
EPSILON = 1e-7
"""Added to each message, as in GENConv."""


def grid_edges(grid: Tensor) -> Tensor:
    """The pairs of patches whose cells touch, by side or corner, in both directions.

    Args:
        grid: ``(n, 2)`` integers, the (column, row) of each patch.

    Returns ``(2, edges)`` int64: in each column a sender and a receiver, as indices of rows of ``grid``. Takes time
    n·log(n) and memory 8n. Raises MilsurvError when two patches share a cell.
    """
    column, row = grid.long().unbind(dim=1)
    cells, patches = (row * ROW + column).sort()
    twice = cells[1:] == cells[:-1]
    if twice.any():
        first = patches[1:][twice][0]
        raise MilsurvError(
            f"aggregator 'patchgcn' needs a cell of the grid for each patch, but two patches lie at column "
            f"{int(column[first])}, row {int(row[first])}; extract the features with milsurv"
        )
    around = cells.unsqueeze(1) + cells.new_tensor(DIRECTIONS)
    found = torch.searchsorted(cells, around).clamp_max(len(cells) - 1)
    touching = cells[found] == around
    receivers = patches.unsqueeze(1).expand_as(around)
    return torch.stack([patches[found[touching]], receivers[touching]])


def softmax_aggregate(messages: Tensor, edges: Tensor, temperature: Tensor) -> Tensor:
    """Each patch's mean of its neighbours' messages, weighted by a softmax over the neighbours.

    ``Σ_j softmax_j(t · m_j) · m_j``, for each feature by itself: SoftMax_Agg of Li et al., 2020, "DeeperGCN: All You
    Need to Train Deeper GCNs".

    Args:
        messages: ``(n, dim)`` of each patch, floating point.
        edges: ``(2, edges)`` as from :func:`grid_edges`.
        temperature: one number, the t of the equation (an inverse temperature), in the type of ``messages``.

    Returns ``(n, dim)``, zero for a patch without neighbours. Memory is linear in the edges.
    """
    senders, receivers = edges
    sent = messages.index_select(0, senders)
    scores = temperature * sent
    index = receivers.unsqueeze(1).expand_as(sent)
    nothing = torch.zeros_like(messages)
    largest = nothing.scatter_reduce(0, index, scores.detach(), "amax", include_self=False)
    weights = (scores - largest[receivers]).exp()
    total = nothing.index_add(0, receivers, weights)
    weighted = nothing.index_add(0, receivers, weights * sent)
    return weighted / total.masked_fill(total == 0, 1)


class GraphConvolution(nn.Module):
    """GENConv (Li et al., 2020): ``MLP(x_i + Σ_j softmax_j(t · m_j) · m_j)`` with ``m_j = ReLU(x_j) + 1e-7``.

    t is learned and starts at 1; the MLP is linear to twice the width, LayerNorm, ReLU, linear back.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.LayerNorm(2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, patches: Tensor, edges: Tensor) -> Tensor:
        """``(n, dim)`` patches and ``(2, edges)`` -> ``(n, dim)``.

        Neighbours are summed in the parameters' type, or the patches' where that is wider, under autocast too.
        """
        messages = patches.to(torch.promote_types(patches.dtype, self.temperature.dtype)).relu() + EPSILON
        output: Tensor = self.mlp(patches + softmax_aggregate(messages, edges, self.temperature))
        return output


class ResidualConvolution(nn.Module):
    """``x + ReLU(LayerNorm(GENConv(x)))``: the residual layer of DeepGCN (Li et al., ICCV 2019)."""

    def __init__(self, dim: int):
        super().__init__()
        self.convolution = GraphConvolution(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, patches: Tensor, edges: Tensor) -> Tensor:
        """``(n, dim)`` patches and ``(2, edges)`` -> ``(n, dim)``."""
        output: Tensor = patches + self.norm(self.convolution(patches, edges)).relu()
        return output
