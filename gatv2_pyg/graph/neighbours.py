"""The edges a layer attends over: a user's adjacency, its self-loops replaced, with features."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj, SparseTensor, torch_sparse
from torch_geometric.utils import add_self_loops, is_sparse, remove_self_loops, scatter

from gatv2_pyg.graph import adjacency
from gatv2_pyg.graph.adjacency import plain
from gatv2_pyg.graph.cache import cached
from gatv2_pyg.graph.structure import Graph

FillValue = float | Tensor | str


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """An adjacency with what a layer makes of it.

    Attributes:
        edge_index: the adjacency that was passed, its rows first.
        edge_attr: ``[E, D]`` or ``[E]`` features that were passed, if any.
        num_src: the number of source nodes.
        num_dst: the number of destination nodes.
        self_loops: whether self-loops are replaced.
        fill_value: the features of added self-loops, as
            :class:`torch_geometric.nn.GATv2Conv` takes it.
        flow: which row of ``edge_index`` holds the sources.
    """

    edge_index: Adj
    edge_attr: Tensor | None
    num_src: int
    num_dst: int
    self_loops: bool
    fill_value: FillValue
    flow: str

    @property
    def num_nodes(self) -> int:
        """The number of nodes that get a self-loop."""
        return min(self.num_src, self.num_dst)

    def check(self) -> None:
        """Raises EdgeIndexError or ValueError unless every edge joins two nodes."""
        adjacency.check_indices(self.edge_index, self.num_src, self.num_dst, self.flow)

    def graph(self) -> Graph:
        """The grouped edges, from the cache where they are there."""
        if isinstance(self.edge_index, SparseTensor):
            return self._group()
        key = (self.num_src, self.num_dst, self.self_loops, self.flow)
        return cached(self.edge_index, key, self._group)

    def _group(self) -> Graph:
        if is_sparse(self.edge_index):
            return _graph_of_matrix(self.with_self_loops(), self.num_src, self.num_dst)
        return Graph.from_edge_index(
            plain(self.edge_index),
            self.num_src,
            self.num_dst,
            add_self_loops=self.self_loops,
            flow=self.flow,
        )

    def with_self_loops(self) -> Adj:
        """The adjacency with its self-loops replaced, as PyG does it."""
        if not self.self_loops:
            return self.edge_index
        if is_sparse(self.edge_index):
            return _matrix_with_self_loops(self.edge_index, self.fill_value)
        kept, _ = remove_self_loops(self.edge_index)
        return add_self_loops(kept, num_nodes=self.num_nodes)[0]

    def ids(self) -> Tensor | None:
        """``[E']`` ids of the edges of :meth:`with_self_loops`; None where an id is a position."""
        if not self.self_loops or is_sparse(self.edge_index):
            return None
        row, col = plain(self.edge_index)
        (kept,) = (row != col).nonzero(as_tuple=True)
        loops = torch.arange(self.num_nodes, device=row.device) + row.numel()
        return torch.cat([kept, loops])

    def features(self) -> Tensor | None:
        """Features by edge id: those passed, and below them those of the added self-loops."""
        if self.edge_attr is None:
            if is_sparse(self.edge_index) and adjacency.has_features(self.edge_index):
                return adjacency.features_of(self.with_self_loops())
            return None
        if not self.self_loops:
            return self.edge_attr
        return torch.cat([self.edge_attr, self._loop_features(self.edge_attr)])

    def _loop_features(self, edge_attr: Tensor) -> Tensor:
        """A reduction runs over the edges that point to the node, without its old self-loops."""
        size = (self.num_nodes, *edge_attr.shape[1:])
        if isinstance(self.fill_value, str):
            row, col = plain(self.edge_index)
            group = torch.where((row == col) | (col >= self.num_nodes), self.num_nodes, col).long()
            return reduce_rows(edge_attr, group, self.num_nodes + 1, self.fill_value)[:-1]
        if isinstance(self.fill_value, Tensor):
            loops = self.fill_value.to(edge_attr.device, edge_attr.dtype)
            return (loops if loops.dim() == edge_attr.dim() else loops.unsqueeze(0)).expand(size)
        return edge_attr.new_full(size, self.fill_value)


def reduce_rows(rows: Tensor, group: Tensor, num_groups: int, reduce: str) -> Tensor:
    """PyG's ``scatter`` over dimension 0, in a fixed order on CUDA too.

    Args:
        rows: ``[E, *]``.
        group: ``[E]`` int64, which group each row belongs to.
        num_groups: the number of groups.
        reduce: ``"sum"``, ``"add"``, ``"mean"``, ``"min"``, ``"max"`` or ``"mul"``.

    Returns:
        ``[num_groups, *]``; 0 (1 for ``"mul"``) for an empty group.
    """
    if rows.device.type != "cuda" or reduce in ("min", "max"):
        return scatter(rows, group, 0, num_groups, reduce)
    if reduce == "mul":
        order = group.argsort(stable=True)
        counts = torch.bincount(group, minlength=num_groups)
        return torch.segment_reduce(rows[order], "prod", lengths=counts, initial=1)
    # torch sorts the indices of index_put on CUDA, so each sum has its order.
    zeros = rows.new_zeros(num_groups, *rows.shape[1:])
    total = zeros.index_put((group,), rows, accumulate=True)
    if reduce != "mean":
        return total
    count = torch.bincount(group, minlength=num_groups).clamp(min=1)
    return total / count.view(-1, *[1] * (rows.dim() - 1))


def _matrix_with_self_loops(adj: Any, fill_value: FillValue) -> Any:
    if isinstance(adj, SparseTensor):
        return torch_sparse.set_diag(adj)
    adj, _ = remove_self_loops(adj)
    return add_self_loops(adj, None, fill_value=fill_value, num_nodes=min(adj.shape[:2]))[0]


def _graph_of_matrix(adj: Any, num_src: int, num_dst: int) -> Graph:
    adjacency.check_matrix(adj, num_src, num_dst)
    if isinstance(adj, Tensor) and adj.layout == torch.sparse_csr:
        return Graph.from_csc(adj.crow_indices(), adj.col_indices(), num_src)
    src, dst = adjacency.endpoints(adj, "source_to_target")
    return Graph.from_edge_index(torch.stack([src, dst]), num_src, num_dst)
