"""When a layer must run PyG's message passing step by step."""

from __future__ import annotations

import torch
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear

_STEPS = (
    "message",
    "edge_update",
    "aggregate",
    "update",
    "message_and_aggregate",
    "propagate",
    "edge_updater",
)
_HOOKED = ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")


def why_message_passing(layer: MessagePassing, base: type) -> str | None:
    """Why fusing would change what a user of ``layer`` sees; None if it would not.

    Args:
        layer: an instance of ``base``.
        base: the class whose own steps the fused kernels compute.
    """
    if layer.explain:
        return "'explain' is on"
    for step in _HOOKED:
        for kind in ("pre_hooks", "hooks"):
            if getattr(layer, f"_{step}_forward_{kind}"):
                return f"a {step} hook is registered"
    for step in _STEPS:
        if _overrides(layer, base, step):
            return f"'{step}' is overridden"
    if type(layer.aggr_module) is not SumAggregation:
        return f"the aggregation is {layer.aggr_module}, not the sum"
    if layer.decomposed_layers > 1:
        return f"there are {layer.decomposed_layers} decomposed layers"
    edge = layer.lin_edge
    if edge is not None and (type(edge) is not Linear or edge.bias is not None or _hooked(edge)):
        return "'lin_edge' is not a plain linear map"
    return None


def _overrides(layer: MessagePassing, base: type, step: str) -> bool:
    own = vars(layer).get(step)
    if own is not None and not _generated(own):
        return True
    for cls in type(layer).__mro__:
        if cls is base:
            return False
        if step in vars(cls) and not _generated(vars(cls)[step]):
            return True
    return False


def _generated(function) -> bool:
    """Whether PyG put this ``propagate`` or ``edge_updater`` there, from a template or its own."""
    module = getattr(function, "__module__", None) or ""
    return module.endswith(("_propagate", "_edge_updater")) or module.startswith("torch_geometric.")


def _hooked(module: torch.nn.Module) -> bool:
    """Whether someone waits for a call of the module."""
    own = hasattr(module, "_hook")  # PyG's pre-hook that finds a lazy size
    return (
        len(module._forward_pre_hooks) > own
        or bool(module._forward_hooks)
        or bool(module._backward_hooks)
        or bool(module._backward_pre_hooks)
        or torch.nn.modules.module._has_any_global_hook()
    )
