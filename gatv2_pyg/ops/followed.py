"""What a step in C++ leaves to Python in its backward: gradients by operations that are followed.

Autograd, transforms, tracers and modes see them, and they are differentiable again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import Edges, Options, Outputs, Rows

_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")
_ARGUMENTS = (
    "Tensor out, Tensor lse, Tensor[] by_dst, Tensor[] by_src, int num_ids, float negative_slope, "
    "float dropout, int seed, bool[] needs"
)

Followed = Callable[
    [Tensor, Any, dict[str, bool], Edges, Options, Outputs], Sequence[Tensor | None]
]
"""Of the gradient of a result, the tensors of the call, and which of them need a gradient: these,
in the order of the tensors."""


def register(name: str, kind: Any, followed: Followed) -> None:
    """Defines the operator that a step in C++ calls where its own backward would not do.

    Args:
        name: of the operator.
        kind: the named tuple of a call's tensors; the operator takes None for any, and no
            ``attn_bias``, as the steps do not.
        followed: what computes the gradients.
    """
    names = [field for field in kind._fields if field != "attn_bias"]
    tensors = ", ".join(f"Tensor? {field}" for field in names)
    _lib.define(f"{name}(Tensor grad, {tensors}, {_ARGUMENTS}) -> Tensor[]")

    def call(grad: Tensor, *flat: Any) -> list[Tensor]:
        *values, out, lse, by_dst, by_src, num_ids, slope, dropout, seed, needed = flat
        absent: dict[str, Any] = {field: None for field in kind._fields}
        given = kind._make((absent | dict(zip(names, values, strict=True))).values())
        needs = dict.fromkeys(kind._fields, False) | dict(zip(names, needed, strict=True))
        edges = Edges(Rows(*by_dst), Rows(*by_src) if by_src else None, num_ids)
        options = Options(slope, dropout, torch.tensor(seed))
        # Forward was without them.
        with torch.autocast("cpu", enabled=False), torch._C.DisableTorchFunction():
            found = followed(grad, given, needs, edges, options, Outputs(out, lse, None))
        return [value for value in found if value is not None]

    _lib.impl(name, call, "CPU")
