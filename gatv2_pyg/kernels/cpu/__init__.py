"""The fused CPU kernels: the launcher of the C++ beside this file.

The library has a plain C interface and is called through ctypes, which releases the GIL.  All
tensors are contiguous and on the CPU, and the rows are sound (see :func:`check_rows`).
"""

from __future__ import annotations

import ctypes
from ctypes import byref

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
)
from gatv2_pyg.kernels.cpu import abi
from gatv2_pyg.kernels.cpu.library import check_status, library, num_threads, unavailable
from gatv2_pyg.kernels.cpu.structure import (
    check_rows,
    content_hash,
    group_by_dst,
    grouped_edges,
    hash_of_rows,
    piece_tables,
    transpose,
)

__all__ = [
    "backward",
    "check_rows",
    "content_hash",
    "forward",
    "group_by_dst",
    "hash_of_rows",
    "piece_tables",
    "transpose",
    "unavailable",
]

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3).

    Raises:
        MemoryError: there is no room for the scratch memory.
    """
    x_dst, att = inputs.x_dst, inputs.att
    outputs = Outputs(
        out=att.new_empty(x_dst.shape),
        lse=att.new_empty(x_dst.shape[:-1]),
        alpha=att.new_empty((*x_dst.shape[:-3], edges.num_ids, att.size(0)))
        if return_attention
        else None,
    )
    args = _arguments(inputs, edges, options, outputs)
    lib = library()
    check_status(lib.handle.gatv2_forward(byref(args), lib.isa_number))
    return outputs


def backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
) -> InputGrads:
    """Equations (4)-(9).

    Raises:
        MemoryError: there is no room for the scratch memory.
    """
    found = InputGrads(*map(_grad_of, inputs, needs))
    args = _arguments(inputs, edges, options, outputs)
    if found.x_src is not None:
        if edges.by_src is None:
            raise ValueError("Expected 'edges' by source for the gradient of 'x_src', got None")
        args.by_src = grouped_edges(*edges.by_src)
        args.src_blocks = (edges.by_src.ptr.numel() - 1) // max(inputs.x_src.size(-3), 1)
    args.grad_out, args.grad_alpha = _address(grads.out), _address(grads.alpha)
    args.d_x_src, args.d_x_dst = _address(found.x_src), _address(found.x_dst)
    args.d_att = _address(found.att)
    args.d_edge_attr = _address(found.edge_attr)
    args.d_edge_weight = _address(found.edge_weight)
    args.d_attn_bias = _address(found.attn_bias)
    lib = library()
    check_status(lib.handle.gatv2_backward(byref(args), lib.isa_number))
    return found


def _grad_of(value: Tensor | None, needed: bool) -> Tensor | None:
    if value is None or not needed:
        return None
    return value.new_empty(value.shape)


def _address(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


def _arguments(
    inputs: Inputs, edges: Edges, options: Options, outputs: Outputs
) -> ctypes.Structure:
    """What both directions take."""
    *lead, num_src, heads, channels = inputs.x_src.shape
    edge_dim = bias_rows = bias_heads = 0
    if inputs.edge_attr is not None and inputs.edge_weight is not None:
        edge_dim = inputs.edge_attr.size(1)
    if inputs.attn_bias is not None:
        bias_rows, bias_heads = inputs.attn_bias.shape
    return abi.Arguments(
        dtype=_DTYPES[inputs.x_src.dtype],
        wide_index=edges.by_dst.ptr.dtype == torch.int64,
        threads=num_threads(),
        num_src=num_src,
        num_dst=inputs.x_dst.size(-3),
        heads=heads,
        channels=channels,
        edge_dim=edge_dim,
        num_ids=edges.num_ids,
        batch=lead[0] if lead else 1,
        bias_rows=bias_rows,
        bias_heads=bias_heads,
        x_src=inputs.x_src.data_ptr(),
        x_dst=inputs.x_dst.data_ptr(),
        att=inputs.att.data_ptr(),
        edge_attr=_address(inputs.edge_attr),
        edge_weight=_address(inputs.edge_weight),
        attn_bias=_address(inputs.attn_bias),
        negative_slope=options.negative_slope,
        dropout=options.dropout,
        seed=int(options.seed),
        out=outputs.out.data_ptr(),
        lse=outputs.lse.data_ptr(),
        alpha=_address(outputs.alpha),
        by_dst=grouped_edges(*edges.by_dst),
    )
