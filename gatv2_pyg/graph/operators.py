"""Grouping as torch operators: no size of a result depends on data, so that graphs can be traced.

On CPU the compiled kernels sort in O(E); without them, and on CUDA, torch's stable sort does.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gatv2_pyg import kernels
from gatv2_pyg.graph import grouping
from gatv2_pyg.graph.cache import cached
from gatv2_pyg.graph.tracing import reading_values
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.validity import PIECE, Ends, Extent, mark_sound, require_sound

_RESULT = "(Tensor ptr, Tensor idx, Tensor edge, Tensor pieces, Tensor cuts, Tensor facts)"
_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")
_lib.define(
    "group_by_dst(Tensor edge_index, SymInt num_src, SymInt num_dst, bool add_self_loops, "
    f"bool sources_first, bool wide) -> {_RESULT}"
)
_lib.define(f"group_by_src(Tensor ptr, Tensor idx, SymInt num_src, SymInt num_ids) -> {_RESULT}")


INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Facts(NamedTuple):
    """What a grouping turned out to hold."""

    num_edges: int
    identity: bool
    """Whether every edge stands at the position of its id."""
    num_pieces: int
    num_cuts: int


def trim(rows: Rows, facts: Facts) -> Rows:
    """``rows`` without what stands beyond the edges and the used entries of the tables."""
    edge = rows.edge[: facts.num_edges]
    return Rows(
        rows.ptr,
        rows.idx[: facts.num_edges],
        edge[:0].clone() if facts.identity else edge,
        rows.pieces[: facts.num_pieces],
        rows.cuts[: facts.num_cuts],
    )


def group_edges(
    edge_index: Tensor,
    num_src: int,
    num_dst: int,
    add_self_loops: bool,
    sources_first: bool,
    wide: bool,
) -> tuple[Tensor, ...]:
    """What the operator ``group_by_dst`` returns, for plain tensors and not from the cache.

    Args:
        edge_index: ``[2, E]`` integers.
        num_src: the number of source nodes.
        num_dst: the number of destination nodes.
        add_self_loops: whether to leave out self-loops and add one to every node.
        sources_first: whether the first row of ``edge_index`` holds the sources.
        wide: whether the result is int64, not int32.

    Returns:
        The fields of :class:`Rows`, and :class:`Facts` as an int64 tensor.
    """
    check_edge_index(edge_index)
    check_counts(num_src, num_dst)
    num_ids = _count_ids(edge_index, num_src, num_dst, add_self_loops)
    compiled = kernels.cpu_kernels() if edge_index.device.type == "cpu" else None
    if compiled is None:
        src, dst = _ends(edge_index, sources_first)
        _check_ends(src, dst, num_src, num_dst)
        by_dst = grouping.group_by_dst(src, dst, num_src, num_dst, add_self_loops)
        dtype = torch.int64 if wide else torch.int32
        ptr, idx, edge = (part.to(dtype) for part in by_dst)
        identity = (edge == torch.arange(num_ids, device=edge.device)).all()
        rows = Rows(ptr, idx, edge, *grouping.cut_rows(ptr, num_ids))
    else:
        ptr, idx, edge, seen = _sorted(
            compiled, edge_index, num_src, num_dst, add_self_loops, sources_first, wide
        )
        _clear_from(seen.num_edges, idx, edge)
        identity = torch.tensor(seen.identity, device="cpu")
        rows = Rows(ptr, idx, edge, *compiled.piece_tables(ptr, num_ids))
    mark_sound(rows, Extent(num_dst, num_src, num_ids, num_src))
    return *rows, _facts(rows, identity)


def trimmed_edges(
    edge_index: Tensor,
    num_src: int,
    num_dst: int,
    add_self_loops: bool,
    sources_first: bool,
    wide: bool,
) -> tuple[Rows, int]:
    """The rows of :func:`group_edges`, trimmed, and the number of edges, for the same arguments."""
    arguments = (edge_index, num_src, num_dst, add_self_loops, sources_first, wide)
    compiled = kernels.cpu_kernels() if edge_index.device.type == "cpu" else None
    if compiled is None:
        *parts, found = group_edges(*arguments)
        facts = Facts(*found.tolist())
        rows, num_edges = trim(Rows(*parts), facts), facts.num_edges
    else:
        ptr, idx, edge, seen = _sorted(compiled, *arguments)
        num_edges = seen.num_edges
        edge = edge.new_empty(0) if seen.identity else edge[:num_edges]
        tables = _trimmed_tables(compiled, ptr, idx.numel(), seen.max_degree)
        rows = Rows(ptr, idx[:num_edges], edge, *tables)
    return rows, num_edges


def _count_ids(edge_index: Tensor, num_src: int, num_dst: int, add_self_loops: bool) -> int:
    return edge_index.size(1) + (min(num_src, num_dst) if add_self_loops else 0)


def _ends(edge_index: Tensor, sources_first: bool) -> tuple[Tensor, Tensor]:
    row, col = edge_index.unbind(0)
    return (row, col) if sources_first else (col, row)


def _sorted(
    compiled: ModuleType,
    edge_index: Tensor,
    num_src: int,
    num_dst: int,
    add_self_loops: bool,
    sources_first: bool,
    wide: bool,
) -> tuple[Any, ...]:
    """The compiled counting sort; raises EdgeIndexError for an index that is no node."""
    src, dst = _ends(edge_index, sources_first)
    dtype = torch.int64 if wide else torch.int32
    *found, seen = compiled.group_by_dst(src, dst, num_src, num_dst, add_self_loops, dtype)
    if seen.bad is not None:
        end, position, value = seen.bad
        name, size = ("source", num_src) if end == "src" else ("destination", num_dst)
        raise grouping.out_of_range(name, size, position, value)
    return *found, seen


def _trimmed_tables(
    compiled: ModuleType, ptr: Tensor, num_positions: int, max_degree: int
) -> tuple[Tensor, Tensor]:
    """The used entries of the tables of long rows."""
    if max_degree <= PIECE:
        none = ptr.new_empty((0, 3))
        return none, none
    pieces, cuts = compiled.piece_tables(ptr, num_positions)
    return pieces[pieces[:, 0] >= 0], cuts[cuts[:, 0] >= 0]


def _check_ends(src: Tensor, dst: Tensor, num_src: int, num_dst: int) -> None:
    """On CUDA without waiting for the device."""
    for name, index, size in (("source", src, num_src), ("destination", dst, num_dst)):
        if index.device.type == "cpu":
            grouping.check_range(name, index, size)
        else:
            inside = ((index >= 0) & (index < size)).all()
            torch._assert_async(inside, f"'edge_index' has a {name} that is no node")


def group_sources(ptr: Tensor, idx: Tensor, num_src: int, num_ids: int) -> tuple[Tensor, ...]:
    """What the operator ``group_by_src`` returns, likewise.

    Args:
        ptr: of the edges by destination.
        idx: of the edges by destination.
        num_src: the number of source nodes.
        num_ids: the number of edge ids.
    """
    num_dst = ptr.numel() - 1
    blocks = _source_blocks(ptr, num_src, num_ids)
    compiled = kernels.cpu_kernels() if ptr.device.type == "cpu" else None
    if compiled is None:
        by_src = grouping.transpose(ptr, idx, num_src, blocks)
        tables = grouping.cut_rows(by_src[0], idx.numel())
    else:
        *by_src, _ = compiled.transpose(ptr, idx, num_src, blocks)
        _clear_from(int(ptr[-1]), *by_src[1:])
        tables = compiled.piece_tables(by_src[0], idx.numel())
    rows = Rows(*by_src, *tables)
    mark_sound(rows, Extent(blocks * num_src, num_dst, idx.numel(), num_src), Ends(ptr, idx))
    return *rows, _facts(rows, torch.tensor(False, device=ptr.device))


def trimmed_sources(ptr: Tensor, idx: Tensor, num_src: int, num_ids: int) -> Rows:
    """The rows of :func:`group_sources`, trimmed, for the same arguments; ``idx`` is trimmed."""
    compiled = kernels.cpu_kernels() if ptr.device.type == "cpu" else None
    if compiled is None:
        *parts, found = group_sources(ptr, idx, num_src, num_ids)
        rows = trim(Rows(*parts), Facts(*found.tolist()))
    else:
        blocks = _source_blocks(ptr, num_src, num_ids)
        by_ptr, by_idx, edge, max_degree = compiled.transpose(ptr, idx, num_src, blocks)
        tables = _trimmed_tables(compiled, by_ptr, idx.numel(), max_degree)
        rows = Rows(by_ptr, by_idx, edge, *tables)
    return rows


def _source_blocks(ptr: Tensor, num_src: int, num_ids: int) -> int:
    """Ranges of destinations serve the caches of a CPU."""
    if ptr.device.type == "cuda":
        return 1
    return grouping.source_blocks(num_src, ptr.size(0) - 1, num_ids)


class _Grouped:
    """What a compiled graph is given anew in each call, of which it may overwrite its copies."""

    def __init__(self, by_dst: tuple[Tensor, ...]) -> None:
        self.by_dst = by_dst
        self.by_src: tuple[Tensor, ...] | None = None


def _grouped(arguments) -> _Grouped:
    with reading_values():
        return _Grouped(group_edges(*arguments))


_grouped_of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _group_by_dst(*arguments):
    edge_index, num_src, num_dst, *_ = arguments
    grouped = cached(edge_index, ("grouped", *arguments[1:]), lambda: _grouped(arguments))
    with reading_values():
        copies = tuple(part.clone() for part in grouped.by_dst)
        num_ids = copies[1].numel()
        mark_sound(Rows(*copies[:-1]), Extent(num_dst, num_src, num_ids, num_src))
        _grouped_of[copies[1]] = (grouped, _identity(*copies[:2]))
    return copies


def _group_by_src(ptr, idx, num_src, num_ids):
    grouped, identity = _grouped_of.get(idx, (None, None))
    if grouped is None or _identity(ptr, idx) != identity:
        _check_transposable(ptr, idx, num_src)
        return group_sources(ptr, idx, num_src, num_ids)
    with reading_values():
        if grouped.by_src is None:
            grouped.by_src = group_sources(*grouped.by_dst[:2], num_src, num_ids)
        copies = tuple(part.clone() for part in grouped.by_src)
        num_rows = copies[0].numel() - 1
        extent = Extent(num_rows, ptr.numel() - 1, idx.numel(), num_src)
        mark_sound(Rows(*copies[:-1]), extent, Ends(ptr, idx))
    return copies


def _identity(*parts: Tensor) -> tuple[tuple[int, int], ...] | None:
    """What tells whether these are the same tensors, as they were."""
    if any(part.is_inference() for part in parts):
        return None
    return tuple((id(part), part._version) for part in parts)


def _clear_from(position: int, *parts: Tensor) -> None:
    """What stands beyond the edges must not differ from call to call."""
    for part in parts:
        if position < part.numel():
            part[position:] = 0


def _facts(rows: Rows, identity: Tensor) -> Tensor:
    counts = [rows.ptr[-1], identity, *((table[:, 0] >= 0).sum() for table in rows[3:])]
    return torch.stack([count.long() for count in counts])


def _fake(like: Tensor, dtype: torch.dtype, num_rows, num_positions) -> tuple[Tensor, ...]:
    num_cuts, num_pieces = grouping.table_bounds(num_positions)
    shapes = (num_rows + 1,), (num_positions,), (num_positions,), (num_pieces, 3), (num_cuts, 3)
    return *(like.new_empty(shape, dtype=dtype) for shape in shapes), like.new_empty(
        4, dtype=torch.int64
    )


def _group_by_dst_fake(edge_index, num_src, num_dst, add_self_loops, sources_first, wide):
    num_ids = edge_index.size(1)
    if add_self_loops:
        num_ids = num_ids + grouping.smaller(num_src, num_dst)
    return _fake(edge_index, torch.int64 if wide else torch.int32, num_dst, num_ids)


def _group_by_src_fake(ptr, idx, num_src, num_ids):
    blocks = _source_blocks(ptr, num_src, num_ids)
    return _fake(ptr, ptr.dtype, blocks * num_src, idx.size(0))


def check_edge_index(edge_index: Tensor) -> None:
    """Raises TypeError or ValueError unless ``edge_index`` is a ``[2, E]`` integer tensor."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"Expected 'edge_index' to be a Tensor, got {type(edge_index).__name__}")
    if edge_index.layout != torch.strided:
        raise TypeError(
            f"Expected 'edge_index' to be a dense Tensor, got one in {edge_index.layout}"
        )
    if edge_index.dtype not in INDEX_DTYPES:
        raise TypeError(
            f"Expected 'edge_index' to hold integers (torch.int64), got {edge_index.dtype}"
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"Expected 'edge_index' to have the shape [2, num_edges], got {list(edge_index.shape)}"
        )


def check_flow(flow: str) -> None:
    """Raises ValueError unless ``flow`` is one of PyG's."""
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(
            f"Expected 'flow' to be 'source_to_target' or 'target_to_source', got {flow!r}"
        )


def check_counts(num_src: int, num_dst: int) -> None:
    """Raises TypeError or ValueError unless both numbers of nodes are integers from 0 on."""
    for name, count in (("num_src", num_src), ("num_dst", num_dst)):
        if not isinstance(count, (int, torch.SymInt)) or isinstance(count, bool):
            raise TypeError(f"Expected '{name}' to be an integer, got {count!r}")
        if count < 0:
            raise ValueError(f"Expected '{name}' to be 0 or more, got {count}")


def _check_transposable(ptr: Tensor, idx: Tensor, num_src: int) -> None:
    """Raises unless ``ptr`` and ``idx`` are those of edges by destination."""
    edge = ptr.new_empty(0)
    rows = Rows(ptr, idx, edge, *grouping.cut_rows(ptr, idx.numel()))
    extent = Extent(ptr.numel() - 1, num_src, idx.numel(), num_src)
    check_counts(num_src, 0)
    require_sound("by_dst", rows, extent)


for _key in ("CPU", "CUDA"):
    _lib.impl("group_by_dst", _group_by_dst, _key)
    _lib.impl("group_by_src", _group_by_src, _key)
torch.library.register_fake("gatv2_pyg::group_by_dst", _group_by_dst_fake, lib=_lib)
torch.library.register_fake("gatv2_pyg::group_by_src", _group_by_src_fake, lib=_lib)

group_by_dst = torch.ops.gatv2_pyg.group_by_dst.default
group_by_src = torch.ops.gatv2_pyg.group_by_src.default
