"""Checks of a layer's arguments: each error names the argument, what was expected, what came."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, UninitializedParameter
from torch_geometric.typing import Adj
from torch_geometric.utils import is_sparse

from gatv2_pyg.graph.adjacency import count_edges, has_features


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a linear map of ``x``: that of autocast where it is on."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def is_lazy(lin) -> bool:
    """Whether a linear map still waits for its first input to know its size."""
    return isinstance(getattr(lin, "weight", None), UninitializedParameter)


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
    if x_l.dtype != x_r.dtype:
        raise TypeError(
            f"Expected 'x[1]' to have the dtype {x_l.dtype}, as 'x[0]', got {x_r.dtype}"
        )
    return x_l, x_r


def check_feature_size(name: str, x, lin) -> None:
    """Raises unless ``x`` is a ``[N, F]`` tensor that ``lin`` takes."""
    if not isinstance(x, Tensor):
        raise TypeError(f"Expected '{name}' to be a Tensor, got {_describe(x)}")
    check_not_distributed(name, x)
    size = getattr(lin, "in_channels", -1)
    if x.dim() != 2 or (size > 0 and x.size(1) != size):
        want = size if size > 0 else "num_features"
        raise ValueError(
            f"Expected '{name}' to have the shape [num_nodes, {want}], got {list(x.shape)}"
        )
    check_like_weight(name, x, lin)


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


def check_like_weight(name: str, value: Tensor, lin) -> None:
    """Raises unless ``value`` has the device and (but for autocast) the dtype of ``lin``."""
    weight = getattr(lin, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if value.device != weight.device:
        raise ValueError(
            f"Expected '{name}' to be on {weight.device}, as the layer, got {value.device}"
        )
    if value.dtype == weight.dtype:
        return
    if not (value.is_floating_point() and torch.is_autocast_enabled(value.device.type)):
        raise TypeError(
            f"Expected '{name}' to have the dtype {weight.dtype}, as the layer, got {value.dtype}"
        )


def check_edge_attr(
    edge_attr: Tensor | None,
    edge_index: Adj,
    edge_dim: int | None,
    x: Tensor,
    lin_edge,
    integers_allowed: bool,
) -> None:
    """Raises unless ``edge_attr`` gives ``edge_dim`` features to each edge, or none is given.

    Integers are features where those of self-loops, which are not, make them so.
    """
    if edge_attr is None:
        if edge_dim is None and is_sparse(edge_index) and has_features(edge_index):
            raise ValueError(
                "Expected 'edge_index' to have no values that are edge features, since the layer "
                "was made without 'edge_dim'"
            )
        return
    if edge_dim is None:
        raise ValueError(
            "Expected no 'edge_attr', since the layer was made without 'edge_dim', got "
            f"{_describe(edge_attr)}"
        )
    if not isinstance(edge_attr, Tensor):
        raise TypeError(f"Expected 'edge_attr' to be a Tensor, got {_describe(edge_attr)}")
    check_not_distributed("edge_attr", edge_attr)
    num_edges, shape = count_edges(edge_index), list(edge_attr.shape)
    size = getattr(lin_edge, "in_channels", edge_dim)
    known = size > 0 and not is_lazy(lin_edge)
    flat = shape == [num_edges] and (not known or size == 1)
    if not flat and (len(shape) != 2 or shape[0] != num_edges or (known and shape[1] != size)):
        want = f"[{num_edges}, {size if known else 'edge_dim'}]"
        raise ValueError(f"Expected 'edge_attr' to have the shape {want}, got {shape}")
    if edge_attr.device != x.device:
        raise ValueError(
            f"Expected 'edge_attr' to be on {x.device}, as 'x', got {edge_attr.device}"
        )
    integers = not (edge_attr.is_floating_point() or edge_attr.is_complex())
    if not (integers and integers_allowed):
        check_like_weight("edge_attr", edge_attr, lin_edge)


def _describe(value) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of shape {list(value.shape)}"
    return type(value).__name__
