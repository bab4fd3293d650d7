"""What a user may pass as ``edge_index``.

PyG's adjacencies are a ``[2, E]`` tensor (or :class:`torch_geometric.EdgeIndex`) with sources
above destinations, and transposed sparse matrices (``torch.sparse`` or ``SparseTensor``) whose rows
are destinations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor, to_edge_index

from gatv2_pyg.graph import grouping
from gatv2_pyg.graph.cache import cached
from gatv2_pyg.graph.operators import check_edge_index
from gatv2_pyg.graph.tracing import reading_values, values_unknown


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
        with reading_values():
            src, dst = endpoints(edge_index, flow)
            grouping.check_range("source", src, num_src)
            grouping.check_range("destination", dst, num_dst)
        return True

    if is_sparse(edge_index):
        check_matrix(edge_index, num_src, num_dst)
    elif not values_unknown(plain(edge_index)):
        cached(edge_index, ("in range", num_src, num_dst, flow), check)


def check_matrix(adj: Any, num_src: int, num_dst: int) -> None:
    """Raises ValueError unless the sparse matrix is ``num_dst x num_src``."""
    shape = tuple(adj.sizes() if isinstance(adj, SparseTensor) else adj.shape)[:2]
    if shape != (num_dst, num_src):
        raise ValueError(
            f"Expected 'edge_index' to be a sparse matrix of shape [{num_dst}, {num_src}] "
            f"(destinations by sources), got {list(shape)}"
        )


def plain(edge_index: Tensor) -> Tensor:
    """The ``[2, E]`` tensor within an :class:`~torch_geometric.EdgeIndex`, or the tensor itself."""
    return edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index


def endpoints(edge_index: Adj, flow: str) -> tuple[Tensor, Tensor]:
    """Sources and destinations of the edges, in order."""
    if is_sparse(edge_index):
        dst, src = to_edge_index(edge_index)[0]
        return src, dst
    row, col = plain(edge_index)
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


def has_features(adj: Any) -> bool:
    """Whether PyG takes the values of a sparse matrix as edge features."""
    if isinstance(adj, SparseTensor):
        return adj.has_value()
    return adj.dense_dim() > 0


def features_of(adj: Any) -> Tensor | None:
    """The edge features that PyG takes from the values of a sparse matrix, if any."""
    return to_edge_index(adj)[1] if has_features(adj) else None
