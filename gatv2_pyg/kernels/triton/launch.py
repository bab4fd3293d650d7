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


class _Rows(NamedTuple):
    """Grouped edges, with the tile and the number of row groups that go with them."""

    ptr: Tensor
    idx: Tensor
    edge: Tensor | None
    pieces: Tensor
    cuts: Tensor
    tile: Tile

    @classmethod
    def of(cls, rows: Rows, x: Tensor) -> _Rows:
        ptr, idx, edge, pieces, cuts = rows
        tile = tile_of(x.size(1), x.size(2), ptr.numel() - 1, idx.numel(), budget)
        return cls(ptr, idx, edge if edge.numel() else None, pieces, cuts, tile)

    @property
    def num_groups(self) -> int:
        """Groups of pieces, then groups of rows."""
        num_pieces, num_rows = self.pieces.size(0), self.ptr.numel() - 1
        return triton.cdiv(num_pieces, self.tile.rows) + triton.cdiv(num_rows, self.tile.rows)

    @property
    def grid(self) -> tuple[int, int]:
        return self.num_groups, self.tile.head_groups

    @property
    def args(self) -> dict[str, Any]:
        return {
            "ptr": self.ptr,
            "pieces": self.pieces,
            "num_rows": self.ptr.numel() - 1,
            "num_pieces": self.pieces.size(0),
        }

    def piece_buffer(self, *shape: int) -> Tensor | None:
        """A float32 row per piece, or None if there are no pieces."""
        num_pieces = self.pieces.size(0)
        if num_pieces == 0:
            return None
        return torch.empty(num_pieces, *shape, dtype=torch.float32, device=self.ptr.device)


def _run(kernel, grid: tuple[int, ...], device: torch.device, **args: Any) -> None:
    """Launches a kernel on a device; an empty grid is no launch."""
    if 0 in grid:
        return
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        kernel[grid](**args, enable_fp_fusion=True)


def _dropout_args(options: Options) -> dict[str, Any]:
    dropout = options.dropout
    return {
        "seed": int(options.seed),
        "threshold": min(int(dropout * 2**32), 2**32 - 1),
        "scale": 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0,
        "DROPOUT": dropout > 0.0,
    }


def _edge_args(edge_attr: Tensor | None, edge_weight: Tensor | None) -> dict[str, Any]:
    """``edge_weight`` is transposed, so that a row of it holds neighbouring features."""
    if edge_attr is None or edge_weight is None or edge_attr.size(1) == 0:
        return {"edge_attr": None, "edge_weight": None, "D": 0}
    weight = edge_weight.t().contiguous()
    return {"edge_attr": edge_attr, "edge_weight": weight, "D": edge_attr.size(1)}


def _merge(
    rows: _Rows, pieces: Tensor | None, out: Tensor, piece_lse: Tensor | None, lse: Tensor | None
) -> None:
    """Merges what pieces left into the rows of ``out [rows, H, C]`` that were cut."""
    if pieces is None:
        return
    heads, channels = out.size(1), out.size(2)
    block = min(32, power_of_two(channels))
    _run(
        merge_kernel,
        (rows.cuts.size(0), heads, triton.cdiv(channels, block)),
        out.device,
        cuts=rows.cuts,
        pieces=pieces,
        piece_lse=piece_lse,
        out=out,
        lse=lse,
        H=heads,
        C=channels,
        BP=128,
        BC=block,
        num_warps=4,
    )


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3)."""
    x_src, x_dst, att, edge_attr, edge_weight = inputs
    heads, channels = att.shape
    rows = _Rows.of(edges.by_dst, x_src)
    out = torch.empty_like(x_dst, dtype=torch.float32)
    lse = att.new_empty(x_dst.size(0), heads)
    # Ids that stand for no edge keep the zero.
    alpha = att.new_zeros(edges.num_ids, heads) if return_attention else None
    piece_out = rows.piece_buffer(heads, channels)
    piece_lse = rows.piece_buffer(heads)
    dropout_args = _dropout_args(options)
    _run(
        forward_dst_kernel,
        rows.grid,
        x_src.device,
        x_src=x_src,
        x_dst=x_dst,
        att=att,
        idx=rows.idx,
        out=out,
        lse=lse,
        eid=rows.edge,
        piece_out=piece_out,
        piece_lse=piece_lse,
        scores=alpha,
        negative_slope=options.negative_slope,
        H=heads,
        C=channels,
        **rows.args,
        **_edge_args(edge_attr, edge_weight),
        **dropout_args,
        **rows.tile.meta,
    )
    _merge(rows, piece_out, out, piece_lse, lse)
    if alpha is not None:
        tile = rows.tile
        _run(
            attention_kernel,
            rows.grid,
            x_src.device,
            alpha=alpha,
            lse=lse,
            eid=rows.edge,
            H=heads,
            BR=tile.rows,
            BE=tile.edges,
            BH=tile.heads,
            num_warps=1,
            **rows.args,
            **dropout_args,
        )
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
    x_src, x_dst, att, edge_attr, edge_weight = inputs
    grad_out = grads.out
    if grad_out is None:
        grad_out = torch.zeros_like(x_dst)
    rows = _Rows.of(edges.by_dst, x_src)
    delta = _row_dot(rows, grad_out, outputs.out, grads.alpha, outputs.alpha)
    args = {
        "grad_out": grad_out,
        "grad_alpha": grads.alpha,
        "x_src": x_src,
        "x_dst": x_dst,
        "att": att,
        "lse": outputs.lse,
        "delta": delta,
        "negative_slope": options.negative_slope,
        "eid": rows.edge,
        "H": att.size(0),
        "C": att.size(1),
        **_edge_args(edge_attr, edge_weight),
        **_dropout_args(options),
    }
    d_x_src = None
    if needs.x_src and edges.by_src is not None:
        d_x_src = _backward_src(_Rows.of(edges.by_src, x_src), args)
    d_x_dst = d_att = d_edge_attr = d_edge_weight = None
    if any(needs[1:]):
        d_x_dst, d_att, d_edge_attr, d_edge_weight = _backward_dst(rows, args, needs)
    if edge_attr is not None and edge_weight is not None and edge_attr.size(1) == 0:
        d_edge_attr = torch.zeros_like(edge_attr) if needs.edge_attr else None
        d_edge_weight = torch.zeros_like(edge_weight) if needs.edge_weight else None
    return InputGrads(d_x_src, d_x_dst, d_att, d_edge_attr, d_edge_weight)


def _row_dot(
    rows: _Rows, grad_out: Tensor, out: Tensor, grad_alpha: Tensor | None, alpha: Tensor | None
) -> Tensor:
    """D of (5), ``[N_dst, H]``."""
    num_rows, heads, channels = out.shape
    delta = torch.empty(num_rows, heads, dtype=torch.float32, device=out.device)
    piece_delta = rows.piece_buffer(heads)
    _run(
        row_dot_kernel,
        rows.grid,
        out.device,
        grad_out=grad_out,
        out=out,
        grad_alpha=grad_alpha,
        alpha=alpha,
        delta=delta,
        eid=rows.edge,
        piece_delta=piece_delta,
        H=heads,
        C=channels,
        **rows.args,
        **rows.tile.meta,
    )
    _merge(rows, piece_delta, delta.unsqueeze(2), None, None)
    return delta


def _backward_dst(rows: _Rows, args: dict[str, Any], needs: Needs) -> tuple[Tensor | None, ...]:
    """(7) and the gradients of the edge features."""
    x_dst, edge_attr = args["x_dst"], args["edge_attr"]
    heads, channels, edge_dim = args["H"], args["C"], args["D"]
    features = heads * channels
    need_edge_weight = needs.edge_weight and edge_dim > 0
    partials = partials_of(
        rows.num_groups, rows.idx.numel(), edge_dim * features if need_edge_weight else 0
    )
    sums = {"dtype": torch.float32, "device": x_dst.device}

    d_x_dst = torch.empty_like(x_dst, dtype=_written_dtype(x_dst)) if needs.x_dst else None
    piece_d_x_dst = rows.piece_buffer(heads, channels) if needs.x_dst else None
    d_att = torch.empty(partials, heads, channels, **sums) if needs.att else None
    d_edge_attr = d_edge_weight = None
    groups = rows.tile.head_groups
    if needs.edge_attr and edge_dim:
        # Ids that stand for no edge keep the zero.
        dtype = _written_dtype(edge_attr) if groups == 1 else torch.float32
        shape = (groups, *edge_attr.shape)
        d_edge_attr = torch.zeros(shape, dtype=dtype, device=x_dst.device)
    if need_edge_weight:
        d_edge_weight = torch.zeros(partials, edge_dim, features, **sums)
    _run(
        backward_dst_kernel,
        (partials, groups),
        x_dst.device,
        idx=rows.idx,
        d_x_dst=d_x_dst,
        piece_d_x_dst=piece_d_x_dst,
        d_att=d_att,
        d_edge_attr=d_edge_attr,
        d_edge_weight=d_edge_weight,
        num_groups=rows.num_groups,
        num_ids=0 if edge_attr is None else edge_attr.size(0),
        **args,
        **rows.args,
        **rows.tile.meta,
    )
    if d_x_dst is not None:
        _merge(rows, piece_d_x_dst, d_x_dst, None, None)
        d_x_dst = d_x_dst.to(x_dst.dtype)
    if d_att is not None:
        d_att = d_att.sum(0)
    if d_edge_attr is not None:
        d_edge_attr = d_edge_attr[0] if groups == 1 else d_edge_attr.sum(0)
        d_edge_attr = d_edge_attr.to(edge_attr.dtype)
    if d_edge_weight is not None:
        d_edge_weight = d_edge_weight.sum(0).t().contiguous()
    return d_x_dst, d_att, d_edge_attr, d_edge_weight


def _backward_src(rows: _Rows, args: dict[str, Any]) -> Tensor:
    """(8)."""
    x_src = args["x_src"]
    d_x_src = torch.empty_like(x_src, dtype=_written_dtype(x_src))
    piece_d_x_src = rows.piece_buffer(args["H"], args["C"])
    _run(
        backward_src_kernel,
        rows.grid,
        d_x_src.device,
        idx=rows.idx,
        edge=rows.edge,
        d_x_src=d_x_src,
        piece_d_x_src=piece_d_x_src,
        **args,
        **rows.args,
        **rows.tile.meta,
    )
    _merge(rows, piece_d_x_src, d_x_src, None, None)
    return d_x_src.to(x_src.dtype)
