"""The fused CPU kernels: the launcher of the C++ beside this file.

The library has a plain C interface and is called through ctypes, which releases the GIL.  All
tensors are contiguous and on the CPU, and the rows are sound (see :func:`check_rows`).  Beside what
the contract says, features without a batch may be ``[N, H * C]``: outputs and gradients are alike.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import NamedTuple

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
from gatv2_pyg.kernels.cpu.library import (
    check_status,
    is_forked,
    library,
    num_threads,
    unavailable,
)
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
    "backward_summed",
    "check_rows",
    "content_hash",
    "forward",
    "forward_biased",
    "group_by_dst",
    "hash_of_bits",
    "hash_of_rows",
    "is_forked",
    "loop_features",
    "loop_gradients",
    "ordered_bias",
    "piece_tables",
    "room_for_rows",
    "transpose",
    "unavailable",
]

_HUGE_PAGE = 2 << 20
_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class RowSums(NamedTuple):
    """(11): sums of gradients over all rows, ``[H * C]`` in the accumulation dtype."""

    out: Tensor | None
    x_src: Tensor | None
    x_dst: Tensor | None


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3).

    Raises:
        MemoryError: there is no room for the scratch memory.
    """
    outputs = _outputs(inputs, edges, return_attention)
    _run("forward", _arguments(inputs, edges, options, outputs))
    return outputs


def forward_biased(
    inputs: Inputs,
    edges: Edges,
    options: Options,
    dst_bias: Tensor | None,
    out_bias: Tensor | None,
    keep: bool,
    ordered_bias: Tensor | None = None,
) -> tuple[Tensor, Outputs]:
    """Equations (1)-(3), and (10).

    Args:
        dst_bias, out_bias: ``[H * C]``, contiguous, in the accumulation dtype; the first is added
            to each row of ``x_dst``.
        keep: whether backward follows, which needs the outputs.
        ordered_bias: room for ``attn_bias`` as the passes read it: see :func:`ordered_bias`.

    Returns:
        ``out`` with ``out_bias``, and the outputs, without which it is one of them.

    Raises:
        MemoryError: there is no room for the scratch memory.
    """
    outputs = _outputs(inputs, edges, False)
    args = _arguments(inputs, edges, options, outputs)
    biased = outputs.out
    if out_bias is not None:
        if keep:
            biased = torch.empty_like(biased)
        else:
            args.out = None
        args.biased_out, args.out_bias = biased.data_ptr(), out_bias.data_ptr()
    if dst_bias is not None:
        args.dst_bias = dst_bias.data_ptr()
    if ordered_bias is not None:
        args.ordered_bias = ordered_bias.data_ptr()
    _run("forward", args)
    return biased, outputs


def room_for_rows(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uninitialised memory for rows that are to be gathered, on huge pages where it is large.

    Each row that is read at random takes an address translation, of which a processor keeps few.
    """
    room = like.new_empty(shape)
    if room.nbytes >= _HUGE_PAGE:
        library().handle.gatv2_prefer_huge_pages(room.data_ptr(), room.nbytes)
    return room


def ordered_bias(inputs: Inputs, edges: Edges) -> Tensor | None:
    """Room for biases in the order in which edges are grouped; None where those are not kept.

    Without it each direction brings them into order for itself.
    """
    if inputs.attn_bias is None or inputs.attn_bias.size(1) != 1 or inputs.x_src.dim() == 4:
        return None
    return inputs.att.new_empty(edges.by_dst.idx.numel() + 16)  # whole vectors are read


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
    args, found = _backward_arguments(grads, inputs, outputs, edges, options, needs)
    _run("backward", args)
    return found


def backward_summed(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
    dst_bias: Tensor | None,
    wanted: tuple[bool, bool, bool],
    ordered_bias: Tensor | None = None,
    pair: Tensor | None = None,
) -> tuple[InputGrads, RowSums]:
    """Equations (4)-(9), and (11).

    Args:
        dst_bias, ordered_bias: those of :func:`forward_biased`.
        wanted: which of the :class:`RowSums`; for those of ``x_src`` and ``x_dst`` ``needs`` has
            the gradient too.
        pair: room for the gradients of ``x_src`` and of ``x_dst``, ``[2, ...]``.

    Raises:
        MemoryError: there is no room for the scratch memory.
    """
    args, found = _backward_arguments(grads, inputs, outputs, edges, options, needs, pair)
    sums = RowSums(*(inputs.att.new_empty(inputs.att.numel()) if want else None for want in wanted))
    args.dst_bias, args.ordered_bias = _address(dst_bias), _address(ordered_bias)
    args.sum_grad_out, args.sum_d_x_src, args.sum_d_x_dst = map(_address, sums)
    _run("backward", args)
    return found, sums


def _run(direction: str, args: ctypes.Structure) -> None:
    lib = library()
    check_status(getattr(lib.handle, f"gatv2_{direction}")(byref(args), lib.isa_number))


def _outputs(inputs: Inputs, edges: Edges, return_attention: bool) -> Outputs:
    """Room for them."""
    x_dst, att = inputs.x_dst, inputs.att
    out = torch.empty_like(x_dst, dtype=att.dtype)
    if x_dst.dim() == 2:
        lse = att.new_empty(x_dst.size(0), att.size(-2))
    else:
        lse = att.new_empty(x_dst.shape[:-1])
    alpha = None
    if return_attention:
        alpha = att.new_empty((*x_dst.shape[:-3], edges.num_ids, att.size(0)))
    return Outputs(out, lse, alpha)


def _backward_arguments(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
    pair: Tensor | None = None,
) -> tuple[ctypes.Structure, InputGrads]:
    """Those of the library, and room for what it gives."""
    if pair is None:
        found = InputGrads(*map(_grad_of, inputs, needs))
    else:
        found = InputGrads(*pair.unbind(), *map(_grad_of, inputs[2:], needs[2:]))
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
    return args, found


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
