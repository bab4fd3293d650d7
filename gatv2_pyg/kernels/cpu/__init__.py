"""The fused CPU kernels: the launcher of the C++ beside this file.

The library has a plain C interface and is called through ctypes, which releases the GIL.  Each
call packs its arguments into one record of 64-bit fields, in the order of ``Arguments`` in abi.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from gatv2_pyg.kernels.cpu.library import check_status, library, num_threads, unavailable
from gatv2_pyg.kernels.cpu.structure import group_by_dst, transpose

__all__ = ["backward", "forward", "group_by_dst", "source_blocks", "transpose", "unavailable"]

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_COMMON = struct.Struct("10q 5q 2d q")
_REST = struct.Struct("3q 7q 7q 7q")
_NO_EDGES = (0,) * 7
_BLOCK_BYTES = 32 << 20
_LEAST_DEGREE = 6


def source_blocks(x_src: Tensor, num_dst: int, num_edges: int) -> int:
    """How many ranges of destinations suit :func:`backward`.

    For each range it goes over the edges by destination, which leaves a record of each, and then by
    source, which gathers the records and the rows of ``grad_out``.  What stays in the caches comes
    three times as fast as what does not, but each range adds to the sums of all sources: a source
    must have several edges in it.
    """
    num_src, heads, channels = x_src.shape
    row_bytes = heads * channels * x_src.element_size()
    # Two coefficients a head, and a bit a channel.
    record_bytes = 2 * heads * max(4, x_src.element_size()) + heads * channels // 8
    blocks = -(-max(row_bytes * num_dst, record_bytes * num_edges) // _BLOCK_BYTES)
    return max(1, min(blocks, num_edges // (_LEAST_DEGREE * max(num_src, 1))))


def _common(
    x_src: Tensor,
    x_dst: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    num_ids: int,
    src_blocks: int,
    wide: bool,
    slope: float,
    dropout: float,
    seed: Tensor | int,
) -> bytes:
    num_src, heads, channels = x_src.shape
    edge_dim = 0 if edge_attr is None else edge_attr.size(1)
    return _COMMON.pack(
        _DTYPES[x_src.dtype],
        wide,
        num_threads(),
        num_src,
        x_dst.size(0),
        heads,
        channels,
        edge_dim,
        num_ids,
        src_blocks,
        x_src.data_ptr(),
        x_dst.data_ptr(),
        att.data_ptr(),
        _pointer(edge_attr),
        _pointer(edge_weight),
        slope,
        dropout,
        int(seed),
    )


def _rows(rows: Sequence[Tensor]) -> tuple[int, ...]:
    ptr, idx, edge, pieces, cuts = rows
    return (
        ptr.data_ptr(),
        idx.data_ptr(),
        edge.data_ptr() if edge.numel() else 0,
        pieces.data_ptr(),
        pieces.size(0),
        cuts.data_ptr(),
        cuts.size(0),
    )


def _pointer(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def forward(
    x_src: Tensor,
    x_dst: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    by_dst: Sequence[Tensor],
    num_ids: int,
    negative_slope: float,
    dropout: float,
    seed: Tensor | int,
    return_attention: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Equations (1)-(3); the contract is that of :func:`gatv2_pyg.ops.reference.forward`.

    All tensors are contiguous and on the CPU; the index tensors of ``by_dst`` are all int32 or all
    int64.
    """
    lib = library()
    num_dst, heads, channels = x_dst.shape
    out = torch.empty((num_dst, heads, channels), dtype=att.dtype)
    lse = torch.empty((num_dst, heads), dtype=att.dtype)
    alpha = torch.empty((num_ids, heads), dtype=att.dtype) if return_attention else None
    wide = by_dst[0].dtype == torch.int64
    args = _common(
        x_src, x_dst, att, edge_attr, edge_weight, num_ids, 0, wide, negative_slope, dropout, seed
    ) + _REST.pack(
        out.data_ptr(), lse.data_ptr(), _pointer(alpha), *_rows(by_dst), *_NO_EDGES, *_NO_EDGES
    )
    check_status(lib.handle.gatv2_forward(args, lib.isa_number))
    return out, lse, alpha


def backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    x_src: Tensor,
    x_dst: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    out: Tensor,
    lse: Tensor,
    alpha: Tensor | None,
    by_dst: Sequence[Tensor],
    by_src: Sequence[Tensor],
    negative_slope: float,
    dropout: float,
    seed: Tensor | int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Equations (4)-(8); the contract is that of :func:`gatv2_pyg.ops.reference.backward`.

    ``by_src`` may be cut into ranges of destinations, see :func:`transpose`.
    """
    lib = library()
    num_ids = _num_ids(edge_attr, grad_alpha, by_dst)
    d_x_src = torch.empty_like(x_src) if needs[0] else None
    d_x_dst = torch.empty_like(x_dst) if needs[1] else None
    d_att = torch.empty_like(att) if needs[2] else None
    d_edge_attr = d_edge_weight = None
    if edge_attr is not None and edge_weight is not None:
        d_edge_attr = torch.empty_like(edge_attr) if needs[3] else None
        d_edge_weight = torch.empty_like(edge_weight) if needs[4] else None
    wide = by_dst[0].dtype == torch.int64
    blocks = (by_src[0].numel() - 1) // max(x_src.size(0), 1) if needs[0] else 0
    inputs = (x_src, x_dst, att, edge_attr, edge_weight)
    args = _common(*inputs, num_ids, blocks, wide, negative_slope, dropout, seed) + _REST.pack(
        out.data_ptr(),
        lse.data_ptr(),
        _pointer(alpha),
        *_rows(by_dst),
        *(_rows(by_src) if needs[0] else _NO_EDGES),
        _pointer(grad_out),
        _pointer(grad_alpha),
        _pointer(d_x_src),
        _pointer(d_x_dst),
        _pointer(d_att),
        _pointer(d_edge_attr),
        _pointer(d_edge_weight),
    )
    check_status(lib.handle.gatv2_backward(args, lib.isa_number))
    return d_x_src, d_x_dst, d_att, d_edge_attr, d_edge_weight


def _num_ids(edge_attr: Tensor | None, grad_alpha: Tensor | None, by_dst: Sequence[Tensor]) -> int:
    for value in (edge_attr, grad_alpha):
        if value is not None:
            return value.size(0)
    return by_dst[1].numel()
