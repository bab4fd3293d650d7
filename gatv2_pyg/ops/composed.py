"""Gradients by operations that autograd follows, where those of the kernels would not do.

They are differentiable again, and hooks, transforms and tracers see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import Edges, Options, Rows


def gradients(
    grad: Tensor,
    given: Any,
    needs: dict[str, bool],
    compute: Callable[[Any], Tensor],
) -> list[Tensor | None]:
    """The gradients of what a call computes; None where not needed.

    Args:
        grad: that of the result.
        given: the tensors of the call, a named tuple of them.
        needs: of each of them, by name, whether its gradient is needed.
        compute: the call, by operations that autograd follows.
    """
    differentiable = torch.is_grad_enabled()
    leaves: dict[str, Tensor | None] = given._asdict()
    with torch.enable_grad():
        for name, value in leaves.items():
            if value is not None and needs[name]:
                # Each has its own gradient, one tensor given twice too.
                leaves[name] = (
                    value.view_as(value) if differentiable else value.detach().requires_grad_()
                )
        result = compute(given._make(leaves.values()))
    wanted = [value for name, value in leaves.items() if value is not None and needs[name]]
    found = iter(torch.autograd.grad(result, wanted, grad, create_graph=differentiable))
    return [next(found) if need else None for need in needs.values()]


_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")
_ARGUMENTS = (
    "Tensor[] by_dst, Tensor[] by_src, int num_ids, float negative_slope, float dropout, int seed, "
    "bool[] needs"
)


def register(
    name: str,
    kind: Any,
    compute: Callable[[Any, Edges, Options], Tensor],
    without: str = "attn_bias",
) -> None:
    """Defines the operator that a step in C++ calls where its own backward would not do.

    Args:
        name: of the operator.
        kind: the named tuple of a call's tensors; the operator takes None for any.
        compute: the call.
        without: which of the tensors the step does not take.
    """
    names = [field for field in kind._fields if field != without]
    tensors = ", ".join(f"Tensor? {field}" for field in names)
    _lib.define(f"{name}(Tensor grad, {tensors}, {_ARGUMENTS}) -> Tensor[]")

    def call(grad: Tensor, *flat: Any) -> list[Tensor]:
        *values, by_dst, by_src, num_ids, slope, dropout, seed, needed = flat
        absent: dict[str, Any] = {field: None for field in kind._fields}
        given = kind._make((absent | dict(zip(names, values, strict=True))).values())
        needs = dict.fromkeys(kind._fields, False) | dict(zip(names, needed, strict=True))
        edges = Edges(Rows(*by_dst), Rows(*by_src) if by_src else None, num_ids)
        options = Options(slope, dropout, torch.tensor(seed))
        # Forward was without them.
        with torch.autocast("cpu", enabled=False), torch._C.DisableTorchFunction():
            found = gradients(grad, given, needs, lambda leaves: compute(leaves, edges, options))
        return [value for value in found if value is not None]

    _lib.impl(name, call, "CPU")
