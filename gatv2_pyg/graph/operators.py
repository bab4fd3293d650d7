"""Grouping as torch operators: no size of a result depends on data, so that graphs can be traced.

On CPU the compiled kernels sort in O(E); without them, and on CUDA, torch's stable sort does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gatv2_pyg.graph import grouping
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.validity import Ends, Extent, mark_sound

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


def _group_by_dst_cpu(edge_index, num_src, num_dst, add_self_loops, sources_first, wide):
    src, dst = _ends(edge_index, num_src, num_dst, sources_first)
    num_ids = src.numel() + (min(num_src, num_dst) if add_self_loops else 0)
    kernels = grouping.cpu_kernels()
    if kernels is None:
        grouping.check_range("source", src, num_src)
        grouping.check_range("destination", dst, num_dst)
        return _sorted_by_dst(src, dst, num_src, num_dst, num_ids, add_self_loops, wide)
    dtype = torch.int64 if wide else torch.int32
    ptr, idx, edge, seen = kernels.group_by_dst(src, dst, num_src, num_dst, add_self_loops, dtype)
    if seen.bad is not None:
        end, position, value = seen.bad
        name, size = ("source", num_src) if end == "src" else ("destination", num_dst)
        raise grouping.out_of_range(name, size, position, value)
    _clear_from(seen.num_edges, idx, edge)
    rows = Rows(ptr, idx, edge, *grouping.cut_rows(ptr, num_ids, seen.max_degree))
    identity = torch.tensor(seen.identity, device="cpu")
    return _by_dst_result(rows, num_src, num_dst, num_ids, identity)


def _group_by_dst_cuda(edge_index, num_src, num_dst, add_self_loops, sources_first, wide):
    src, dst = _ends(edge_index, num_src, num_dst, sources_first)
    for index, size in ((src, num_src), (dst, num_dst)):
        torch._assert_async(((index >= 0) & (index < size)).all(), "'edge_index' points to no node")
    num_ids = src.numel() + (min(num_src, num_dst) if add_self_loops else 0)
    return _sorted_by_dst(src, dst, num_src, num_dst, num_ids, add_self_loops, wide)


def _ends(edge_index, num_src, num_dst, sources_first) -> tuple[Tensor, Tensor]:
    check_edge_index(edge_index)
    check_counts(num_src, num_dst)
    row, col = edge_index.unbind(0)
    return (row, col) if sources_first else (col, row)


def _sorted_by_dst(src, dst, num_src, num_dst, num_ids, add_self_loops, wide):
    by_dst = grouping.group_by_dst(src, dst, num_src, num_dst, add_self_loops)
    ptr, idx, edge = (part.to(torch.int64 if wide else torch.int32) for part in by_dst)
    identity = (edge == torch.arange(num_ids, device=edge.device)).all()
    rows = Rows(ptr, idx, edge, *grouping.cut_rows(ptr, num_ids))
    return _by_dst_result(rows, num_src, num_dst, num_ids, identity)


def _group_by_src(ptr, idx, num_src, num_ids):
    num_dst = ptr.numel() - 1
    blocks = grouping.source_blocks(num_src, num_dst, num_ids)
    kernels = grouping.cpu_kernels() if ptr.device.type == "cpu" else None
    if kernels is None:
        by_src = grouping.transpose(ptr, idx, num_src, blocks)
        tables = grouping.cut_rows(by_src[0], idx.numel())
    else:
        *by_src, max_degree = kernels.transpose(ptr, idx, num_src, blocks)
        _clear_from(int(ptr[-1]), *by_src[1:])
        tables = grouping.cut_rows(by_src[0], idx.numel(), max_degree)
    rows = Rows(*by_src, *tables)
    mark_sound(rows, Extent(blocks * num_src, num_dst, idx.numel(), num_src), Ends(ptr, idx))
    return *rows, _facts(rows, torch.tensor(False, device=ptr.device))


def _by_dst_result(rows: Rows, num_src: int, num_dst: int, num_ids: int, identity: Tensor):
    mark_sound(rows, Extent(num_dst, num_src, num_ids, num_src))
    return *rows, _facts(rows, identity)


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
        num_ids = num_ids + torch.sym_min(num_src, num_dst)
    return _fake(edge_index, torch.int64 if wide else torch.int32, num_dst, num_ids)


def _group_by_src_fake(ptr, idx, num_src, num_ids):
    blocks = grouping.source_blocks(num_src, ptr.size(0) - 1, num_ids)
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


def check_counts(num_src: int, num_dst: int) -> None:
    """Raises ValueError unless both numbers of nodes are 0 or more."""
    for name, count in (("num_src", num_src), ("num_dst", num_dst)):
        if count < 0:
            raise ValueError(f"Expected '{name}' to be 0 or more, got {count}")


_lib.impl("group_by_dst", _group_by_dst_cpu, "CPU")
_lib.impl("group_by_dst", _group_by_dst_cuda, "CUDA")
_lib.impl("group_by_src", _group_by_src, "CPU")
_lib.impl("group_by_src", _group_by_src, "CUDA")
torch.library.register_fake("gatv2_pyg::group_by_dst", _group_by_dst_fake, lib=_lib)
torch.library.register_fake("gatv2_pyg::group_by_src", _group_by_src_fake, lib=_lib)

group_by_dst = torch.ops.gatv2_pyg.group_by_dst.default
group_by_src = torch.ops.gatv2_pyg.group_by_src.default
