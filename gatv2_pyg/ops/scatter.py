"""GATv2 attention by CSR segment operations; autograd gives gradients.

They are those of ``torch_scatter``, or where that is missing those of pyg-lib, which has them under
the same names.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatv2_pyg.kernels.contract import Edges, Inputs, Options, Outputs
from gatv2_pyg.ops import folding, reference
from gatv2_pyg.ops.reference import accumulation_dtype, without_autocast

OPERATIONS = ("segment_csr", "gather_csr")


def load_operations(library: str) -> Any:
    """What holds the :data:`OPERATIONS` of ``"torch_scatter"`` or ``"pyg_lib"``.

    Raises:
        ImportError: the library is missing, or a version of pyg-lib without them.
        OSError: its compiled part can't be loaded.
    """
    found = importlib.import_module(library)
    if library == "pyg_lib":
        found = found.ops
        if not all(hasattr(found, name) for name in OPERATIONS):
            raise ImportError(f"this version has no {' and '.join(OPERATIONS)}")
    return found


def _operations() -> Any:
    try:
        return load_operations("torch_scatter")
    except (ImportError, OSError):
        return load_operations("pyg_lib")


class _Linear(torch.autograd.Function):
    """A linear operation on rows; those of the libraries have no second derivatives."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])

    @classmethod
    def vmap(cls, info, in_dims, rows: Tensor, ptr: Tensor):
        return cls.apply(rows.movedim(in_dims[0], -1), ptr), -1


class _Gather(_Linear):
    """Each row for all edges of its segment."""

    @staticmethod
    def forward(rows: Tensor, ptr: Tensor) -> Tensor:
        return _operations().gather_csr(rows.contiguous(), ptr)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _sum(grad, *ctx.saved_tensors), None


class _Sum(_Linear):
    """The sum over the edges of each segment."""

    @staticmethod
    def forward(rows: Tensor, ptr: Tensor) -> Tensor:
        return _operations().segment_csr(rows.contiguous(), ptr, reduce="sum")

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _gather(grad, *ctx.saved_tensors), None


def _gather(rows: Tensor, ptr: Tensor) -> Tensor:
    return _Gather.apply(rows, ptr)


def _sum(edges: Tensor, ptr: Tensor) -> Tensor:
    return _Sum.apply(edges, ptr)


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3) over edges sorted by destination; ``lse`` is not computed where there are
    edges, and left empty."""
    with without_autocast(inputs.x_src.device):
        if int(edges.by_dst.ptr[-1]) == 0 or inputs.x_src.numel() == 0:
            # The gradients of torch_scatter's segments of nothing are not written.
            return reference.forward(inputs, edges, options, return_attention)
        if inputs.x_src.dim() == 3:
            return _forward(inputs, edges, options, return_attention, 1)
        batch = inputs.x_src.size(0)
        outputs = _forward(folding.fold(inputs), edges, options, return_attention, batch)
        return folding.unfold_outputs(outputs, inputs)


def _forward(
    inputs: Inputs, edges: Edges, options: Options, return_attention: bool, batch: int
) -> Outputs:
    acc = accumulation_dtype(inputs.x_src.dtype)
    ptr = edges.by_dst.ptr.long()
    num_edges = int(ptr[-1])
    x_src, x_dst = inputs.x_src.to(acc), inputs.x_dst.to(acc)
    j, eid = edges.by_dst.idx[:num_edges].long(), edges.by_dst.edge[:num_edges].long()
    x_j = x_src.index_select(0, j)
    z = x_j + _gather(x_dst, ptr)  # (1)
    if inputs.edge_attr is not None and inputs.edge_weight is not None:
        rows = inputs.edge_attr.to(acc)
        rows = rows if eid.numel() == 0 else rows.index_select(0, eid)
        z = z + F.linear(rows, inputs.edge_weight).view_as(z)
    s = (F.leaky_relu(z, options.negative_slope) * inputs.att).sum(-1)  # (2)
    ids = eid if eid.numel() else torch.arange(num_edges, device=ptr.device)
    s = reference.biased(s, inputs.attn_bias, ids)
    top = reference.finite_below(_operations().segment_csr(s.detach(), ptr, reduce="max"))
    s = (s - _gather(top, ptr)).exp()
    total = _sum(s, ptr)
    alpha = s / _gather(torch.where(total == 0, 1.0, total), ptr)
    if options.dropout > 0:
        alpha = alpha * reference.keep_scale(ids, s.size(1), options, acc, batch)
    out = _sum(alpha.unsqueeze(-1) * x_j, ptr)  # (3)
    lse = s.new_empty(0)
    if not return_attention:
        return Outputs(out, lse, None)
    if eid.numel() == 0 and num_edges == edges.num_ids:
        return Outputs(out, lse, alpha)
    alpha = alpha.new_zeros(edges.num_ids, alpha.size(1)).index_copy(0, ids, alpha)
    return Outputs(out, lse, alpha)
