"""Grouping as operators, for traced graphs: no size of a result depends on data.

``torch.compile`` and ``torch.export`` see these instead of :class:`~gatv2_pyg.Graph`'s own work,
whose tables are as long as the graph needs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatv2_pyg.graph import grouping

_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")
_lib.define(
    "group_by_dst(Tensor src, Tensor dst, SymInt num_src, SymInt num_dst, bool add_self_loops) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_lib.define(
    "group_by_src(Tensor ptr, Tensor idx, SymInt num_src) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _group_by_dst(src, dst, num_src, num_dst, add_self_loops) -> tuple[Tensor, ...]:
    if src.device.type == "cpu":
        grouping.check_range("source", src, num_src)
        grouping.check_range("destination", dst, num_dst)
    else:
        for index, size in ((src, num_src), (dst, num_dst)):
            torch._assert_async(
                ((index >= 0) & (index < size)).all(), "'edge_index' points to no node"
            )
    rows = grouping.group_by_dst(src, dst, num_src, num_dst, add_self_loops)
    return (*rows, *grouping.cut_rows_bounded(rows[0], rows[1].numel()))


def _group_by_src(ptr, idx, num_src) -> tuple[Tensor, ...]:
    rows = grouping.transpose(ptr, idx, num_src)
    return (*rows, *grouping.cut_rows_bounded(rows[0], idx.numel()))


def _fake(index: Tensor, dtype: torch.dtype, num_rows, num_positions) -> tuple[Tensor, ...]:
    num_cuts, num_pieces = grouping.table_bounds(num_positions)
    shapes = (num_rows + 1,), (num_positions,), (num_positions,), (num_pieces, 3), (num_cuts, 3)
    return tuple(index.new_empty(shape, dtype=dtype) for shape in shapes)


def _group_by_dst_fake(src, dst, num_src, num_dst, add_self_loops) -> tuple[Tensor, ...]:
    num_ids = src.numel() + (min(num_src, num_dst) if add_self_loops else 0)
    return _fake(src, grouping.index_dtype(num_src, num_dst, num_ids), num_dst, num_ids)


def _group_by_src_fake(ptr, idx, num_src) -> tuple[Tensor, ...]:
    return _fake(ptr, ptr.dtype, num_src, idx.numel())


_lib.impl("group_by_dst", _group_by_dst, "CompositeExplicitAutograd")
_lib.impl("group_by_src", _group_by_src, "CompositeExplicitAutograd")
torch.library.register_fake("gatv2_pyg::group_by_dst", _group_by_dst_fake, lib=_lib)
torch.library.register_fake("gatv2_pyg::group_by_src", _group_by_src_fake, lib=_lib)

group_by_dst = torch.ops.gatv2_pyg.group_by_dst.default
group_by_src = torch.ops.gatv2_pyg.group_by_src.default
