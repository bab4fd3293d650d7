"""GATv2 attention in plain torch: the executable specification, and the judge of the kernels.

:func:`forward` and :func:`backward` have the signatures of the kernels' launchers, so one test
suite runs over all of them.  Both are differentiable, which gives second derivatives.  They build
``[E, H, C]`` tensors: this is the mathematics, not the way to run it.

``(n)`` in a comment is a formula; edge ``e`` goes from source ``j`` to destination ``i``::

    (1) z_e  = x_src[j] + x_dst[i] (+ edge_attr[e] @ W_edge^T)
    (2) s_e  = <att, LeakyReLU(z_e)> ;  lse_i = log sum_e exp s_e ;  alpha_e = exp(s_e - lse_i)
    (3) out_i = sum_e keep_e alpha_e x_src[j]
    (4) dalpha_e = keep_e (<g_i, x_src[j]> + g_alpha_e)
    (5) ds_e = alpha_e (dalpha_e - D_i) ,  D_i = <g_i, out_i> + sum_e keep_e alpha_e g_alpha_e
    (6) dz_e = ds_e att LeakyReLU'(z_e)
    (7) d x_dst[i] = sum_e dz_e ;  d att = sum_e ds_e LeakyReLU(z_e)
    (8) d x_src[j] = sum_e (keep_e alpha_e g_i + dz_e)
        d edge_attr[e] = dz_e @ W_edge ;  d W_edge = sum_e dz_e^T edge_attr[e]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_PHILOX_M = (0xD2511F53, 0xCD9E8D57)
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)
_MASK32 = 0xFFFFFFFF


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def philox(counter: Sequence[Tensor | int], key: Sequence[Tensor | int]) -> tuple[Tensor, ...]:
    """Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

    Args:
        counter: four 32-bit words, each an int or an int64 tensor; they broadcast.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    c0, c1, c2, c3 = (torch.as_tensor(word, dtype=torch.int64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        # int64 wraps, so the 64 bits of the unsigned product are all there.
        p0, p1 = c0 * _PHILOX_M[0], c2 * _PHILOX_M[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK32) ^ c1 ^ k0,
            p1 & _MASK32,
            ((p0 >> 32) & _MASK32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + _PHILOX_W[0]) & _MASK32, (k1 + _PHILOX_W[1]) & _MASK32
    return c0, c1, c2, c3


def dropout_scale(
    edge_id: Tensor, heads: int, dropout: float, seed: Tensor | int, dtype: torch.dtype
) -> Tensor:
    """``keep_e`` of (3): ``1 / (1 - dropout)`` where an attention coefficient is kept, else 0.

    Args:
        edge_id: ``[E]`` ids of the edges (see :class:`gatv2_pyg.Graph`).
        heads: the number of heads ``H``.
        dropout: the probability that a coefficient is dropped.
        seed: a non-negative integer below 2**63, or a 0-dimensional int64 tensor of it.
        dtype: the dtype of the result.

    Returns:
        ``[E, H]``; a function of (seed, edge id, head) alone.
    """
    edge_id = edge_id.to(torch.int64).unsqueeze(1)
    block = torch.arange((heads + 3) // 4, device=edge_id.device)
    words = philox(
        (edge_id & _MASK32, (edge_id >> 32) & _MASK32, block, 0), (seed & _MASK32, seed >> 32)
    )
    bits = torch.stack([word.expand(edge_id.size(0), block.numel()) for word in words], dim=-1)
    bits = bits.flatten(1)[:, :heads]
    threshold = min(int(dropout * 2**32), 2**32 - 1)
    scale = 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0
    return (bits >= threshold).to(dtype) * scale


def edge_list(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Grouped edges as three ``[E]`` int64 tensors: owning row, other end, edge id."""
    ptr, idx, eid = rows[0].long(), rows[1].long(), rows[2].long()
    row = torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff())
    if eid.numel() == 0:
        eid = torch.arange(row.numel(), device=ptr.device)
    return row, idx[: row.numel()], eid[: row.numel()]


def _leaky_slope(z: Tensor, negative_slope: float) -> Tensor:
    return torch.ones_like(z).masked_fill(~(z > 0), negative_slope)


def _preactivation(
    x_src: Tensor,
    x_dst: Tensor,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    edges: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    i, j, eid = edges
    z = x_src[j] + x_dst[i]  # (1)
    if edge_attr is not None and edge_weight is not None:
        z = z + F.linear(edge_attr[eid], edge_weight).view_as(z)
    return z


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
    """Equations (1)-(3).

    Args:
        x_src: ``[N_src, H, C]``.
        x_dst: ``[N_dst, H, C]``.
        att: ``[H, C]``, in the accumulation dtype.
        edge_attr: ``[num_ids, D]`` or None.
        edge_weight: ``[H * C, D]`` or None, in the accumulation dtype.
        by_dst: the edges grouped by destination (see :class:`gatv2_pyg.graph.Rows`).
        num_ids: the number of edge ids.
        negative_slope: the slope of LeakyReLU below zero.
        dropout: the probability of attention dropout; 0 outside training.
        seed: the seed of the dropout.
        return_attention: whether to return the coefficients.

    Returns:
        ``out [N_dst, H, C]`` in the dtype of ``x_src``; ``lse [N_dst, H]`` (-inf for a row without
        edges) and ``keep_e alpha_e [num_ids, H]`` (or None) in the accumulation dtype.
    """
    dtype, acc = x_src.dtype, accumulation_dtype(x_src.dtype)
    x_src, x_dst = x_src.to(acc), x_dst.to(acc)
    edge_attr = None if edge_attr is None else edge_attr.to(acc)
    edges = edge_list(by_dst)
    i, j, eid = edges
    z = _preactivation(x_src, x_dst, edge_attr, edge_weight, edges)
    s = (F.leaky_relu(z, negative_slope) * att).sum(-1)  # (2)
    rows = (x_dst.size(0), s.size(1))
    top = s.new_full(rows, -torch.inf)
    top = top.scatter_reduce(0, i.unsqueeze(1).expand_as(s), s.detach(), "amax")
    top = torch.where(top == -torch.inf, 0.0, top)
    lse = s.new_zeros(rows).index_add(0, i, (s - top[i]).exp()).log() + top
    keep_alpha = (s - lse[i]).exp()
    if dropout > 0:
        keep_alpha = keep_alpha * dropout_scale(eid, s.size(1), dropout, seed, acc)
    message = keep_alpha.unsqueeze(-1) * x_src[j]
    out = torch.zeros_like(x_dst).index_add(0, i, message)  # (3)
    alpha = None
    if return_attention:
        alpha = s.new_zeros(num_ids, s.size(1)).index_copy(0, eid, keep_alpha)
    return out.to(dtype), lse, alpha


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
) -> tuple[Tensor | None, ...]:
    """Equations (4)-(8), spelled out.

    Args:
        grad_out: the gradient of ``out``, or None for zero.
        grad_alpha: the gradient of the returned ``alpha``, or None for zero.
        out, lse, alpha: what :func:`forward` returned.
        by_src: the edges grouped by source; only the kernels read it.
        needs: which of the five gradients are wanted.

    The other arguments are those of :func:`forward`.

    Returns:
        The gradients of ``x_src, x_dst, att, edge_attr, edge_weight``, None where not wanted.
    """
    dtype, acc = x_src.dtype, accumulation_dtype(x_src.dtype)
    x_src, x_dst, out = x_src.to(acc), x_dst.to(acc), out.to(acc)
    attr_dtype = None if edge_attr is None else edge_attr.dtype
    edge_attr = None if edge_attr is None else edge_attr.to(acc)
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out.to(acc)
    edges = edge_list(by_dst)
    i, j, eid = edges

    z = _preactivation(x_src, x_dst, edge_attr, edge_weight, edges)
    slope = _leaky_slope(z, negative_slope)
    a = ((slope * z * att).sum(-1) - lse[i]).exp()  # (2)
    keep = torch.ones_like(a)
    if dropout > 0:
        keep = dropout_scale(eid, a.size(1), dropout, seed, acc)
    da = (grad_out[i] * x_src[j]).sum(-1)  # (4)
    d = (grad_out * out).sum(-1)  # (5)
    if grad_alpha is not None:
        da = da + grad_alpha[eid]
        d = d.index_add(0, i, keep * a * grad_alpha[eid])
    ds = a * (keep * da - d[i])
    dz = ds.unsqueeze(-1) * att * slope  # (6)

    grads: list[Tensor | None] = [None] * 5
    if needs[0]:  # (8)
        message = (keep * a).unsqueeze(-1) * grad_out[i] + dz
        grads[0] = torch.zeros_like(x_src).index_add(0, j, message).to(dtype)
    if needs[1]:  # (7)
        grads[1] = torch.zeros_like(x_dst).index_add(0, i, dz).to(dtype)
    if needs[2]:
        grads[2] = (ds.unsqueeze(-1) * slope * z).sum(0)
    if edge_attr is not None and edge_weight is not None:
        if needs[3]:
            rows = dz.flatten(1) @ edge_weight
            grads[3] = torch.zeros_like(edge_attr).index_copy(0, eid, rows).to(attr_dtype)
        if needs[4]:
            grads[4] = dz.flatten(1).t() @ edge_attr[eid]
    return tuple(grads)
