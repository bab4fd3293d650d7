"""Whether a tensor's values can be read now, and how."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey


def values_unknown(tensor: Tensor) -> bool:
    """Whether a call is being traced, or the tensor is fake, batched or on the meta device.

    Its values are then not to be read, and what was made of it is not to be kept.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _get_dispatch_mode(_TorchDispatchModeKey.PROXY) is not None
        or _get_dispatch_mode(_TorchDispatchModeKey.FAKE) is not None
        or not is_plain(tensor)
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is its memory on the CPU or on CUDA, and nothing wraps it."""
    return (
        type(tensor).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl
        and (tensor.is_cpu or tensor.is_cuda)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._is_functional_tensor(tensor)
        and not tensor.is_neg()
        and not torch._is_zerotensor(tensor)
    )


@contextlib.contextmanager
def reading_values() -> Iterator[None]:
    """For work on plain indices: what it makes is plain too, and outlives the call.

    Within torch.func transforms its tensors would be wrapped, in inference mode they could not be
    saved for backward later.
    """
    if torch.is_inference_mode_enabled() or torch._C._are_functorch_transforms_active():
        with torch._C._DisableFuncTorch(), torch.inference_mode(False), torch.no_grad():
            yield
    else:
        with torch.no_grad():
            yield
