"""GATv2 attention in plain torch: the executable specification, and the judge of the kernels.

:func:`forward` and :func:`backward` have the signatures of the kernels' launchers, so one test
suite runs over all of them.  Both are differentiable, which gives second derivatives.  They build
``[E, H, C]`` tensors: this is the mathematics, not the way to run it.

``s_e`` may be -inf, by a bias ``b_e``: then ``alpha_e`` and ``ds_e`` are 0, and a row of only such
edges is as one without edges.

``(n)`` in a comment is a formula; edge ``e`` goes from source ``j`` to destination ``i``::

    (1) z_e  = x_src[j] + x_dst[i] (+ edge_attr[e] @ W_edge^T)
    (2) s_e  = <att, LeakyReLU(z_e)> (+ b_e) ;  lse_i = log sum_e exp s_e ;
        alpha_e = exp(s_e - lse_i)
    (3) out_i = sum_e keep_e alpha_e x_src[j]
    (4) dalpha_e = keep_e (<g_i, x_src[j]> + g_alpha_e)
    (5) ds_e = alpha_e (dalpha_e - D_i) ,  D_i = <g_i, out_i> + sum_e keep_e alpha_e g_alpha_e ,
        out_i as it was before it was rounded to a half-precision dtype
    (6) dz_e = ds_e att LeakyReLU'(z_e)
    (7) d x_dst[i] = sum_e dz_e ;  d att = sum_e ds_e LeakyReLU(z_e)
    (8) d x_src[j] = sum_e (keep_e alpha_e g_i + dz_e)
        d edge_attr[e] = dz_e @ W_edge ;  d W_edge = sum_e dz_e^T edge_attr[e]
    (9) d b_e = ds_e
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
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
from gatv2_pyg.ops import folding
from gatv2_pyg.ops.dropout import dropout_scale


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def edge_list(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Grouped edges as three ``[E]`` int64 tensors: owning row, other end, edge id."""
    ptr, idx, eid = rows.ptr.long(), rows.idx.long(), rows.edge.long()
    row = torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff())
    if eid.numel() == 0:
        eid = torch.arange(row.numel(), device=ptr.device)
    return row, idx[: row.numel()], eid[: row.numel()]


def _leaky_slope(z: Tensor, negative_slope: float) -> Tensor:
    return torch.ones_like(z).masked_fill(~(z > 0), negative_slope)


def _widened(inputs: Inputs, acc: torch.dtype) -> Inputs:
    return Inputs._make(None if value is None else value.to(acc) for value in inputs)


def _preactivation(inputs: Inputs, edges: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    i, j, eid = edges
    z = inputs.x_src[j] + inputs.x_dst[i]  # (1)
    if inputs.edge_attr is not None and inputs.edge_weight is not None:
        z = z + F.linear(inputs.edge_attr[eid], inputs.edge_weight).view_as(z)
    return z


def biased(s: Tensor, attn_bias: Tensor | None, eid: Tensor) -> Tensor:
    """Scores ``[E, H]`` with the biases of the edges that have one."""
    if attn_bias is None:
        return s
    count = attn_bias.size(0)
    # A row of zeros for the edges that have none.
    return s + F.pad(attn_bias, (0, 0, 0, 1))[eid.clamp(max=count)]


def finite_below(value: Tensor) -> Tensor:
    """The numbers, 0 for -inf."""
    return torch.where(value == -torch.inf, 0.0, value)


def keep_scale(eid: Tensor, heads: int, options: Options, acc: torch.dtype, batch: int) -> Tensor:
    """``keep_e`` of (3), ``[E, heads]``, ``batch`` elements of which the heads are."""
    per_element = heads // max(batch, 1)
    return dropout_scale(eid, per_element, options.dropout, options.seed, acc, batch)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast must not reach into the mathematics."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3)."""
    with without_autocast(inputs.x_src.device):
        if inputs.x_src.dim() == 3:
            return _forward(inputs, edges, options, return_attention, 1)
        batch = inputs.x_src.size(0)
        outputs = _forward(folding.fold(inputs), edges, options, return_attention, batch)
        return folding.unfold_outputs(outputs, inputs)


def _forward(
    inputs: Inputs, edges: Edges, options: Options, return_attention: bool, batch: int
) -> Outputs:
    acc = accumulation_dtype(inputs.x_src.dtype)
    inputs = _widened(inputs, acc)
    ends = edge_list(edges.by_dst)
    i, j, eid = ends
    z = _preactivation(inputs, ends)
    s = (F.leaky_relu(z, options.negative_slope) * inputs.att).sum(-1)  # (2)
    s = biased(s, inputs.attn_bias, eid)
    rows = (inputs.x_dst.size(0), s.size(1))
    top = s.new_full(rows, -torch.inf)
    top = top.scatter_reduce(0, i.unsqueeze(1).expand_as(s), s.detach(), "amax")
    top = finite_below(top)
    total = s.new_zeros(rows).index_add(0, i, (s - top[i]).exp())
    # The logarithm of 0 has no gradient that could be multiplied by 0.
    empty = total == 0
    lse = torch.where(empty, 1.0, total).log() + top
    keep_alpha = (s - lse[i]).exp()
    lse = torch.where(empty, -torch.inf, lse)
    if options.dropout > 0:
        keep_alpha = keep_alpha * keep_scale(eid, s.size(1), options, acc, batch)
    message = keep_alpha.unsqueeze(-1) * inputs.x_src[j]
    out = torch.zeros_like(inputs.x_dst).index_add(0, i, message)  # (3)
    alpha = None
    if return_attention:
        alpha = s.new_zeros(edges.num_ids, s.size(1)).index_copy(0, eid, keep_alpha)
    return Outputs(out, lse, alpha)


def backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
) -> InputGrads:
    """Equations (4)-(9), spelled out; ``outputs`` is what :func:`forward` returned."""
    with without_autocast(inputs.x_src.device):
        if inputs.x_src.dim() == 3:
            return _backward(grads, inputs, outputs, edges, options, needs, 1)
        found = _backward(
            folding.fold_grads(grads),
            folding.fold(inputs),
            folding.fold_outputs(outputs),
            edges,
            options,
            needs,
            inputs.x_src.size(0),
        )
        return folding.unfold_grads(found, inputs)


def _backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
    batch: int,
) -> InputGrads:
    dtypes = [None if value is None else value.dtype for value in inputs]
    acc = accumulation_dtype(inputs.x_src.dtype)
    inputs = _widened(inputs, acc)
    grad_out = torch.zeros_like(outputs.out) if grads.out is None else grads.out.to(acc)
    ends = edge_list(edges.by_dst)
    i, j, eid = ends

    z = _preactivation(inputs, ends)
    slope = _leaky_slope(z, options.negative_slope)
    s = biased((slope * z * inputs.att).sum(-1), inputs.attn_bias, eid)
    a = (s - finite_below(outputs.lse)[i]).exp()  # (2)
    keep = torch.ones_like(a)
    if options.dropout > 0:
        keep = keep_scale(eid, a.size(1), options, acc, batch)
    da = (grad_out[i] * inputs.x_src[j]).sum(-1)  # (4)
    d = (grad_out * outputs.out).sum(-1)  # (5)
    if grads.alpha is not None:
        da = da + grads.alpha[eid]
        d = d.index_add(0, i, keep * a * grads.alpha[eid])
    ds = a * (keep * da - d[i])
    # Their sum over a row is 0 but for rounding, which features with a common part would multiply.
    ds = ds - a * torch.zeros_like(d).index_add(0, i, ds)[i]
    dz = ds.unsqueeze(-1) * inputs.att * slope  # (6)

    d_x_src = d_x_dst = d_att = d_edge_attr = d_edge_weight = d_attn_bias = None
    if needs.x_src:  # (8)
        message = (keep * a).unsqueeze(-1) * grad_out[i] + dz
        d_x_src = torch.zeros_like(inputs.x_src).index_add(0, j, message)
    if needs.x_dst:  # (7)
        d_x_dst = torch.zeros_like(inputs.x_dst).index_add(0, i, dz)
    if needs.att:
        d_att = (ds.unsqueeze(-1) * slope * z).sum(0)
    if inputs.edge_attr is not None and inputs.edge_weight is not None:
        if needs.edge_attr:
            rows = dz.flatten(1) @ inputs.edge_weight
            d_edge_attr = torch.zeros_like(inputs.edge_attr).index_copy(0, eid, rows)
        if needs.edge_weight:
            d_edge_weight = dz.flatten(1).t() @ inputs.edge_attr[eid]
    if inputs.attn_bias is not None and needs.attn_bias:  # (9)
        count, heads = inputs.attn_bias.shape
        of_edges = ds if heads == ds.size(1) else ds.sum(1, keepdim=True)
        d_attn_bias = ds.new_zeros(count + 1, heads)
        d_attn_bias = d_attn_bias.index_add(0, eid.clamp(max=count), of_edges)[:count]
    found = (d_x_src, d_x_dst, d_att, d_edge_attr, d_edge_weight, d_attn_bias)
    return InputGrads(
        *(
            None if grad is None else grad.to(dtype)
            for grad, dtype in zip(found, dtypes, strict=True)
        )
    )
