"""The edges a layer attends over: what a user passed, checked, its self-loops replaced.

PyG's adjacencies are a ``[2, E]`` tensor (or :class:`torch_geometric.EdgeIndex`) with sources
above destinations, and transposed sparse matrices (``torch.sparse`` or ``SparseTensor``) whose rows
are destinations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor, torch_sparse
from torch_geometric.utils import (
    add_self_loops,
    is_sparse,
    is_torch_sparse_tensor,
    remove_self_loops,
    to_edge_index,
)

from gatv2_pyg.graph import grouping
from gatv2_pyg.graph.cache import Known, cached, content_of, known, learn, signed
from gatv2_pyg.graph.loops import FillValue, with_loop_features
from gatv2_pyg.graph.operators import check_edge_index, check_flow
from gatv2_pyg.graph.structure import Graph
from gatv2_pyg.graph.tracing import reading_values, values_unknown


class Neighbours(NamedTuple):
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

    @classmethod
    def of(
        cls,
        edge_index: Adj,
        edge_attr: Tensor | None,
        *,
        num_src: int,
        num_dst: int,
        self_loops: bool,
        fill_value: FillValue,
        flow: str,
    ) -> Neighbours:
        """Takes an adjacency that passed :func:`check_adjacency`.

        Raises:
            ValueError: ``flow`` is unknown, a matrix has the wrong shape, or its indices are not
                sound.
            EdgeIndexError: an index of a matrix points to no node.
        """
        check_flow(flow)
        if flow == "target_to_source":
            # PyG's message passing leaves x[1] beyond the rows of x[0] aside then.
            num_dst = min(num_src, num_dst)
        if is_matrix(edge_index):
            _check_matrix(edge_index, num_src, num_dst)
            edge_index = _rows_first(edge_index)
        return cls(edge_index, edge_attr, num_src, num_dst, bool(self_loops), fill_value, flow)

    @property
    def num_nodes(self) -> int:
        """The number of nodes that get a self-loop."""
        return min(self.num_src, self.num_dst)

    def graph(self) -> Graph:
        """The grouped edges, from the cache where they are there.

        Raises:
            EdgeIndexError: an index points to no node (an IndexError and a ValueError).
        """
        if isinstance(self.edge_index, SparseTensor):
            return self._group()
        return cached(self.edge_index, self._flags, self._group)

    @property
    def _flags(self) -> tuple[int, int, bool, str]:
        return self.num_src, self.num_dst, self.self_loops, self.flow

    def _group(self) -> Graph:
        if is_matrix(self.edge_index):
            return _graph_of_matrix(self.with_self_loops()[0], self.num_src, self.num_dst)
        return Graph.from_edge_index(
            _plain(self.edge_index),
            self.num_src,
            self.num_dst,
            add_self_loops=self.self_loops,
            flow=self.flow,
        )

    def check(self) -> None:
        """Raises EdgeIndexError unless every edge joins two nodes; once a tensor."""
        if not is_matrix(self.edge_index) and not values_unknown(_plain(self.edge_index)):
            key = ("in range", self.num_src, self.num_dst, self.flow)
            cached(self.edge_index, key, self._check_ends)

    def _check_ends(self) -> bool:
        with reading_values():
            src, dst = _endpoints(self.edge_index, self.flow)
            grouping.check_range("source", src, self.num_src)
            grouping.check_range("destination", dst, self.num_dst)
        return True

    def with_self_loops(self) -> tuple[Adj, Tensor | None]:
        """The adjacency with its self-loops replaced, as PyG does it.

        Returns:
            The adjacency, and ``[E']`` ids of its edges; None where an id is a position.
        """
        if not self.self_loops:
            return self.edge_index, None
        if is_matrix(self.edge_index):
            return _matrix_with_self_loops(self.edge_index, self.fill_value), None
        row, col = _plain(self.edge_index)
        (kept,) = (row != col).nonzero(as_tuple=True)
        loops = torch.arange(self.num_nodes, device=row.device)
        ids = torch.cat([kept, loops + row.numel()])
        if isinstance(self.edge_index, EdgeIndex):
            edge_index, _ = remove_self_loops(self.edge_index)
            return add_self_loops(edge_index, num_nodes=self.num_nodes)[0], ids
        return torch.cat([self.edge_index[:, kept], loops.expand(2, -1)], dim=1), ids

    def order(self, graph: Graph, alpha: Tensor) -> tuple[Adj, Tensor]:
        """The adjacency with its self-loops replaced, and coefficients by id as its edges come."""
        adj, ids = self.with_self_loops()
        if graph.complete or ids is None:
            return adj, alpha
        return adj, alpha[ids] if alpha.dim() == 2 else alpha[..., ids, :]

    def features(self, graph: Graph | None = None) -> Tensor | None:
        """Features by edge id: those passed, and below them those of the added self-loops.

        Args:
            graph: what :meth:`graph` returned, if it was called.
        """
        if self.edge_attr is None:
            if is_matrix(self.edge_index) and has_features(self.edge_index):
                return _features_of(self.with_self_loops()[0])
            return None
        if not self.self_loops:
            return self.edge_attr
        edge_attr = self.edge_attr

        def build() -> Tensor:
            return with_loop_features(
                edge_attr,
                _plain(self.edge_index),
                self.num_nodes,
                self.fill_value,
                graph if self.flow == "source_to_target" else None,
            )

        if graph is None or isinstance(self.fill_value, Tensor):
            return build()
        content = content_of(edge_attr, _MOST_KEPT)
        if content is None:
            return build()
        # The layers of a network take the same features on the same graph.
        return graph.remember((self.fill_value, self.flow, content), build)


def known_neighbours(
    edge_index: Tensor, num_nodes: int, self_loops: bool, flow: str
) -> Known | None:
    """The graph that :meth:`Neighbours.graph` gave in such a call on one set of nodes.

    Indices may have changed since: their hash tells.
    """
    return known(edge_index, (num_nodes, num_nodes, self_loops, flow))


def known_features(graph: Graph, fill_value: FillValue, flow: str) -> tuple[Tensor, int] | None:
    """The last features that :meth:`Neighbours.features` gave on a graph with self-loops.

    With the hash of the edges' own that they were made of.
    """
    if graph.remembered is None:
        return None
    (of_value, of_flow, (of_attr, *_)), filled = graph.remembered
    return (filled, signed(of_attr)) if (of_value, of_flow) == (fill_value, flow) else None


def learn_neighbours(
    edge_index: Tensor, of_rows: int, graph: Graph, self_loops: bool, flow: str
) -> None:
    """Lets :func:`known_neighbours` find a graph that was made elsewhere, on one set of nodes.

    With the hash of what it was made of.
    """
    flags = graph.num_src, graph.num_dst, self_loops, flow
    learn(edge_index, of_rows, flags, graph)


def learn_features(
    graph: Graph, fill_value: FillValue, flow: str, edge_attr: Tensor, of_attr: int, filled: Tensor
) -> None:
    """Lets :func:`known_features` find features that were made elsewhere, if they may be kept.

    With the hash of the edges' own that they were made of.
    """
    if edge_attr.nbytes <= _MOST_KEPT:
        content = of_attr % 2**64, edge_attr.dtype, edge_attr.shape
        graph.remember((fill_value, flow, content), lambda: filled)


_MOST_KEPT = 64 << 20
"""Bytes of features up to which those with self-loops below are kept with the graph."""


def _matrix_with_self_loops(adj: Any, fill_value: FillValue) -> Any:
    if isinstance(adj, SparseTensor):
        return torch_sparse.set_diag(adj)
    adj, _ = remove_self_loops(adj)
    return add_self_loops(adj, None, fill_value=fill_value, num_nodes=min(adj.shape[:2]))[0]


def _graph_of_matrix(adj: Any, num_src: int, num_dst: int) -> Graph:
    if isinstance(adj, Tensor) and adj.layout == torch.sparse_csr:
        return Graph.from_csc(adj.crow_indices(), adj.col_indices(), num_src)
    src, dst = _endpoints(adj, "source_to_target")
    return Graph.from_edge_index(torch.stack([src, dst]), num_src, num_dst)


def is_matrix(edge_index: Any) -> bool:
    """Whether an adjacency is a sparse matrix, of torch or of torch_sparse."""
    plain = type(edge_index) is Tensor and edge_index.layout is torch.strided
    return not plain and is_sparse(edge_index)


def check_adjacency(edge_index: Adj, flow: str, device: torch.device) -> None:
    """Raises unless ``edge_index`` is an adjacency that fits ``flow`` and lies on ``device``."""
    if is_matrix(edge_index):
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


def _check_matrix(adj: Any, num_src: int, num_dst: int) -> None:
    """Raises ValueError unless the sparse matrix is ``num_dst x num_src``, and sound.

    torch builds matrices without looking at their indices, and reads beyond its memory later.
    """
    shape = tuple(adj.sizes() if isinstance(adj, SparseTensor) else adj.shape)[:2]
    if shape != (num_dst, num_src):
        raise ValueError(
            f"Expected 'edge_index' to be a sparse matrix of shape [{num_dst}, {num_src}] "
            f"(destinations by sources), got {list(shape)}"
        )

    def check() -> bool:
        with reading_values():
            _check_matrix_indices(adj, num_src, num_dst)
        return True

    if isinstance(adj, Tensor) and not values_unknown(adj):
        cached(adj, ("sound", num_src, num_dst), check)


def _check_matrix_indices(adj: Tensor, num_src: int, num_dst: int) -> None:
    if adj.layout == torch.sparse_coo:
        dst, src = adj._indices()
        grouping.check_range("source", src, num_src)
        grouping.check_range("destination", dst, num_dst)
        return
    rows_own = adj.layout == torch.sparse_csr
    ptr = adj.crow_indices() if rows_own else adj.ccol_indices()
    idx = adj.col_indices() if rows_own else adj.row_indices()
    grouping.check_range(*(("source", idx, num_src) if rows_own else ("destination", idx, num_dst)))
    name = "crow_indices" if rows_own else "ccol_indices"
    grouping.check_pointers(f"the {name} of 'edge_index'", ptr, idx.numel())


def is_column_major(edge_index: Adj) -> bool:
    """Whether the adjacency is a sparse matrix in CSC layout."""
    return is_torch_sparse_tensor(edge_index) and edge_index.layout == torch.sparse_csc


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


def _rows_first(edge_index: Adj) -> Adj:
    """The adjacency, in CSR where it is in CSC, which PyG's message passing does not take."""
    if not is_column_major(edge_index):
        return edge_index
    if has_features(edge_index):
        return edge_index.to_sparse_csr()
    return cached(edge_index, "rows first", edge_index.to_sparse_csr)


def _features_of(adj: Any) -> Tensor | None:
    """The edge features that PyG takes from the values of a sparse matrix, if any."""
    if not has_features(adj):
        return None
    return adj._values() if _is_coo(adj) else to_edge_index(adj)[1]


def _is_coo(adj: Any) -> bool:
    """Whether the matrix is in COO layout, which PyG's ``to_edge_index`` marks as coalesced."""
    return is_torch_sparse_tensor(adj) and adj.layout == torch.sparse_coo


def _plain(edge_index: Tensor) -> Tensor:
    """The ``[2, E]`` tensor within an :class:`~torch_geometric.EdgeIndex`, or the tensor itself."""
    return edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index


def _endpoints(edge_index: Adj, flow: str) -> tuple[Tensor, Tensor]:
    """Sources and destinations of the edges, in order."""
    if is_matrix(edge_index):
        ends = edge_index._indices() if _is_coo(edge_index) else to_edge_index(edge_index)[0]
        dst, src = ends.unbind(0)
        return src, dst
    row, col = _plain(edge_index)
    return (row, col) if flow == "source_to_target" else (col, row)


def as_int64(edge_index: Adj) -> Adj:
    """A plain ``edge_index`` in int64; PyG's scatter fails, or errs, with smaller integers."""
    if type(edge_index) is not Tensor or is_torch_sparse_tensor(edge_index):
        return edge_index
    return edge_index.long()
