"""Swap PyG's GATv2Conv layers inside a model for this package's, and back."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.nn.utils import parametrize
from torch_geometric.nn import MessagePassing

from gatv2_pyg.conv import OWN_STATE, PYG_LAYER, GATv2Conv

__all__ = ["to_pyg", "use_gatv2"]

_logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=torch.nn.Module)


def use_gatv2(model: Model, backend: str = "auto") -> Model:
    """Make every `torch_geometric.nn.GATv2Conv` in a model a `gatv2_pyg.GATv2Conv`, in place.

    The layers change class; they stay the same objects in the same places, whatever holds them
    (`torch_geometric.nn.GAT`, `HeteroConv`, the result of `to_hetero`, containers, the model
    itself). So parameters stay the same `Parameter` objects and optimizers stay valid, shared
    layers stay shared, and hooks and their handles, training mode, dtype, device, `requires_grad`,
    lazy (-1) sizes, parametrizations, `aggr`, `flow`, `decomposed_layers` and explain state stay
    as they are. State dicts are the same before and after.

    Left alone: subclasses of PyG's layer (they may override what it computes), TorchScript modules,
    and layers that are `gatv2_pyg.GATv2Conv` already, whatever their backend. What was swapped and
    what was not is logged to the logger `gatv2_pyg.convert`.

    Args:
        model: the model, or a single layer.
        backend: the `backend` of the swapped layers.

    Returns:
        The same `model`.

    Raises:
        TypeError: if `model` is not a `torch.nn.Module`.
        ValueError: if `backend` is unknown; nothing is swapped then.

    Warns:
        UserWarning: if the model has no layer of either class.
    """
    return _swap(model, PYG_LAYER, GATv2Conv, lambda: GATv2Conv(1, 1, backend=backend))


def to_pyg(model: Model) -> Model:
    """Undo `use_gatv2`: make every `gatv2_pyg.GATv2Conv` PyG's own again, in place.

    Everything that `use_gatv2` keeps is kept; the layers' `backend` is dropped. Subclasses of
    `gatv2_pyg.GATv2Conv` are left alone.

    Args:
        model: the model, or a single layer.

    Returns:
        The same `model`.

    Raises:
        TypeError: if `model` is not a `torch.nn.Module`.

    Warns:
        UserWarning: if the model has no layer of either class.
    """
    return _swap(model, GATv2Conv, PYG_LAYER, lambda: PYG_LAYER(1, 1))


def _swap(
    model: Model,
    old: type[MessagePassing],
    new: type[MessagePassing],
    make: Callable[[], MessagePassing],
) -> Model:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"Expected 'model' to be a torch.nn.Module, got {type(model).__name__}")
    with torch.device("meta"):
        template = make()  # refuses bad arguments before anything is changed

    found = False
    for name, module in model.named_modules():
        layer = _layer_class(module)
        if layer is old:
            _change_class(module, old, new, template)
            _logger.info("swapped %r: %s -> %s", name, old.__module__, new.__module__)
        elif layer is not new and isinstance(module, PYG_LAYER):
            _logger.info("left %r alone: %s is a subclass", name, type(module).__qualname__)
        found = found or layer in (old, new)
    if not found:
        warnings.warn(
            f"{type(model).__name__} has no GATv2Conv layer (subclasses are left alone): "
            "nothing was swapped",
            stacklevel=3,
        )
    return model


def _layer_class(module: torch.nn.Module) -> type:
    """The module's class; for one with parametrized tensors the class it was made from."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def _change_class(
    module: Any, old: type[MessagePassing], new: type[MessagePassing], template: MessagePassing
) -> None:
    """Make a layer of class `old` one of class `new`, of which `template` is a fresh one.

    Parameters, buffers, submodules, hooks and settings stay in the instance untouched. What depends
    on the class is replaced: what only one of the two classes has, the inspected signatures, and
    `propagate` where explaining or decomposition bound the class's own.
    """
    explain, decomposed_layers = module.explain, module.decomposed_layers
    state = vars(module)
    for name in OWN_STATE:
        state.pop(name, None)
        if name in vars(template):
            state[name] = vars(template)[name]
    for name in ("inspector", "_user_args", "_fused_user_args", "_edge_user_args"):
        state[name] = vars(template)[name]

    bound = state.get("propagate")
    if getattr(bound, "__func__", None) in (old._orig_propagate, old._jinja_propagate):
        del state["propagate"]

    if type(module) is old:
        module.__class__ = new
    else:  # parametrize's class: a bare subclass, the tensors being its properties
        namespace = {
            k: v for k, v in vars(type(module)).items() if k not in ("__module__", "__doc__")
        }
        module.__class__ = type(f"Parametrized{new.__name__}", (new,), namespace)

    # The setters inspect the explanation's signature and bind the new class's `propagate`.
    state["_explain"], state["_decomposed_layers"] = None, 1
    module.decomposed_layers = decomposed_layers
    module.explain = explain
