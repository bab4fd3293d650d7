"""The fused CPU kernels: the launcher of the C++ beside this file.

The library has a plain C interface and is called through ctypes, which releases the GIL.  Each
call packs its arguments into one record of 64-bit fields, in the order of ``Arguments`` in abi.h.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import (
    Edges,
    InputGrads,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
    Rows,
)
from gatv2_pyg.kernels.cpu.library import check_status, library, num_threads, unavailable
from gatv2_pyg.kernels.cpu.structure import content_hash, group_by_dst, transpose

__all__ = ["backward", "content_hash", "forward", "group_by_dst", "transpose", "unavailable"]

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_COMMON = struct.Struct("10q 5q 2d q")
_REST = struct.Struct("3q 7q 7q 7q")
_NO_EDGES = (0,) * 7


def _common(inputs: Inputs, edges: Edges, options: Options, src_blocks: int) -> bytes:
    num_src, heads, channels = inputs.x_src.shape
    return _COMMON.pack(
        _DTYPES[inputs.x_src.dtype],
        edges.by_dst.ptr.dtype == torch.int64,
        num_threads(),
        num_src,
        inputs.x_dst.size(0),
        heads,
        channels,
        0 if inputs.edge_attr is None else inputs.edge_attr.size(1),
        edges.num_ids,
        src_blocks,
        *(_pointer(value) for value in inputs),
        options.negative_slope,
        options.dropout,
        int(options.seed),
    )


def _rows(rows: Rows) -> tuple[int, ...]:
    return (
        rows.ptr.data_ptr(),
        rows.idx.data_ptr(),
        rows.edge.data_ptr() if rows.edge.numel() else 0,
        rows.pieces.data_ptr(),
        rows.pieces.size(0),
        rows.cuts.data_ptr(),
        rows.cuts.size(0),
    )


def _pointer(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3).

    All tensors are contiguous and on the CPU; the index tensors are all int32 or all int64.
    """
    lib = library()
    num_dst, heads, channels = inputs.x_dst.shape
    floats = {"dtype": inputs.att.dtype, "device": "cpu"}
    out = torch.empty((num_dst, heads, channels), **floats)
    lse = torch.empty((num_dst, heads), **floats)
    alpha = torch.empty((edges.num_ids, heads), **floats) if return_attention else None
    args = _common(inputs, edges, options, src_blocks=0) + _REST.pack(
        *(_pointer(value) for value in (out, lse, alpha)),
        *_rows(edges.by_dst),
        *_NO_EDGES,
        *_NO_EDGES,
    )
    check_status(lib.handle.gatv2_forward(args, lib.isa_number))
    return Outputs(out, lse, alpha)


def backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
) -> InputGrads:
    """Equations (4)-(8)."""
    lib = library()
    found = InputGrads(
        *(
            torch.empty_like(value) if needed and value is not None else None
            for value, needed in zip(inputs, needs, strict=True)
        )
    )
    by_src, blocks = _NO_EDGES, 0
    if needs.x_src and edges.by_src is not None:
        by_src = _rows(edges.by_src)
        blocks = (edges.by_src.ptr.numel() - 1) // max(inputs.x_src.size(0), 1)
    args = _common(inputs, edges, options, src_blocks=blocks) + _REST.pack(
        *(_pointer(value) for value in outputs),
        *_rows(edges.by_dst),
        *by_src,
        *(_pointer(value) for value in grads),
        *(_pointer(value) for value in found),
    )
    check_status(lib.handle.gatv2_backward(args, lib.isa_number))
    return found
