"""The edges of dense adjacency matrices, grouped for the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from gatv2_pyg.graph import Graph
from gatv2_pyg.graph.grouping import index_dtype
from gatv2_pyg.graph.tracing import reading_values, values_unknown

_CELLS = 1 << 20
"""Cells of matrices whose edges are looked for at once: they take 16 bytes each."""


def edges_of(adj: Tensor, add_loop: bool) -> tuple[Graph, Tensor | None]:
    """The edges of matrices ``[B, N, N]``, whose nodes are numbered on from matrix to matrix.

    Args:
        adj: an edge from ``j`` to ``i`` of matrix ``b`` where ``adj[b, i, j]`` is not 0.
        add_loop: whether every node has a self-loop besides.

    Returns:
        The graph, and None; where the values can't be read, the graph of all pairs in a matrix,
        and ``[B * N * N, 1]`` biases, -inf where there is no edge.
    """
    present = adj.detach() != 0
    if add_loop:
        present = present | torch.eye(adj.size(-1), dtype=torch.bool, device=adj.device)
    if values_unknown(adj):
        bias = torch.zeros(present.shape, device=adj.device).masked_fill(~present, -torch.inf)
        return _complete(present), bias.view(-1, 1)
    with reading_values():
        return _grouped(present), None


def _grouped(present: Tensor) -> Graph:
    batch, size, _ = present.shape
    rows = present.flatten(0, 1)
    count = rows.sum(1)
    ptr = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    num_edges = int(ptr[-1])
    idx = torch.empty(num_edges, dtype=index_dtype(rows.size(0), num_edges), device=rows.device)
    at_once = max(1, _CELLS // max(size, 1))
    end = 0
    for first in range(0, rows.size(0), at_once):
        row, column = rows[first : first + at_once].nonzero(as_tuple=True)
        begin, end = end, end + row.numel()
        # The first node of the row's matrix, and on.
        idx[begin:end] = column.add_(row.add_(first).div_(size, rounding_mode="floor").mul_(size))
    return Graph.from_csc(ptr, idx, batch * size)


def _complete(present: Tensor) -> Graph:
    batch, size, _ = present.shape
    nodes = torch.arange(batch * size, device=present.device)
    ptr = torch.arange(batch * size + 1, device=present.device) * size
    idx = nodes.view(batch, 1, size).expand(batch, size, size).reshape(-1)
    return Graph.from_csc(ptr, idx, batch * size)
