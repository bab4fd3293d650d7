"""Checks of a layer's arguments: each error names the argument, what was expected, what came."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, UninitializedParameter
from torch.nn.utils import parametrize
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.typing import Adj
from torch_geometric.utils import is_torch_sparse_tensor

from gatv2_pyg.graph.adjacency import (
    Neighbours,
    check_adjacency,
    count_edges,
    has_features,
    is_column_major,
    is_matrix,
)
from gatv2_pyg.ops.checks import check_bias, check_dropout


class Arguments(NamedTuple):
    """A layer's arguments, known to fit it."""

    x_src: Tensor
    x_dst: Tensor
    """``x_src`` itself where one tensor was passed."""
    neighbours: Neighbours
    lin_l: Any
    lin_r: Any
    lin_res: Any
    """The layer's maps, the last for the residual, if any."""


def check(
    layer, x, edge_index: Adj, edge_attr: Tensor | None, attn_bias: Tensor | None = None
) -> Arguments:
    """Checks what a layer was called with, before anything is computed.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, device or values.
        NotImplementedError: edge features come with an adjacency that can't take them.
    """
    check_dropout(layer.dropout)
    att = layer._parameters.get("att")
    check_not_distributed("att", layer.att if att is None else att)
    lin_l, lin_r, res = (part_of(layer, name) for name in ("lin_l", "lin_r", "res"))
    x_src, x_dst = check_features(x, lin_l, lin_r)
    if res is not None:
        check_feature_size("x", x_dst, res)
    check_not_distributed("edge_index", edge_index)
    check_adjacency(edge_index, layer.flow, x_src.device)
    check_edge_attr(layer, edge_attr, edge_index)
    if attn_bias is not None:
        check_not_distributed("attn_bias", attn_bias)
        _check_layout("attn_bias", layer, edge_index)
        check_bias(attn_bias, count_edges(edge_index), layer.heads, x_src)
    neighbours = Neighbours.of(
        edge_index,
        edge_attr,
        num_src=x_src.size(-2),
        num_dst=x_dst.size(-2),
        self_loops=layer.add_self_loops,
        fill_value=layer.fill_value,
        flow=layer.flow,
    )
    return Arguments(x_src, x_dst, neighbours, lin_l, lin_r, res)


def part_of(layer, name: str):
    """An attribute of a layer, a module without the search of ``Module.__getattr__``."""
    found = layer._modules.get(name)
    return getattr(layer, name) if found is None else found


def is_lazy(lin) -> bool:
    """Whether a linear map still waits for its first input to know its size."""
    return isinstance(getattr(lin, "weight", None), UninitializedParameter)


LINEAR_MAPS = {Linear: Linear.forward, torch.nn.Linear: torch.nn.Linear.forward}
"""The modules that are a product with their weight, and a bias."""

_CALL = torch.nn.Module.__call__


def is_plain_map(lin) -> bool:
    """Whether a linear map takes what its weight tells: no other module, no hook before it.

    Maps of low rank or of quantised weights, those that a hook loads or casts for, and those that
    look features up take what their weight does not tell.
    """
    cls = type(lin)
    if cls not in LINEAR_MAPS and parametrize.is_parametrized(lin):
        cls = cls.__bases__[0]
    if cls not in LINEAR_MAPS:
        return False
    hooks = len(lin._forward_pre_hooks)
    return hooks == 0 or (hooks == 1 and hasattr(lin, "_hook"))  # PyG's, which finds a lazy size


def is_bare_map(lin) -> bool:
    """Whether a call of the module is a product and a bias, and nobody waits for the call."""
    cls, own = type(lin), vars(lin)
    parameters = own["_parameters"]
    return (
        cls in LINEAR_MAPS
        and cls.forward is LINEAR_MAPS[cls]
        and cls.__call__ is _CALL
        and "forward" not in own
        and type(parameters.get("weight")) is Parameter
        and "bias" in parameters
        and not (
            own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
            or torch.nn.modules.module._has_any_global_hook()
        )
    )


def check_features(x, lin_l, lin_r) -> tuple[Tensor, Tensor]:
    """The source and destination features of ``x``, checked against the maps they go through."""
    if isinstance(x, Tensor):
        check_feature_size("x", x, lin_l)
        if lin_r is not lin_l:
            check_feature_size("x", x, lin_r)
        return x, x
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise TypeError(f"Expected 'x' to be a Tensor or a pair of them, got {_describe(x)}")
    for position, lin in enumerate((lin_l, lin_r)):
        check_feature_size(f"x[{position}]", x[position], lin)
    x_l, x_r = x
    if x_l.device != x_r.device:
        raise ValueError(f"Expected 'x[1]' to be on {x_l.device}, as 'x[0]', got {x_r.device}")
    if x_l.shape[:-2] != x_r.shape[:-2]:
        raise ValueError(
            f"Expected 'x[1]' to have the batch dimensions {list(x_l.shape[:-2])}, as 'x[0]', got "
            f"{list(x_r.shape[:-2])}"
        )
    return x_l, x_r


def check_feature_size(name: str, x, lin) -> None:
    """Raises unless ``x`` is a ``[*, N, F]`` tensor that ``lin`` takes."""
    if _plainly_fits(x, lin):
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"Expected '{name}' to be a Tensor, got {_describe(x)}")
    check_not_distributed(name, x)
    if is_torch_sparse_tensor(x) and (x.dim() != 2 or x.dense_dim() > 0):
        raise ValueError(
            f"Expected '{name}' to be dense or a sparse matrix [num_nodes, num_features] of "
            f"numbers, got {x.layout}, {list(x.shape)}, with {x.dense_dim()} dense dimensions"
        )
    size = getattr(lin, "in_channels", -1) if is_plain_map(lin) else -1
    if x.dim() < 2 or (size > 0 and x.size(-1) != size):
        want = size if size > 0 else "num_features"
        raise ValueError(
            f"Expected '{name}' to have the shape [*, num_nodes, {want}], got {list(x.shape)}"
        )
    check_like_weight(name, x, lin)


def _plainly_fits(x, lin) -> bool:
    """Whether a plain tensor fits the weight of a plain map: nearly every call, told fast."""
    if type(x) is not Tensor or type(lin) not in LINEAR_MAPS or lin._forward_pre_hooks:
        return False
    weight = lin._parameters.get("weight")
    return (
        type(weight) is Parameter
        and x.dtype == weight.dtype
        and x.device == weight.device
        and x.layout is torch.strided
        and x.dim() > 1
        and weight.dim() == 2
        and x.size(-1) == weight.size(1)
    )


def check_not_distributed(name: str, value) -> None:
    """Raises TypeError for a DTensor, which no kernel can look into."""
    if type(value) in (Tensor, Parameter) or not torch.distributed.is_available():
        return
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        raise TypeError(
            f"Expected '{name}' to be a plain Tensor, got a DTensor; run the layer on its shards "
            "by torch.distributed.tensor.experimental.local_map"
        )


def autocasts(value: Tensor) -> bool:
    """Whether a linear map of the tensor would run in autocast's dtype."""
    if value.is_cpu:
        return torch.is_autocast_enabled("cpu")
    kind = value.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def check_like_weight(name: str, value: Tensor, lin) -> None:
    """Raises unless ``value`` has the device and (but for autocast) the dtype of a plain map."""
    weight = getattr(lin, "weight", None) if is_plain_map(lin) else None
    if not isinstance(weight, Tensor):
        return
    if value.device != weight.device:
        raise ValueError(
            f"Expected '{name}' to be on {weight.device}, as the layer, got {value.device}"
        )
    if value.dtype == weight.dtype:
        return
    if not (value.is_floating_point() and autocasts(value)):
        raise TypeError(
            f"Expected '{name}' to have the dtype {weight.dtype}, as the layer, got {value.dtype}"
        )


def check_edge_attr(layer, edge_attr: Tensor | None, edge_index: Adj) -> None:
    """Raises unless ``edge_attr`` gives ``edge_dim`` features to each edge, or none is given."""
    if edge_attr is None:
        if layer.edge_dim is None and is_matrix(edge_index) and has_features(edge_index):
            raise ValueError(
                "Expected 'edge_index' to have no values that are edge features, since the layer "
                "was made without 'edge_dim'"
            )
        return
    if layer.edge_dim is None:
        raise ValueError(
            "Expected no 'edge_attr', since the layer was made without 'edge_dim', got "
            f"{_describe(edge_attr)}"
        )
    if not isinstance(edge_attr, Tensor):
        raise TypeError(f"Expected 'edge_attr' to be a Tensor, got {_describe(edge_attr)}")
    check_not_distributed("edge_attr", edge_attr)
    _check_layout("edge_attr", layer, edge_index)
    lin_edge = layer.lin_edge
    num_edges = count_edges(edge_index)
    if (
        _plainly_fits(edge_attr, lin_edge)
        and edge_attr.shape == (num_edges, getattr(lin_edge, "in_channels", -1))
        and edge_attr.device == layer.att.device
    ):
        return
    shape = list(edge_attr.shape)
    size = getattr(lin_edge, "in_channels", layer.edge_dim)
    plain = is_plain_map(lin_edge)
    known = plain and size > 0 and not is_lazy(lin_edge)
    flat = shape == [num_edges] and (not known or size == 1)
    fits = len(shape) > 0 and shape[0] == num_edges
    if plain:
        fits = fits and len(shape) == 2 and not (known and shape[1] != size)
    if not flat and not fits:
        want = f"[{num_edges}, {size if known else 'edge_dim'}]"
        raise ValueError(f"Expected 'edge_attr' to have the shape {want}, got {shape}")
    if edge_attr.device != layer.att.device:
        raise ValueError(
            f"Expected 'edge_attr' to be on {layer.att.device}, as the layer, got "
            f"{edge_attr.device}"
        )
    # Integers are features where those of self-loops, which are not, make them so.
    integers_allowed = layer.add_self_loops and layer.fill_value == "mean"
    integers = not (edge_attr.is_floating_point() or edge_attr.is_complex())
    if not (integers and integers_allowed):
        check_like_weight("edge_attr", edge_attr, lin_edge)


def _check_layout(name: str, layer, edge_index: Adj) -> None:
    """Raises unless what comes by edge can come with such an adjacency."""
    if layer.add_self_loops and is_matrix(edge_index):
        raise NotImplementedError(
            f"Expected no '{name}' with 'add_self_loops' and a sparse 'edge_index'; pass "
            "'edge_index' as a [2, num_edges] tensor"
        )
    if is_column_major(edge_index):
        raise NotImplementedError(
            f"Expected no '{name}' with an 'edge_index' in CSC layout; pass it in CSR layout or "
            "as a [2, num_edges] tensor"
        )


def _describe(value) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of shape {list(value.shape)}"
    return type(value).__name__
