"""The graph as the kernels want it: edges by destination, by source when a gradient needs it."""

from __future__ import annotations

import torch
from torch import Tensor

from gatv2_pyg.graph import grouping
from gatv2_pyg.graph import operators as graph_ops
from gatv2_pyg.graph.grouping import PIECE, EdgeIndexError, Rows

__all__ = ["PIECE", "EdgeIndexError", "Graph", "Rows"]


class Graph:
    """The edges of a bipartite (or ordinary) graph, grouped for GATv2 attention.

    Every edge has an *id*: the edge ``e`` of ``edge_index`` has the id ``e``, and the self-loop
    that was added to node ``i`` has the id ``E + i``.  Edge features and returned attention
    coefficients have one row per id.  A self-loop that was removed keeps its id and takes no part.

    Use :meth:`from_edge_index` or :meth:`from_csc`.  A graph is immutable, holds no reference to
    the tensors it was made from where they were grouped, and may be used from several threads.

    Attributes:
        num_src: the number of source nodes.
        num_dst: the number of destination nodes.
        num_ids: the number of edge ids: ``E``, plus ``min(num_src, num_dst)`` with self-loops.
        by_dst: the edges grouped by destination, each row in order of ids.
        complete: whether every id stands for an edge; None in a traced graph, where that may
            depend on data.
    """

    def __init__(
        self,
        by_dst: Rows,
        num_src: int,
        num_dst: int,
        num_ids: int,
        complete: bool | None,
    ):
        self.by_dst = by_dst
        self.num_src = num_src
        self.num_dst = num_dst
        self.num_ids = num_ids
        self.complete = complete
        self._by_src: dict[int, Rows] = {}

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_src: int,
        num_dst: int | None = None,
        *,
        add_self_loops: bool = False,
        flow: str = "source_to_target",
    ) -> Graph:
        """Groups the edges of ``edge_index``.

        Args:
            edge_index: ``[2, E]`` integers, sources above destinations (below them if ``flow`` is
                ``"target_to_source"``).
            num_src: the number of source nodes.
            num_dst: the number of destination nodes; ``num_src`` if None.
            add_self_loops: whether to leave out the self-loops there are and to add one to every
                node, as :class:`torch_geometric.nn.GATv2Conv` does.
            flow: ``"source_to_target"`` or ``"target_to_source"``.

        Raises:
            TypeError: ``edge_index`` is not an integer tensor.
            ValueError: ``edge_index`` is not ``[2, E]``, or ``flow`` is unknown.
            EdgeIndexError: an index points to no node (an IndexError and a ValueError).
        """
        check_edge_index(edge_index)
        if flow not in ("source_to_target", "target_to_source"):
            raise ValueError(
                f"Expected 'flow' to be 'source_to_target' or 'target_to_source', got {flow!r}"
            )
        num_dst = num_src if num_dst is None else num_dst
        row, col = edge_index.unbind(0)
        src, dst = (row, col) if flow == "source_to_target" else (col, row)
        num_ids = src.numel() + (min(num_src, num_dst) if add_self_loops else 0)
        if torch.compiler.is_compiling():
            rows = graph_ops.group_by_dst(src, dst, num_src, num_dst, add_self_loops)
            complete = None if add_self_loops else True
            return cls(Rows(*rows), num_src, num_dst, num_ids, complete)
        kernels = grouping.cpu_kernels() if edge_index.device.type == "cpu" else None
        if kernels is None:
            return cls._sorted(src, dst, num_src, num_dst, num_ids, add_self_loops)
        dtype = grouping.index_dtype(num_src, num_dst, num_ids)
        ptr, idx, eid, max_degree, bad = kernels.group_by_dst(
            src, dst, num_src, num_dst, add_self_loops, dtype
        )
        if bad is not None:
            end, position, value = bad
            name, size = ("source", num_src) if end == "src" else ("destination", num_dst)
            raise grouping.out_of_range(name, size, position, value)
        rows = Rows(ptr, idx, eid, *grouping.cut_rows(ptr, max_degree))
        return cls(rows, num_src, num_dst, num_ids, complete=idx.numel() == num_ids)

    @classmethod
    def _sorted(cls, src, dst, num_src, num_dst, num_ids, add_self_loops) -> Graph:
        complete = True
        if src.numel() > 0:
            numbers = [*torch.aminmax(src), *torch.aminmax(dst), (src == dst).sum()]
            low_src, high_src, low_dst, high_dst, loops = torch.stack(
                [number.long() for number in numbers]
            ).tolist()
            grouping.check_range("source", src, num_src, (low_src, high_src))
            grouping.check_range("destination", dst, num_dst, (low_dst, high_dst))
            complete = not (add_self_loops and loops)
        ptr, idx, eid = grouping.group_by_dst(src, dst, num_src, num_dst, add_self_loops)
        rows = Rows(ptr, idx, eid, *grouping.cut_rows(ptr))
        return cls(rows, num_src, num_dst, num_ids, complete)

    @classmethod
    def from_csc(cls, ptr: Tensor, idx: Tensor, num_src: int, eid: Tensor | None = None) -> Graph:
        """Takes edges that are grouped by destination already.

        Args:
            ptr: ``[num_dst + 1]`` integers: where the edges of each destination begin.
            idx: ``[E]`` integers: the source of the edge at each position.
            num_src: the number of source nodes.
            eid: ``[E]`` integers: the id of the edge at each position; None if that is its
                position.

        Raises:
            EdgeIndexError: a source points to no node.
        """
        num_dst, num_ids = ptr.numel() - 1, idx.numel()
        grouping.check_range("source", idx, num_src)
        dtype = grouping.index_dtype(num_src, num_dst, num_ids)
        ptr, idx = ptr.to(dtype).contiguous(), idx.to(dtype).contiguous()
        eid = ptr.new_empty(0) if eid is None else eid.to(dtype).contiguous()
        rows = Rows(ptr, idx, eid, *grouping.cut_rows(ptr))
        return cls(rows, num_src, num_dst, num_ids, complete=True)

    @property
    def by_src(self) -> Rows:
        """The edges grouped by source, each row in order of destinations; built at first use."""
        return self.by_src_in_blocks(1)

    def by_src_in_blocks(self, blocks: int) -> Rows:
        """The edges grouped by range of destinations, then by source; built at first use.

        The destinations are cut into ``blocks`` ranges of the same length.  Row
        ``b * num_src + j`` holds the edges from source ``j`` to range ``b``, in order of
        destinations.  Traced graphs have one block.
        """
        rows = self._by_src.get(blocks)
        if rows is None:
            rows = self._by_src[blocks] = self._transpose(blocks)
        return rows

    def _transpose(self, blocks: int) -> Rows:
        ptr, idx = self.by_dst[:2]
        if torch.compiler.is_compiling():
            return Rows(*graph_ops.group_by_src(ptr, idx, self.num_src))
        kernels = grouping.cpu_kernels() if ptr.device.type == "cpu" else None
        if kernels is None:
            ptr, idx, edge = grouping.transpose(ptr, idx, self.num_src, blocks)
            return Rows(ptr, idx, edge, *grouping.cut_rows(ptr))
        ptr, idx, edge, max_degree = kernels.transpose(ptr, idx, self.num_src, blocks)
        return Rows(ptr, idx, edge, *grouping.cut_rows(ptr, max_degree))

    @property
    def device(self) -> torch.device:
        """Where the graph's tensors are."""
        return self.by_dst.ptr.device

    @property
    def num_edges(self) -> int:
        """The number of edges, added self-loops included (waits for the device)."""
        return self.num_ids if self.complete else int(self.by_dst.ptr[-1])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_src={self.num_src}, num_dst={self.num_dst}, "
            f"num_edges={self.num_edges}, device='{self.device}')"
        )


def check_edge_index(edge_index: Tensor) -> None:
    """Raises TypeError or ValueError unless ``edge_index`` is a ``[2, E]`` integer tensor."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"Expected 'edge_index' to be a Tensor, got {type(edge_index).__name__}")
    if edge_index.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(
            f"Expected 'edge_index' to hold integers (torch.int64), got {edge_index.dtype}"
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"Expected 'edge_index' to have the shape [2, num_edges], got {list(edge_index.shape)}"
        )
