"""GATv2 attention by the CSR segment operations of ``torch_scatter``."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from gatv2_pyg.ops import reference
from gatv2_pyg.ops.reference import accumulation_dtype, dropout_scale


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
) -> tuple[Tensor, Tensor | None]:
    """Equations (1)-(3) over edges sorted by destination; autograd gives the gradients.

    Arguments are those of :func:`gatv2_pyg.ops.reference.forward`.

    Returns:
        ``out [N_dst, H, C]`` in the dtype of ``x_src``, and ``keep_e alpha_e [num_ids, H]`` in the
        accumulation dtype or None.
    """
    from torch_scatter import gather_csr, segment_csr

    dtype, acc = x_src.dtype, accumulation_dtype(x_src.dtype)
    x_src, x_dst = x_src.to(acc), x_dst.to(acc)
    ptr = by_dst[0].long()
    num_edges = int(ptr[-1])
    if num_edges == 0:
        # The gradients of torch_scatter's segments of nothing are not written.
        options = (negative_slope, dropout, seed, return_attention)
        inputs = (x_src, x_dst, att, edge_attr, edge_weight)
        out, _, alpha = reference.forward(*inputs, by_dst, num_ids, *options)
        return out.to(dtype), alpha
    j, eid = by_dst[1][:num_edges].long(), by_dst[2][:num_edges].long()
    x_j = x_src.index_select(0, j)
    z = x_j + gather_csr(x_dst, ptr)  # (1)
    if edge_attr is not None and edge_weight is not None:
        rows = edge_attr.to(acc)
        rows = rows if eid.numel() == 0 else rows.index_select(0, eid)
        z = z + F.linear(rows, edge_weight).view_as(z)
    s = (F.leaky_relu(z, negative_slope) * att).sum(-1)  # (2)
    s = (s - gather_csr(segment_csr(s.detach(), ptr, reduce="max"), ptr)).exp()
    alpha = s / gather_csr(segment_csr(s, ptr, reduce="sum"), ptr)
    if dropout > 0:
        ids = j.new_ones(num_edges).cumsum(0) - 1 if eid.numel() == 0 else eid
        alpha = alpha * dropout_scale(ids, s.size(1), dropout, seed, acc)
    out = segment_csr(alpha.unsqueeze(-1) * x_j, ptr, reduce="sum").to(dtype)  # (3)
    if not return_attention:
        return out, None
    if eid.numel() == 0:
        return out, alpha
    return out, alpha.new_zeros(num_ids, alpha.size(1)).index_copy(0, eid, alpha)
