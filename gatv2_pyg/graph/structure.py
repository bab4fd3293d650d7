"""The graph as the kernels want it: edges by destination, by source when a gradient needs it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from gatv2_pyg.graph import grouping, operators
from gatv2_pyg.graph.grouping import EdgeIndexError
from gatv2_pyg.graph.tracing import reading_values, values_unknown
from gatv2_pyg.kernels.contract import Edges, Rows
from gatv2_pyg.kernels.validity import Ends, Extent, mark_sound, require_sound

__all__ = ["EdgeIndexError", "Graph", "Rows"]


class Graph:
    """The edges of a bipartite (or ordinary) graph, grouped for GATv2 attention.

    Every edge has an *id*: the edge ``e`` of ``edge_index`` has the id ``e``, and the self-loop
    that was added to node ``i`` has the id ``E + i``.  Edge features and returned attention
    coefficients have one row per id.  A self-loop that was removed keeps its id and takes no part.

    Made by :meth:`from_edge_index` or :meth:`from_csc`.  A graph can't be changed, shares no memory
    with the tensors it was made from, and may be used from several threads.  With int32 indices it
    takes 8 bytes an edge, 4 if every edge stands at the position of its id, and 8 more once a
    gradient by source features was asked for; the layer keeps edge features with it.
    """

    _by_dst: Rows
    _by_src: Rows | None
    _unmarked: bool = False
    """Whether a grouping was made here that :mod:`gatv2_pyg.kernels.validity` knows nothing of."""
    _num_src: int
    _num_dst: int
    _num_ids: int
    _num_sized: int
    """Edges that the ranges of destinations are sized by."""
    _complete: bool | None
    _remembered: tuple[Any, Tensor] | None = None
    _plain: bool
    """Whether the edges by destination are their memory, and no one traces or wraps them."""

    def __init__(self) -> None:
        raise TypeError("Expected a graph to be made by Graph.from_edge_index or Graph.from_csc")

    @classmethod
    def _of(
        cls,
        by_dst: Rows,
        num_src: int,
        num_dst: int,
        num_ids: int,
        complete: bool | None,
        plain: bool = True,
        by_src: Rows | None = None,
    ) -> Graph:
        graph = cls.__new__(cls)
        graph._by_dst = by_dst
        graph._by_src = by_src
        graph._unmarked = True
        graph._num_src = num_src
        graph._num_dst = num_dst
        graph._num_ids = graph._num_sized = num_ids
        graph._complete, graph._plain = complete, plain
        return graph

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
            ValueError: ``edge_index`` is not ``[2, E]``, ``flow`` is unknown, or a number of nodes
                is negative.
            EdgeIndexError: an index points to no node (an IndexError and a ValueError).
        """
        operators.check_edge_index(edge_index)
        operators.check_flow(flow)
        num_dst = num_src if num_dst is None else num_dst
        operators.check_counts(num_src, num_dst)
        sources_first = flow == "source_to_target"
        num_ids = edge_index.size(1)
        if add_self_loops:
            num_ids = num_ids + grouping.smaller(num_src, num_dst)
        wide = grouping.index_dtype(num_src, num_dst, num_ids) == torch.int64
        arguments = (edge_index, num_src, num_dst, add_self_loops, sources_first, wide)
        if values_unknown(edge_index):
            *rows, _ = operators.group_by_dst(*arguments)
            complete = None if add_self_loops else True
            return cls._of(Rows(*rows), num_src, num_dst, num_ids, complete, plain=False)
        with reading_values():
            if edge_index.device.type != "cpu":
                row, col = edge_index.unbind(0)
                grouping.check_range("source", row if sources_first else col, num_src)
                grouping.check_range("destination", col if sources_first else row, num_dst)
            by_dst, num_edges = operators.trimmed_edges(*arguments)
        return cls._of(by_dst, num_src, num_dst, num_ids, complete=num_edges == num_ids)

    @classmethod
    def from_csc(cls, ptr: Tensor, idx: Tensor, num_src: int, eid: Tensor | None = None) -> Graph:
        """Takes edges that are grouped by destination already; copies them.

        Args:
            ptr: ``[num_dst + 1]`` integers: where the edges of each destination begin.
            idx: ``[E]`` integers: the source of the edge at each position.
            num_src: the number of source nodes.
            eid: ``[E]`` integers: the id of the edge at each position, a permutation; None if that
                is its position.

        Raises:
            TypeError: an argument is not an integer tensor.
            ValueError: an argument has the wrong shape, device or values.
            EdgeIndexError: a source points to no node (an IndexError and a ValueError).
        """
        given = {"ptr": ptr, "idx": idx} if eid is None else {"ptr": ptr, "idx": idx, "eid": eid}
        for name, value in given.items():
            _check_indices(name, value)
            if value.device != ptr.device:
                raise ValueError(
                    f"Expected '{name}' to be on {ptr.device}, as 'ptr', got {value.device}"
                )
        operators.check_counts(num_src, 0)
        if ptr.numel() == 0:
            raise ValueError("Expected 'ptr' to have num_dst + 1 elements, got none")
        num_dst, num_ids = ptr.numel() - 1, idx.numel()
        if eid is not None and eid.numel() != num_ids:
            raise ValueError(
                f"Expected 'eid' to have {num_ids} elements, as 'idx', got {eid.numel()}"
            )
        dtype = grouping.index_dtype(num_src, num_dst, num_ids)
        plain = not any(map(values_unknown, given.values()))
        if not plain:
            rows = cls._csc_rows(ptr, idx, eid, dtype)
        else:
            with reading_values():
                grouping.check_range("source", idx, num_src)
                grouping.check_pointers("'ptr'", ptr, num_ids)
                if eid is not None:
                    _check_permutation(eid)
                rows = cls._csc_rows(ptr, idx, eid, dtype)
                used = [table[table[:, 0] >= 0] for table in (rows.pieces, rows.cuts)]
                rows = rows._replace(pieces=used[0], cuts=used[1])
                require_sound("by_dst", rows, Extent(num_dst, num_src, num_ids, num_src))
        return cls._of(rows, num_src, num_dst, num_ids, complete=True, plain=plain)

    @classmethod
    def _of_grouped(cls, by_dst: Rows, by_src: Rows | None, num_ids: int) -> Graph:
        """Takes what :meth:`from_edge_index` would make of edges on one set of nodes, unchecked.

        Args:
            by_dst: as :attr:`by_dst` has it.
            by_src: as :attr:`by_src` has it, if it was made already.
            num_ids: the number of edge ids.
        """
        num_nodes = by_dst.ptr.numel() - 1
        complete = by_dst.idx.numel() == num_ids
        return cls._of(by_dst, num_nodes, num_nodes, num_ids, complete, by_src=by_src)

    def rows(self, start: int, stop: int) -> Graph:
        """The edges that point to the destinations ``start`` to ``stop - 1``, under their ids here.

        What one of several processes needs for its rows of the output.  Sources, and the number of
        ids, are those of this graph: edge features have a row for every id, returned coefficients
        too (zero for edges that are not here), and dropout with the same seed drops what it drops
        in the whole graph.

        Args:
            start: the first destination, which becomes destination 0.
            stop: the destination after the last one.

        Raises:
            TypeError: a bound is not an integer.
            ValueError: not ``0 <= start <= stop <= num_dst``, or the graph is being traced.
        """
        for name, value in (("start", start), ("stop", stop)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Expected '{name}' to be an integer, got {value!r}")
        if not 0 <= start <= stop <= self.num_dst:
            raise ValueError(
                f"Expected 0 <= start <= stop <= {self.num_dst}, the number of destinations, got "
                f"start={start}, stop={stop}"
            )
        whole = self._by_dst
        if not self.is_plain or values_unknown(whole.idx):
            raise ValueError("Expected rows of a graph to be taken outside of what is traced")
        with reading_values():
            ptr = whole.ptr[start : stop + 1]
            first, end = int(ptr[0]), int(ptr[-1])
            ptr, idx = ptr - first, whole.idx[first:end].clone()
            if whole.edge.numel() > 0:
                edge = whole.edge[first:end].clone()
            else:
                edge = torch.arange(first, end, dtype=ptr.dtype, device=ptr.device)
            tables = (table[table[:, 0] >= 0] for table in grouping.cut_rows(ptr, end - first))
            rows = Rows(ptr, idx, edge, *tables)
            num_dst = stop - start
            require_sound("by_dst", rows, Extent(num_dst, self.num_src, self.num_ids, self.num_src))
        complete = end - first == self.num_ids
        graph = self._of(rows, self.num_src, num_dst, self.num_ids, complete)
        graph._num_sized = end - first
        return graph

    @staticmethod
    def _csc_rows(ptr: Tensor, idx: Tensor, eid: Tensor | None, dtype: torch.dtype) -> Rows:
        ptr, idx = ptr.to(dtype, copy=True).contiguous(), idx.to(dtype, copy=True).contiguous()
        edge = ptr.new_empty(0) if eid is None else eid.to(dtype, copy=True).contiguous()
        return Rows(ptr, idx, edge, *grouping.cut_rows(ptr, idx.numel()))

    @property
    def num_src(self) -> int:
        """The number of source nodes."""
        return self._num_src

    @property
    def num_dst(self) -> int:
        """The number of destination nodes."""
        return self._num_dst

    @property
    def num_ids(self) -> int:
        """The number of edge ids: ``E``, plus ``min(num_src, num_dst)`` with self-loops."""
        return self._num_ids

    @property
    def complete(self) -> bool | None:
        """Whether every id stands for an edge; None in a traced graph, where data may decide."""
        return self._complete

    @property
    def is_plain(self) -> bool:
        """Whether its tensors are their memory: it was not made of wrapped or traced ones."""
        return self._plain

    @property
    def by_dst(self) -> Rows:
        """The edges grouped by destination, each row in order of ids; a copy."""
        return Rows(*(part.clone() for part in self._by_dst))

    @property
    def by_src(self) -> Rows:
        """The edges grouped by range of destinations, then by source; a copy.

        The destinations are cut into ranges of the same length (see
        :func:`gatv2_pyg.graph.grouping.source_blocks`).  Row ``b * num_src + j`` holds the edges
        from source ``j`` to range ``b``, in order of destinations.
        """
        return Rows(*(part.clone() for part in self._sources()))

    def _sources(self) -> Rows:
        if self._by_src is not None:
            return self._by_src
        ptr, idx = self._by_dst.ptr, self._by_dst.idx
        if not self.is_plain or values_unknown(idx):
            *parts, _ = operators.group_by_src(ptr, idx, self.num_src, self._num_sized)
            rows = Rows(*parts)
            if self.is_plain and not torch.compiler.is_dynamo_compiling():
                return rows  # fake or wrapped ones must not outlive the call
        else:
            with reading_values():
                rows = operators.trimmed_sources(ptr, idx, self.num_src, self._num_sized)
        self._by_src, self._unmarked = rows, True
        return rows

    def remember(self, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
        """What ``build`` made under ``key``, which holds all that it depends on beside the graph.

        The last one is kept, not to be written to; nothing is if the graph is traced or wrapped.
        """
        if not self.is_plain:
            return build()
        remembered = self._remembered
        if remembered is None or remembered[0] != key:
            self._remembered = remembered = key, build()
        return remembered[1]

    @property
    def remembered(self) -> tuple[Any, Tensor] | None:
        """The key and the tensor that :meth:`remember` keeps."""
        return self._remembered

    def edges(self, with_sources: bool) -> Edges:
        """The grouped edges as the kernels take them, by source too if ``with_sources``."""
        return Edges(self._by_dst, self._sources() if with_sources else None, self.num_ids)

    def vouch(self) -> None:
        """Notes for the operators that the groupings are sound: they were made here."""
        by_dst, by_src = self._by_dst, self._by_src
        if not self._unmarked or not self.is_plain or values_unknown(by_dst.idx):
            return
        mark_sound(by_dst, Extent(self.num_dst, self.num_src, self.num_ids, self.num_src))
        if by_src is not None:
            extent = Extent(by_src.ptr.numel() - 1, self.num_dst, by_dst.idx.numel(), self.num_src)
            mark_sound(by_src, extent, Ends(by_dst.ptr, by_dst.idx))
        self._unmarked = False

    @property
    def device(self) -> torch.device:
        """Where the graph's tensors are."""
        return self._by_dst.ptr.device

    @property
    def num_edges(self) -> int:
        """The number of edges, added self-loops included (waits for the device)."""
        return self.num_ids if self.complete else int(self._by_dst.ptr[-1])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_src={self.num_src}, num_dst={self.num_dst}, "
            f"num_edges={self.num_edges}, device='{self.device}')"
        )


def _check_indices(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected '{name}' to be a Tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.dtype not in operators.INDEX_DTYPES:
        raise TypeError(
            f"Expected '{name}' to hold integers (torch.int64), got {value.dtype}, {value.layout}"
        )
    if value.dim() != 1:
        raise ValueError(f"Expected '{name}' to be one-dimensional, got {list(value.shape)}")


def _check_permutation(eid: Tensor) -> None:
    if eid.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(eid)).tolist()
    if low < 0 or high >= eid.numel():
        raise ValueError(
            f"Expected 'eid' to lie in [0, {eid.numel()}), got {low if low < 0 else high}"
        )
    counts = torch.bincount(eid.long())
    if int(counts.max()) > 1:
        raise ValueError(
            f"Expected 'eid' to hold every id once, got {int(counts.argmax())} several times"
        )
