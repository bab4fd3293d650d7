"""The fused CPU kernels: the launcher of the C++ beside this file.

The library has a plain C interface and is called through ctypes, which releases the GIL.  All
tensors are contiguous and on the CPU, and the rows are sound (see :func:`check_rows`).  Beside what
the contract says, features without a batch may be ``[N, H * C]``: outputs and gradients are alike.
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
from gatv2_pyg.kernels.cpu.loops import loop_features, loop_gradients
from gatv2_pyg.kernels.cpu.structure import (
    check_rows,
    content_hash,
    group_by_dst,
    grouped_edges,
    hash_of_bits,
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
    "hash_of_bits",
    "hash_of_rows",
    "loop_features",
    "loop_gradients",
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
    out = torch.empty_like(x_dst, dtype=att.dtype)
    rows = x_dst.shape[:-1]
    lse = att.new_empty((*rows, att.size(-2)) if len(rows) == 1 else rows)
    alpha = None
    if return_attention:
        alpha = att.new_empty((*x_dst.shape[:-3], edges.num_ids, att.size(0)))
    outputs = Outputs(out, lse, alpha)
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
        args.src_blocks = (edges.by_src.ptr.numel() - 1) // max(args.num_src, 1)
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
    return torch.empty_like(value)


def _address(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


def _arguments(
    inputs: Inputs, edges: Edges, options: Options, outputs: Outputs
) -> ctypes.Structure:
    """What both directions take; fields that are not set are 0."""
    x_src, x_dst, att, edge_attr, edge_weight, attn_bias = inputs
    heads, channels = att.shape[-2:]
    node = 0 if x_src.dim() == 2 else -3
    by_dst = edges.by_dst
    args = abi.Arguments(
        dtype=_DTYPES[x_src.dtype],
        wide_index=by_dst.ptr.dtype == torch.int64,
        threads=num_threads(),
        num_src=x_src.size(node),
        num_dst=x_dst.size(node),
        heads=heads,
        channels=channels,
        num_ids=edges.num_ids,
        batch=x_src.size(0) if x_src.dim() == 4 else 1,
        x_src=x_src.data_ptr(),
        x_dst=x_dst.data_ptr(),
        att=att.data_ptr(),
        negative_slope=options.negative_slope,
        out=outputs.out.data_ptr(),
        lse=outputs.lse.data_ptr(),
        by_dst=grouped_edges(*by_dst),
    )
    if options.dropout:
        args.dropout, args.seed = options.dropout, int(options.seed)
    if outputs.alpha is not None:
        args.alpha = outputs.alpha.data_ptr()
    if edge_attr is not None and edge_weight is not None:
        args.edge_dim = edge_attr.size(1)
        args.edge_attr, args.edge_weight = edge_attr.data_ptr(), edge_weight.data_ptr()
    if attn_bias is not None:
        args.bias_rows, args.bias_heads = attn_bias.shape
        args.attn_bias = attn_bias.data_ptr()
    return args
