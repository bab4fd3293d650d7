"""What a user may pass as ``edge_index``, and the graph it stands for.

PyG's adjacencies are a ``[2, E]`` tensor (or :class:`torch_geometric.EdgeIndex`) with sources
above destinations, and transposed sparse matrices (``torch.sparse`` or ``SparseTensor``) whose rows
are destinations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor, torch_sparse
from torch_geometric.utils import (
    add_self_loops,
    is_sparse,
    is_torch_sparse_tensor,
    remove_self_loops,
    scatter,
    to_edge_index,
)

from gatv2_pyg.graph import grouping
from gatv2_pyg.graph.cache import cached
from gatv2_pyg.graph.structure import Graph, check_edge_index

FillValue = float | Tensor | str


def check_adjacency(edge_index: Adj, flow: str, device: torch.device) -> None:
    """Raises unless ``edge_index`` is an adjacency that fits ``flow`` and lies on ``device``."""
    if is_sparse(edge_index):
        if flow == "target_to_source":
            raise ValueError(
                "Expected 'edge_index' to be a [2, num_edges] tensor for "
                "flow='target_to_source', got a sparse matrix; pass its transpose and use "
                "flow='source_to_target'"
            )
    else:
        check_edge_index(edge_index)
    where = edge_index.device() if isinstance(edge_index, SparseTensor) else edge_index.device
    if where != device:
        raise ValueError(f"Expected 'edge_index' to be on {device}, as 'x', got {where}")


def check_indices(edge_index: Adj, num_src: int, num_dst: int, flow: str) -> None:
    """Raises EdgeIndexError unless every edge joins two nodes; checked once a tensor."""

    def check() -> bool:
        src, dst = endpoints(edge_index, flow)
        grouping.check_range("source", src, num_src)
        grouping.check_range("destination", dst, num_dst)
        return True

    if is_sparse(edge_index):
        check_matrix(edge_index, num_src, num_dst)
    elif not torch.compiler.is_compiling():
        cached(edge_index, ("in range", num_src, num_dst, flow), check)


def check_matrix(adj: Any, num_src: int, num_dst: int) -> None:
    """Raises ValueError unless the sparse matrix is ``num_dst x num_src``."""
    shape = tuple(adj.sizes() if isinstance(adj, SparseTensor) else adj.shape)[:2]
    if shape != (num_dst, num_src):
        raise ValueError(
            f"Expected 'edge_index' to be a sparse matrix of shape [{num_dst}, {num_src}] "
            f"(destinations by sources), got {list(shape)}"
        )


def endpoints(edge_index: Adj, flow: str) -> tuple[Tensor, Tensor]:
    """Sources and destinations of the edges, in order."""
    if is_sparse(edge_index):
        dst, src = to_edge_index(edge_index)[0]
        return src, dst
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    row, col = edge_index
    return (row, col) if flow == "source_to_target" else (col, row)


def as_int64(edge_index: Adj) -> Adj:
    """A plain ``edge_index`` in int64; PyG's scatter fails, or errs, with smaller integers."""
    if type(edge_index) is not Tensor or is_torch_sparse_tensor(edge_index):
        return edge_index
    return edge_index.long()


def is_column_major(edge_index: Adj) -> bool:
    """Whether the adjacency is a sparse matrix in CSC layout."""
    return is_torch_sparse_tensor(edge_index) and edge_index.layout == torch.sparse_csc


def rows_first(edge_index: Adj) -> Adj:
    """The adjacency, in CSR where it is in CSC, which PyG's message passing does not take."""
    if not is_column_major(edge_index):
        return edge_index
    if has_features(edge_index):
        return edge_index.to_sparse_csr()
    return cached(edge_index, "rows first", edge_index.to_sparse_csr)


def count_edges(edge_index: Adj) -> int:
    """The number of edges of an adjacency."""
    if isinstance(edge_index, SparseTensor):
        return edge_index.nnz()
    return edge_index._nnz() if is_torch_sparse_tensor(edge_index) else edge_index.size(1)


def graph_of(
    edge_index: Adj, num_src: int, num_dst: int, self_loops: bool, fill_value: FillValue, flow: str
) -> Graph:
    """The grouped edges of an adjacency, from the cache where they are there."""

    def build() -> Graph:
        if is_sparse(edge_index):
            adj = matrix_with_self_loops(edge_index, fill_value) if self_loops else edge_index
            return _graph_of_matrix(adj, num_src, num_dst)
        if isinstance(edge_index, EdgeIndex):
            if edge_index.is_sorted_by_col and not self_loops and flow == "source_to_target":
                return _graph_of_sorted(edge_index, num_src, num_dst)
            return from_plain(edge_index.as_tensor())
        return from_plain(edge_index)

    def from_plain(index: Tensor) -> Graph:
        return Graph.from_edge_index(index, num_src, num_dst, add_self_loops=self_loops, flow=flow)

    if isinstance(edge_index, SparseTensor):
        return build()
    return cached(edge_index, (num_src, num_dst, self_loops, flow), build)


def _graph_of_sorted(edge_index: EdgeIndex, num_src: int, num_dst: int) -> Graph:
    rows, cols = edge_index.sparse_size()
    if rows not in (None, num_src) or cols not in (None, num_dst):
        raise ValueError(
            f"Expected 'edge_index' to have the sparse size [{num_src}, {num_dst}], "
            f"got [{rows}, {cols}]"
        )
    src, dst = edge_index.as_tensor()
    grouping.check_range("destination", dst, num_dst)
    (ptr, _), _ = edge_index.get_csc()
    return Graph.from_csc(_extended(ptr, num_dst), src, num_src)


def _extended(ptr: Tensor, num_rows: int) -> Tensor:
    missing = num_rows + 1 - ptr.numel()
    return ptr if missing <= 0 else torch.cat([ptr, ptr[-1:].expand(missing)])


def _graph_of_matrix(adj: Any, num_src: int, num_dst: int) -> Graph:
    check_matrix(adj, num_src, num_dst)
    if isinstance(adj, Tensor) and adj.layout == torch.sparse_csr:
        return Graph.from_csc(adj.crow_indices(), adj.col_indices(), num_src)
    src, dst = endpoints(adj, "source_to_target")
    return Graph.from_edge_index(torch.stack([src, dst]), num_src, num_dst)


def matrix_with_self_loops(adj: Any, fill_value: FillValue) -> Any:
    """A sparse matrix with its diagonal replaced, as PyG does it."""
    if isinstance(adj, SparseTensor):
        return torch_sparse.set_diag(adj)
    adj, _ = remove_self_loops(adj)
    return add_self_loops(adj, None, fill_value=fill_value, num_nodes=min(adj.shape[:2]))[0]


def edges_with_self_loops(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """``edge_index`` with its self-loops replaced, as PyG does it, and the edges' ids ``[E']``."""
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    (kept,) = (plain[0] != plain[1]).nonzero(as_tuple=True)
    loops = torch.arange(num_nodes, device=plain.device) + plain.size(1)
    edge_index, _ = add_self_loops(remove_self_loops(edge_index)[0], num_nodes=num_nodes)
    return edge_index, torch.cat([kept, loops])


def attr_with_self_loops(
    edge_index: Tensor, edge_attr: Tensor, num_nodes: int, fill_value: FillValue
) -> Tensor:
    """Edge features by edge id: ``edge_attr``, and below it those of the added self-loops.

    ``fill_value`` is that of :class:`torch_geometric.nn.GATv2Conv`; a reduction runs over the edges
    that point to the node, without its old self-loops.
    """
    size = (num_nodes, *edge_attr.shape[1:])
    if isinstance(fill_value, str):
        row, col = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
        group = torch.where((row == col) | (col >= num_nodes), num_nodes, col).long()
        loops = scatter(edge_attr, group, 0, num_nodes + 1, fill_value)[:num_nodes]
    elif isinstance(fill_value, Tensor):
        loops = fill_value.to(edge_attr.device, edge_attr.dtype)
        loops = (loops if loops.dim() == edge_attr.dim() else loops.unsqueeze(0)).expand(size)
    else:
        loops = edge_attr.new_full(size, fill_value)
    return torch.cat([edge_attr, loops])


def has_features(adj: Any) -> bool:
    """Whether PyG takes the values of a sparse matrix as edge features."""
    if isinstance(adj, SparseTensor):
        return adj.has_value()
    return adj.dense_dim() > 0


def features_of(adj: Any) -> Tensor | None:
    """The edge features that PyG takes from the values of a sparse matrix, if any."""
    return to_edge_index(adj)[1] if has_features(adj) else None
