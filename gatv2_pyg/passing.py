"""Which path a layer takes: fused attention, or PyG's message passing step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear

from gatv2_pyg.backends import Backend, requested_backend, select_backend
from gatv2_pyg.inputs import autocasts
from gatv2_pyg.ops.checks import holds_slope

_STEPS = (
    "message",
    "edge_update",
    "aggregate",
    "update",
    "message_and_aggregate",
    "propagate",
    "edge_updater",
)
# The attributes that hold the hooks of each step.
_HOOKS = {
    f"_{step}_forward_{kind}": step
    for step in ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
    for kind in ("pre_hooks", "hooks")
}


def choose_backend(layer: MessagePassing, base: type, x: Tensor) -> Backend:
    """The backend for a call of ``layer`` on features ``x``.

    Args:
        layer: an instance of ``base``.
        base: the class whose own steps the fused kernels compute.
        x: ``[N, F]`` features that go through the layer's maps.

    Raises:
        RuntimeError: a backend asked for by name can't be used; the message says why.
    """
    name = requested_backend(layer.backend)
    reason = why_message_passing(layer, base)
    if reason is None:
        dtype = _compute_dtype(x) if x.is_floating_point() else layer.att.dtype
        return select_backend(name, x.device, dtype, layer.out_channels)
    if name not in ("auto", "reference"):
        raise RuntimeError(f"backend={name!r} can't be used: {reason}")
    return Backend("reference", f"message passing: {reason}")


_observer: Callable[[MessagePassing, Backend], object] | None = None


def observe_calls(observer: Callable[[MessagePassing, Backend], object] | None) -> None:
    """Lets ``observer(layer, backend)`` know of every call of a layer, in any thread; None ends it.

    Calls in code that ``torch.compile`` or ``torch.export`` traces are not told.
    """
    global _observer
    _observer = observer


def is_observed() -> bool:
    """Whether there is an observer."""
    return _observer is not None


def tell_observer(layer: MessagePassing, backend: Backend) -> None:
    """Tells the observer, if there is one, that ``layer`` takes ``backend`` for a call."""
    if _observer is not None and not torch.compiler.is_compiling():
        _observer(layer, backend)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a linear map of ``x``: that of autocast where it is on."""
    if autocasts(x) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def why_message_passing(layer: MessagePassing, base: type) -> str | None:
    """Why fusing would change what a user of ``layer`` sees; None if it would not."""
    own, modules = vars(layer), layer._modules
    if layer.explain:
        return "'explain' is on"
    for name, step in _HOOKS.items():
        if own[name]:
            return f"a {step} hook is registered"
    for step in _STEPS:
        if step in own and not _generated(own[step]):
            return f"'{step}' is overridden"
    overridden = _overridden_step(type(layer), base)
    if overridden is not None:
        return f"'{overridden}' is overridden"
    aggregation = modules.get("aggr_module")
    if type(aggregation) is not SumAggregation:
        return f"the aggregation is {aggregation}, not the sum"
    if _hooked(aggregation):
        return "a hook is registered on 'aggr_module'"
    if layer.decomposed_layers > 1:
        return f"there are {layer.decomposed_layers} decomposed layers"
    if not holds_slope(layer.negative_slope):
        return f"'negative_slope' is {layer.negative_slope}, which float32 does not hold"
    edge = layer.lin_edge
    if edge is not None and (type(edge) is not Linear or edge.bias is not None or _hooked(edge)):
        return "'lin_edge' is not a plain linear map"
    return None


def _overridden_step(cls: type, base: type) -> str | None:
    """The first step that a class derived from ``base`` has of its own."""
    if cls is base:
        return None
    derived = list(itertools.takewhile(lambda parent: parent is not base, cls.__mro__))
    for step in _STEPS:
        if any(step in vars(parent) and not _generated(vars(parent)[step]) for parent in derived):
            return step
    return None


def _generated(function) -> bool:
    """Whether PyG put this ``propagate`` or ``edge_updater`` there, from a template or its own."""
    module = getattr(function, "__module__", None) or ""
    return module.endswith(("_propagate", "_edge_updater")) or module.startswith("torch_geometric.")


def _hooked(module: torch.nn.Module) -> bool:
    """Whether someone waits for a call of the module."""
    own = "_hook" in vars(module)  # PyG's pre-hook that finds a lazy size
    return (
        len(module._forward_pre_hooks) > own
        or bool(module._forward_hooks)
        or bool(module._backward_hooks)
        or bool(module._backward_pre_hooks)
        or torch.nn.modules.module._has_any_global_hook()
    )
