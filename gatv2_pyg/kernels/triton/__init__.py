"""The Triton kernels.  Importing this module does not import Triton; calling it does.

On CUDA they run as they are; on CPU tensors only where ``TRITON_INTERPRET=1`` was set before
Triton was imported.  ``forward`` and ``backward`` have the signatures of
:mod:`gatv2_pyg.ops.reference`.
"""

from __future__ import annotations

import functools

import torch

from gatv2_pyg.kernels.contract import (
    Edges,
    InputGrads,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
)
from gatv2_pyg.kernels.triton.tiles import MAX_CHANNELS

__all__ = ["backward", "forward", "unavailable", "unsupported"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def unavailable() -> str | None:
    """Why these kernels can't run in this process, or None where they can."""
    try:
        from gatv2_pyg.kernels.triton.launch import interpreted
    except ImportError as error:
        return f"Triton can't be imported ({error})"
    if interpreted() or torch.cuda.is_available():
        return None
    return (
        "there is no CUDA device, and Triton runs on CPU tensors only if TRITON_INTERPRET=1 is set "
        "before it is imported"
    )


def unsupported(device: torch.device, dtype: torch.dtype, channels: int) -> str | None:
    """Why these kernels can't run on features of this kind, or None."""
    reason = unavailable()
    if reason is not None:
        return reason
    if dtype not in _DTYPES:
        return f"the Triton kernels take float32, bfloat16 and float16, not {dtype}"
    if channels > MAX_CHANNELS:
        return f"the Triton kernels take at most {MAX_CHANNELS} channels a head, not {channels}"
    if device.type == "cuda":
        return _unsupported_device(device.index, dtype)
    from gatv2_pyg.kernels.triton.launch import interpreted

    if device.type == "cpu" and interpreted():
        return None
    return (
        f"Triton does not run on {device.type} tensors (on cpu tensors only if "
        "TRITON_INTERPRET=1 is set before it is imported)"
    )


@functools.cache
def _unsupported_device(index: int, dtype: torch.dtype) -> str | None:
    if torch.version.hip is not None:
        return "the Triton kernels are written for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(index)
    needed = 8 if dtype == torch.bfloat16 else 7
    if major < needed:
        return (
            f"the Triton kernels need compute capability {needed}.0 for {dtype}, and "
            f"{torch.cuda.get_device_name(index)} has {major}.{minor}"
        )
    return None


def forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    """Equations (1)-(3), on one device, in float32, bfloat16 or float16."""
    from gatv2_pyg.kernels.triton import launch

    return launch.forward(inputs, edges, options, return_attention)


def backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
) -> InputGrads:
    """Equations (4)-(9), likewise."""
    from gatv2_pyg.kernels.triton import launch

    return launch.backward(grads, inputs, outputs, edges, options, needs)
