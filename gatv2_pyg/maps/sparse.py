"""Linear maps of sparse features, with the transpose that backward needs kept between steps.

``torch.nn.functional.linear`` takes a sparse matrix too, but transposes it in the backward of each
map and each step, and takes CSC and COO by way of CSR. Where nothing wraps the call, the maps of
one matrix share its forms by row and by column, whose patterns outlive the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatv2_pyg import kernels
from gatv2_pyg.graph.tracing import values_unknown
from gatv2_pyg.inputs import autocasts, is_bare_map, is_lazy, is_plain_map
from gatv2_pyg.maps.matrix import SparseMatrix
from gatv2_pyg.ops.direct import unwrapped

_LAYOUTS = (torch.sparse_csr, torch.sparse_csc, torch.sparse_coo)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def linear_maps(x: Tensor) -> Callable[[torch.nn.Module], Tensor]:
    """What a module gives for ``x``.

    Args:
        x: ``[N, F]`` features, dense or a ``torch.sparse`` matrix.

    Returns:
        A function of the module. Those that are plain linear maps share the sparse matrix.
    """
    if x.layout is torch.strided and type(x) is Tensor and unwrapped():
        return lambda linear: _dense_map(x, linear)
    if x.layout not in _LAYOUTS or not _is_plain(x):
        return lambda linear: linear(x)
    matrix = SparseMatrix.of(x)
    return lambda linear: _map(matrix, linear, x) if _can_be_map(linear, x) else linear(x)


def _is_plain(x: Tensor) -> bool:
    """Whether the values of ``x`` can be read, are no one's gradient, and suit the kernels."""
    return (
        x.device.type == "cpu"
        and type(x) is Tensor
        and x.dtype in _DTYPES
        and not x.requires_grad
        and not values_unknown(x)
        and not torch._C._are_functorch_transforms_active()
        and kernels.cpu_kernels() is not None
    )


def _dense_map(x: Tensor, linear: Any) -> Tensor:
    """What the module gives for dense features; on small graphs its call takes as long as it."""
    if not is_bare_map(linear):
        return linear(x)
    parameters = linear._parameters
    return F.linear(x, parameters["weight"], parameters["bias"])


def _can_be_map(linear: Any, x: Tensor) -> bool:
    """Whether the product can be taken from the matrix in place of the module.

    A module of PyG's that waits for its size learns it, as it would in its first call.
    """
    if is_lazy(linear) and is_plain_map(linear):
        linear.initialize_parameters(linear, (x,))
    weight = linear.weight if is_bare_map(linear) else None
    if weight is None or weight.device.type != "cpu":
        return False
    return weight.dtype == x.dtype or (
        autocasts(x) and torch.float64 not in (weight.dtype, x.dtype) and weight.dtype in _DTYPES
    )


def _map(matrix: SparseMatrix, linear: Any, x: Tensor) -> Tensor:
    out = _Product.apply(matrix, linear.weight.t(), False)
    out = out if linear.bias is None else out + linear.bias
    if autocasts(x) and x.dtype != torch.float64:
        out = out.to(torch.get_autocast_dtype(x.device.type))
    return out


class _Product(torch.autograd.Function):
    """``matrix @ dense``, or that of the transpose, which backward is of: differentiable again."""

    @staticmethod
    def forward(matrix: SparseMatrix, dense: Tensor, transposed: bool) -> Tensor:
        return matrix.form(transposed).times(dense)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.matrix, _, ctx.transposed = inputs
        # Backward reads them again: that they are as they were is for autograd to see.
        parts = (part for part in ctx.matrix.parts() if not part.is_inference())
        ctx.save_for_backward(*parts)

    @staticmethod
    def backward(ctx, grad: Tensor):
        _ = ctx.saved_tensors
        return None, _Product.apply(ctx.matrix, grad, not ctx.transposed), None

    @staticmethod
    def vmap(info, in_dims, matrix: SparseMatrix, dense: Tensor, transposed: bool):
        dense = dense.movedim(in_dims[1], 1)
        product = _Product.apply(matrix, dense.flatten(1), transposed)
        return product.unflatten(1, dense.shape[1:]), 1
