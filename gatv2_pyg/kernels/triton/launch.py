"""Allocates, chooses grids and launches.  Nothing here waits for the device.

The arguments are those of :mod:`gatv2_pyg.kernels.contract`; all tensors are contiguous.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

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
from gatv2_pyg.kernels.triton.backward_dst import backward_dst_kernel, row_dot_kernel
from gatv2_pyg.kernels.triton.backward_src import backward_src_kernel
from gatv2_pyg.kernels.triton.forward_dst import attention_kernel, forward_dst_kernel
from gatv2_pyg.kernels.triton.merge import merge_kernel
from gatv2_pyg.kernels.triton.tiles import (
    DEVICE,
    INTERPRETER,
    Tile,
    partials_of,
    power_of_two,
    tile_of,
)


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, and so on CPU tensors."""
    return isinstance(forward_dst_kernel, InterpretedFunction) and isinstance(
        tl.philox, InterpretedFunction
    )


budget = INTERPRETER if interpreted() else DEVICE


def _written_dtype(x: Tensor) -> torch.dtype:
    """The dtype kernels write: that of ``x``, but the interpreter truncates to bfloat16."""
    return torch.float32 if interpreted() and x.dtype == torch.bfloat16 else x.dtype


def _launch(kernel, grid: tuple[int, ...], device: torch.device, **args: Any) -> None:
    """Launches a kernel on a device; an empty grid is no launch."""
    if 0 in grid:
        return
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        kernel[grid](**args, enable_fp_fusion=True)


def _call_args(inputs: Inputs, edges: Edges, options: Options) -> dict[str, Any]:
    """What the kernels know of a call, by the names of their parameters."""
    heads, channels = inputs.att.shape
    eid, attn_bias = edges.by_dst.edge, inputs.attn_bias
    edge_attr, edge_weight, edge_dim = inputs.edge_attr, inputs.edge_weight, 0
    if edge_attr is not None and edge_weight is not None:
        edge_dim = edge_attr.size(1)
        # Transposed, so that a row holds neighbouring features.
        edge_weight = edge_weight.t().contiguous()
    dropout, seed = options.dropout, options.seed
    if not (isinstance(seed, Tensor) and seed.device == inputs.x_src.device):
        seed = int(seed)
    return {
        "x_src": inputs.x_src,
        "x_dst": inputs.x_dst,
        "att": inputs.att,
        "edge_attr": edge_attr if edge_dim else None,
        "edge_weight": edge_weight if edge_dim else None,
        "attn_bias": attn_bias,
        "bias_rows": 0 if attn_bias is None else attn_bias.size(0),
        "num_src": inputs.x_src.size(-3),
        "num_dst": inputs.x_dst.size(-3),
        "num_ids": edges.num_ids,
        "eid": eid if eid.numel() else None,
        "negative_slope": options.negative_slope,
        "seed": seed,
        "threshold": min(int(dropout * 2**32), 2**32 - 1),
        "scale": 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0,
        "H": heads,
        "C": channels,
        "D": edge_dim,
        "BIAS_H": 0 if attn_bias is None else attn_bias.size(1),
        "DROPOUT": dropout > 0.0,
    }


class _Pass(NamedTuple):
    """A pass over grouped edges: kernels that share their groups of rows and their arguments."""

    rows: Rows
    tile: Tile
    args: dict[str, Any]
    """The arguments of the call and of the rows, by the names of the kernels' parameters."""
    batch: int = 1
    """Elements that the kernels run for."""

    @classmethod
    def over(cls, rows: Rows, call: dict[str, Any]) -> _Pass:
        num_rows, num_pieces = rows.ptr.numel() - 1, rows.pieces.size(0)
        tile = tile_of(call["H"], call["C"], num_rows, rows.idx.numel(), budget)
        args = {
            **call,
            "ptr": rows.ptr,
            "idx": rows.idx,
            "edge": rows.edge,
            "pieces": rows.pieces,
            "num_rows": num_rows,
            "num_pieces": num_pieces,
            "BR": tile.rows,
            "BE": tile.edges,
            "BH": tile.heads,
            "BC": tile.channels,
        }
        lead = call["x_src"].shape[:-3]
        return cls(rows, tile, args, lead[0] if lead else 1)

    @property
    def device(self) -> torch.device:
        return self.rows.ptr.device

    @property
    def num_groups(self) -> int:
        """Groups of pieces, then groups of rows."""
        num_rows, num_pieces = self.args["num_rows"], self.args["num_pieces"]
        return triton.cdiv(num_pieces, self.tile.rows) + triton.cdiv(num_rows, self.tile.rows)

    def launch(
        self, kernel, programs: int | None = None, num_warps: int | None = None, **own: Any
    ) -> None:
        """Launches a kernel with what it takes of the shared arguments, and its own.

        A program takes one group of rows unless ``programs`` of each element are given.
        """
        programs = self.num_groups if programs is None else programs
        args = {**self.args, "num_programs": programs, **own}
        _launch(
            kernel,
            (programs * self.batch, self.tile.head_groups),
            self.device,
            **{name: args[name] for name in kernel.arg_names},
            num_warps=num_warps or self.tile.num_warps,
        )

    def piece_buffer(self, *shape: int) -> Tensor | None:
        """A float32 row per piece and element, or None if there are no pieces."""
        num_pieces = self.args["num_pieces"]
        if num_pieces == 0:
            return None
        sizes = self.batch, num_pieces, *shape
        return torch.empty(sizes, dtype=torch.float32, device=self.device)

    def merge(
        self,
        pieces: Tensor | None,
        out: Tensor,
        piece_lse: Tensor | None = None,
        lse: Tensor | None = None,
    ) -> None:
        """Merges what pieces left into the rows of ``out [*, rows, H, C]`` that were cut."""
        if pieces is None:
            return
        num_rows, heads, channels = out.shape[-3:]
        num_cuts = self.rows.cuts.size(0)
        block = min(32, power_of_two(channels))
        _launch(
            merge_kernel,
            (num_cuts * self.batch, heads, triton.cdiv(channels, block)),
            self.device,
            cuts=self.rows.cuts,
            pieces=pieces,
            piece_lse=piece_lse,
            out=out,
            lse=lse,
            num_cuts=num_cuts,
            num_pieces=pieces.numel() // max(self.batch * heads * channels, 1),
            num_rows=num_rows,
            H=heads,
            C=channels,
            BP=128,
            BC=block,
            num_warps=4,
        )


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3)."""
    att, x_dst = inputs.att, inputs.x_dst
    heads, channels = att.shape
    by_dst = _Pass.over(edges.by_dst, _call_args(inputs, edges, options))
    out = torch.empty_like(x_dst, dtype=torch.float32)
    lse = att.new_empty(x_dst.shape[:-1])
    # Ids that stand for no edge keep the zero.
    shape = *x_dst.shape[:-3], edges.num_ids, heads
    alpha = att.new_zeros(shape) if return_attention else None
    piece_out = by_dst.piece_buffer(heads, channels)
    piece_lse = by_dst.piece_buffer(heads)
    by_dst.launch(
        forward_dst_kernel,
        out=out,
        lse=lse,
        piece_out=piece_out,
        piece_lse=piece_lse,
        scores=alpha,
    )
    by_dst.merge(piece_out, out, piece_lse, lse)
    if alpha is not None:
        by_dst.launch(attention_kernel, num_warps=1, alpha=alpha, lse=lse)
    return Outputs(out, lse, alpha)


def backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
) -> InputGrads:
    """Equations (4)-(9)."""
    edge_attr, edge_weight = inputs.edge_attr, inputs.edge_weight
    delta = outputs.out.new_empty(outputs.lse.shape)
    call = {
        **_call_args(inputs, edges, options),
        "grad_out": torch.zeros_like(inputs.x_dst) if grads.out is None else grads.out,
        "grad_alpha": grads.alpha,
        "out": outputs.out,
        "lse": outputs.lse,
        "delta": delta,
    }
    by_dst = _Pass.over(edges.by_dst, call)
    _row_dot(by_dst, outputs, delta)
    found = InputGrads(None, None, None, None, None)
    if any(needs._replace(x_src=False)):
        found = _backward_dst(by_dst, inputs, needs)
    if needs.x_src and edges.by_src is not None:
        d_x_src = _backward_src(_Pass.over(edges.by_src, call), inputs.x_src)
        found = found._replace(x_src=d_x_src)
    if edge_attr is not None and edge_weight is not None and edge_attr.size(1) == 0:
        found = found._replace(
            edge_attr=torch.zeros_like(edge_attr) if needs.edge_attr else None,
            edge_weight=torch.zeros_like(edge_weight) if needs.edge_weight else None,
        )
    return found


def _row_dot(by_dst: _Pass, outputs: Outputs, delta: Tensor) -> None:
    """D of (5), ``[N_dst, H]``, from ``out`` as it was before rounding."""
    piece_delta = by_dst.piece_buffer(delta.size(-1))
    by_dst.launch(row_dot_kernel, alpha=outputs.alpha, piece_delta=piece_delta)
    by_dst.merge(piece_delta, delta.unsqueeze(-1))


def _backward_dst(by_dst: _Pass, inputs: Inputs, needs: Needs) -> InputGrads:
    """(7) and the gradients of the edge features."""
    x_dst, edge_attr, attn_bias = inputs.x_dst, inputs.edge_attr, inputs.attn_bias
    heads, channels = inputs.att.shape
    batch, edge_dim = by_dst.batch, by_dst.args["D"]
    groups = batch * by_dst.tile.head_groups
    need_edge_weight = needs.edge_weight and edge_dim > 0
    programs = partials_of(
        by_dst.num_groups,
        by_dst.rows.idx.numel(),
        edge_dim * heads * channels if need_edge_weight else 0,
    )
    programs = max(1, programs // max(batch, 1))
    sums: dict[str, Any] = {"dtype": torch.float32, "device": x_dst.device}

    d_x_dst = torch.empty_like(x_dst, dtype=_written_dtype(x_dst)) if needs.x_dst else None
    piece_d_x_dst = by_dst.piece_buffer(heads, channels) if needs.x_dst else None
    d_att = torch.empty(batch * programs, heads, channels, **sums) if needs.att else None
    d_edge_attr = d_edge_weight = d_attn_bias = None
    if needs.attn_bias and attn_bias is not None:
        count = groups if attn_bias.size(1) == 1 else batch
        d_attn_bias = torch.zeros(count, *attn_bias.shape, **sums)
    if needs.edge_attr and edge_attr is not None and edge_dim:
        # Ids that stand for no edge keep the zero.
        dtype = _written_dtype(edge_attr) if groups == 1 else torch.float32
        d_edge_attr = torch.zeros(groups, *edge_attr.shape, dtype=dtype, device=x_dst.device)
    if need_edge_weight:
        d_edge_weight = torch.zeros(batch * programs, edge_dim, heads * channels, **sums)
    by_dst.launch(
        backward_dst_kernel,
        programs,
        d_x_dst=d_x_dst,
        piece_d_x_dst=piece_d_x_dst,
        d_att=d_att,
        d_edge_attr=d_edge_attr,
        d_edge_weight=d_edge_weight,
        d_attn_bias=d_attn_bias,
        num_groups=by_dst.num_groups,
    )
    if d_x_dst is not None:
        by_dst.merge(piece_d_x_dst, d_x_dst)
        d_x_dst = d_x_dst.to(x_dst.dtype)
    if d_att is not None:
        d_att = d_att.sum(0)
    if d_edge_attr is not None and edge_attr is not None:
        d_edge_attr = d_edge_attr[0] if groups == 1 else d_edge_attr.sum(0)
        d_edge_attr = d_edge_attr.to(edge_attr.dtype)
    if d_edge_weight is not None:
        d_edge_weight = d_edge_weight.sum(0).t().contiguous()
    if d_attn_bias is not None:
        d_attn_bias = d_attn_bias.sum(0)
    return InputGrads(None, d_x_dst, d_att, d_edge_attr, d_edge_weight, d_attn_bias)


def _backward_src(by_src: _Pass, x_src: Tensor) -> Tensor:
    """(8).  Ranges of destinations have rows of their own, to be added up."""
    *lead, num_src, heads, channels = x_src.shape
    blocks = by_src.args["num_rows"] // max(num_src, 1)
    dtype = _written_dtype(x_src) if blocks == 1 else torch.float32
    d_x_src = x_src.new_empty(*lead, blocks * num_src, heads, channels, dtype=dtype)
    piece_d_x_src = by_src.piece_buffer(heads, channels)
    by_src.launch(backward_src_kernel, d_x_src=d_x_src, piece_d_x_src=piece_d_x_src)
    by_src.merge(piece_d_x_src, d_x_src)
    if blocks > 1:
        d_x_src = d_x_src.unflatten(-3, (blocks, num_src)).sum(-4)
    return d_x_src.to(x_src.dtype)
