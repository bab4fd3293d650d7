"""Whether a call's tensors are memory that kernels can take, and nothing else wants to see it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils._device import DeviceContext


def _dispatch_keys(value: Tensor) -> int:
    return torch._C._dispatch_keys(value).raw_repr()


def _plain_keys() -> frozenset[int]:
    """The dispatch keys of a strided CPU tensor that nothing wraps, of one of inference mode."""
    with torch.inference_mode(False):
        plain = torch.empty(0, device="cpu")
    with torch.inference_mode():
        return frozenset(map(_dispatch_keys, (plain, torch.empty(0, device="cpu"))))


_PLAIN = _plain_keys()
_TYPES = (Tensor, Parameter)
_TYPES_OR_NONE = frozenset((*_TYPES, type(None)))


def unwrapped() -> bool:
    """Whether no mode, transform, tracer or profiler wants to see the operators of a call."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
    )


def has_function_mode() -> bool:
    """Whether a mode wants to see the functions of a call.

    A default device is a mode to torch; it reaches only what is made without a device.
    """
    return any(
        type(torch._C._get_function_stack_at(level)) is not DeviceContext
        for level in range(torch._C._len_torch_function_stack())
    )


def have_plain_types(values: Iterable[Tensor | None]) -> bool:
    """Whether none of the tensors there are is of a subclass."""
    return _TYPES_OR_NONE.issuperset(map(type, values))


def are_plain(values: Iterable[Tensor | None]) -> bool:
    """Whether the tensors there are lie in memory of their own on the CPU, none of a subclass."""
    keys = torch._C._dispatch_keys
    for value in values:
        if value is not None and (
            type(value) not in _TYPES or keys(value).raw_repr() not in _PLAIN
        ):
            return False
    return True
