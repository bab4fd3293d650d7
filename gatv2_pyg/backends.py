"""Which backend a call takes, and why: one place selects, refuses and explains."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from gatv2_pyg.kernels import load_kernels
from gatv2_pyg.ops.checks import DTYPES
from gatv2_pyg.ops.scatter import load_operations
from gatv2_pyg.selfcheck import compare_with_reference

BACKENDS = ("auto", "fused", "triton", "scatter", "reference")


class _Entry:
    """One :func:`use_backend` that is in force."""

    def __init__(self, name: str) -> None:
        self.name = name


_in_force: contextvars.ContextVar[tuple[_Entry, ...]] = contextvars.ContextVar(
    "gatv2_pyg.use_backend", default=()
)
"""Those of a thread or an asyncio task, the innermost last."""


class _Entered(threading.local):
    """Those of a thread, the innermost last, for code that ``torch.compile`` traces.

    It can guard on these, not on a context variable.
    """

    def __init__(self) -> None:
        self.entries: list[_Entry] = []


_entered = _Entered()


class Backend(NamedTuple):
    """The path a call takes."""

    name: str
    """``"fused"``, ``"triton"``, ``"scatter"`` or ``"reference"``."""
    reason: str
    """Why this one; under ``"auto"``, also why none of those before it."""
    kernels: str | None = None
    """The module of :mod:`gatv2_pyg.kernels` that runs it, for the fused ones."""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


_FUSED = {
    kind: {
        dtype: Backend("fused", f"fused kernels run {dtype} on {kind}", kernels) for dtype in DTYPES
    }
    for kind, kernels in (("cpu", "cpu"), ("cuda", "triton"))
}


def check_backend_name(name: str) -> str:
    """Returns ``name``; raises ValueError unless it is one of :data:`BACKENDS`."""
    if name not in BACKENDS:
        raise ValueError(f"Expected 'backend' to be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Context manager: all layers and :func:`gatv2_pyg.gatv2_attention` use this backend.

    It goes before a layer's own ``backend`` and holds for the current thread, and in it for the
    current :mod:`asyncio` task and those that it starts.  Code compiled by ``torch.compile`` goes
    by the thread alone.

    Args:
        name: ``"fused"`` (C++ on CPU, Triton on CUDA), ``"triton"`` (on CPU tensors too, when
            ``TRITON_INTERPRET=1`` was set before Triton was imported), ``"scatter"``
            (``torch_scatter``, else pyg-lib), ``"reference"`` (plain torch) or ``"auto"`` (the
            first of fused, scatter, reference that applies).  Any but ``"auto"`` raises where it
            can't be used.

    Raises:
        ValueError: the name is unknown.
    """
    entry, entries = _Entry(check_backend_name(name)), _entered.entries
    traced = torch.compiler.is_dynamo_compiling()
    entries.append(entry)
    if not traced:
        _in_force.set((*_in_force.get(), entry))
    try:
        yield
    finally:
        # Those that overlap leave in any order.
        entries.remove(entry)
        if not traced:
            _in_force.set(tuple(other for other in _in_force.get() if other is not entry))


def requested_backend(own: str) -> str:
    """The name in force: that of :func:`use_backend`, else the caller's own, checked."""
    return backend_in_force() or check_backend_name(own)


def backend_in_force() -> str | None:
    """The name of the innermost :func:`use_backend`, if there is one."""
    if torch.compiler.is_dynamo_compiling():
        entries: Sequence[_Entry] = _entered.entries
    else:
        entries = _in_force.get()
    return entries[-1].name if entries else None


def select_backend(
    name: str, device: torch.device, dtype: torch.dtype, channels: int = 1
) -> Backend:
    """The backend for features of this device, dtype and number of channels a head.

    Raises:
        RuntimeError: a backend asked for by name can't be used; the message says why.

    Warns:
        RuntimeWarning: ``"auto"`` takes the reference on CPU because the compiled kernels are
            missing (once a process).
    """
    if name != "auto":
        reason = refusal(name, device, dtype, channels)
        if reason is not None:
            raise RuntimeError(f"backend={name!r} can't be used: {reason}")
        return Backend(name, "asked for by name", _kernels_of(name, device))
    reasons: list[str] = []
    for candidate in ("fused", "scatter"):
        reason = refusal(candidate, device, dtype, channels)
        if reason is None:
            kernels = _kernels_of(candidate, device)
            reason = _self_check(str(device), dtype) if kernels == "triton" else None
        if reason is None:
            if not reasons and kernels is not None and dtype in DTYPES:
                return _FUSED[device.type][dtype]
            return Backend(candidate, "; ".join(reasons) or candidate, kernels)
        reasons.append(f"not {candidate}: {reason}")
    if device.type == "cpu":
        _warn_of_missing_kernels()
    return Backend("reference", "; ".join(reasons))


def refusal(name: str, device: torch.device, dtype: torch.dtype, channels: int = 1) -> str | None:
    """Why the backend can't take such features; None if it can."""
    if name == "reference":
        return None
    if name == "fused" and device.type == "cpu" and channels > 0 and _nothing_follows():
        return _unavailable("cpu")
    if _transforms_active():
        return "torch.func transforms and forward-mode AD need operations that torch can follow"
    if not torch.compiler.is_dynamo_compiling():
        tracing = torch.jit.is_tracing()
        # Both exporters trace, or compile.
        if (tracing or torch.compiler.is_compiling()) and torch.onnx.is_in_onnx_export():
            return "ONNX has no operator for it"
        if tracing:
            return "torch.jit.trace needs operations that every runtime has"
    if name == "scatter":
        return _scatter_refusal(device)
    if channels == 0:
        return "rows without channels leave nothing to fuse"
    if name == "fused" and device.type not in ("cpu", "cuda"):
        return f"there are no fused kernels for {device.type} tensors"
    kernels = _kernels_of(name, device)
    reason = _unavailable(kernels)
    if reason is None and kernels == "triton":
        reason = _triton_refusal(str(device), dtype, channels)
    return reason


def _scatter_refusal(device: torch.device) -> str | None:
    if torch.compiler.is_compiling():
        return "the operators of torch_scatter and pyg-lib can't be traced by torch.compile"
    if device.type not in ("cpu", "cuda"):
        return f"torch_scatter and pyg-lib have no operators for {device.type} tensors"
    reasons = []
    for library in ("torch_scatter", "pyg_lib"):
        reason = _missing(library)
        if reason is None:
            return _without_cuda(library, device.type)
        reasons.append(reason)
    return "; ".join(reasons)


def _kernels_of(name: str, device: torch.device) -> str | None:
    if name == "triton" or (name == "fused" and device.type == "cuda"):
        return "triton"
    return "cpu" if name == "fused" else None


def _nothing_follows() -> bool:
    """Whether no transform, tracer or compiler follows the operations of a call."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or _transforms_active()
    )


def _transforms_active() -> bool:
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_dynamo_compiling() and (
        torch.autograd.forward_ad._current_level >= 0
    )


@torch.compiler.assume_constant_result
def _missing(library: str) -> str | None:
    try:
        load_operations(library)
    except (ImportError, OSError) as error:
        return f"{library} can't be imported ({error})"
    return None


@torch.compiler.assume_constant_result
def _without_cuda(library: str, device_type: str) -> str | None:
    if device_type == "cuda":
        namespace = torch.ops.pyg if library == "pyg_lib" else torch.ops.torch_scatter
        if namespace.cuda_version() == -1:
            return f"{library} was built without CUDA"
    return None


@torch.compiler.assume_constant_result
def _unavailable(kernels: str) -> str | None:
    try:
        return load_kernels(kernels).unavailable()
    except ImportError as error:
        return str(error)


@torch.compiler.assume_constant_result
def _triton_refusal(device: str, dtype: torch.dtype, channels: int) -> str | None:
    return load_kernels("triton").unsupported(torch.device(device), dtype, channels)


@torch.compiler.assume_constant_result
def _self_check(device: str, dtype: torch.dtype) -> str | None:
    if (device, dtype) not in _checked:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return "its kernels are checked at their first call, which can't be captured: warm up"
        _checked[device, dtype] = _run_self_check(device, dtype)
    return _checked[device, dtype]


_checked: dict[tuple[str, torch.dtype], str | None] = {}


def _run_self_check(device: str, dtype: torch.dtype) -> str | None:
    failures = compare_with_reference("triton", torch.device(device), dtype)
    return f"on {device} its kernels failed their self-check ({failures})" if failures else None


@torch.compiler.assume_constant_result
def _warn_of_missing_kernels() -> None:
    _warn_of_missing_kernels_once()


@functools.cache
def _warn_of_missing_kernels_once() -> None:
    reason = _unavailable("cpu")
    if reason is not None:
        warnings.warn(
            "gatv2_pyg runs without its compiled CPU kernels, slower and with more memory: "
            f"{reason}",
            RuntimeWarning,
            stacklevel=2,
        )
