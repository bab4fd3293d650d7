"""A layer on one set of nodes at once: its maps, its attention and its bias, on the CPU.

On small graphs the checks of a call, and the search for its graph, take as long as its kernels.
What they found is true of the next call too where nothing that they look at has changed: options
of the layer, told by their values; maps, told by being bare; and tensors, which the step in C++
looks at itself, where indices and edge features are confirmed by their hashes.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing

from gatv2_pyg.backends import requested_backend
from gatv2_pyg.graph import Graph
from gatv2_pyg.graph.adjacency import Known, Neighbours, known_neighbours
from gatv2_pyg.inputs import is_bare_map
from gatv2_pyg.ops import joined
from gatv2_pyg.passing import is_observed, why_message_passing

_options_of = attrgetter(
    "negative_slope",
    "dropout",
    "fill_value",
    "heads",
    "out_channels",
    "concat",
    "add_self_loops",
    "edge_dim",
    "flow",
    "share_weights",
)
_NUMBERS = frozenset((int, float))
_FILL_VALUES = frozenset((int, float, str, type(None)))
_MOST_KEPT = 256
_checked: set[tuple] = set()
"""What :func:`_setting` told of calls that passed all checks and took the step in C++."""


class Maps(NamedTuple):
    """The linear maps of a layer."""

    lin_l: Any
    lin_r: Any
    """None where ``lin_l`` stands in its place."""


class _EdgeFeatures(NamedTuple):
    edge_attr: Tensor | None
    """By id."""
    edge_weight: Tensor | None
    origin: Tensor | None
    """What was passed, if ``edge_attr`` was made of it; it must have the hash."""
    hash: int


def first(
    layer: MessagePassing,
    x: Tensor,
    maps: Maps,
    neighbours: Neighbours,
    graph: Graph,
    edge_features: tuple[Tensor | None, Tensor | None],
    attn_bias: Tensor | None,
) -> Tensor | None:
    """The output of a call that passed all checks; None where others must compute it.

    Args:
        layer: what was called.
        x: ``[*, N, F]`` features.
        maps: those that ``layer`` and ``x`` :func:`can_be` called with.
        neighbours: what was passed for edges.
        graph: the edges.
        edge_features: those of the edges by id, and the weight of their map, if any.
        attn_bias: ``[K]`` or ``[K, H]``, if any.
    """
    if attn_bias is not None and attn_bias.dim() == 1:
        attn_bias = attn_bias[:, None]
    edge_attr, edge_weight = edge_features
    call = _prepared(layer, x, maps, graph, edge_attr, edge_weight, attn_bias)
    out = joined.step(call)
    if out is None:
        return joined.layer(call)
    if type(neighbours.edge_index) is Tensor:
        _note(_setting(layer, x.dtype))
        neighbours.know(graph, edge_attr)
    return out


def again(
    layer: MessagePassing, base: type, x: Any, edge_index: Any, edge_attr: Any
) -> Tensor | None:
    """The output of a call like one before; None where the checks are to be made.

    Args:
        layer: what is called, an instance of ``base``.
        base: the class whose own steps the kernels compute.
        x: not checked, as all that follow.
        edge_index: the adjacency.
        edge_attr: features of the edges, if any.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.dim() != 2:
        return None
    known = known_neighbours(edge_index, x.size(0), layer.add_self_loops, layer.flow)
    if known is None or _setting(layer, x.dtype) not in _checked:
        return None
    maps = _maps_of(layer)
    if (
        maps is None
        or is_observed()
        or why_message_passing(layer, base) is not None
        or not can_be(layer, x, maps)
    ):
        return None
    features = _known_features(layer, known, edge_attr)
    if features is None:
        return None
    given, weight, origin, of_features = features
    call = _prepared(layer, x, maps, known.value, given, weight, None)
    return joined.step(call, (edge_index, origin, known.hash, of_features))


def can_be(layer: MessagePassing, x: Tensor, maps: Maps) -> bool:
    """Whether nothing would see the operations of the maps and of the layer's other steps."""
    lin_l, lin_r = maps
    return (
        layer.bias is not None
        and joined.takes(x)
        and is_bare_map(lin_l)
        and (lin_r is None or is_bare_map(lin_r))
    )


def _maps_of(layer: MessagePassing) -> Maps | None:
    """The maps of a layer without a residual; None if there are none, or another."""
    modules = layer._modules
    lin_l, lin_r = modules.get("lin_l"), modules.get("lin_r")
    if lin_l is None or lin_r is None or layer._parameters.get("res", layer) is not None:
        return None
    return Maps(lin_l, None if layer.share_weights else lin_r)


def _known_features(layer: MessagePassing, known: Known, edge_attr: Any) -> _EdgeFeatures | None:
    """Features by edge id; None where they are to be made, or wrong."""
    if (edge_attr is None) != (layer.edge_dim is None):
        return None
    if edge_attr is None:
        return _EdgeFeatures(None, None, None, 0)
    lin_edge = layer.lin_edge
    if lin_edge is None:
        return None
    weight = lin_edge._parameters.get("weight")
    if not layer.add_self_loops:
        return _EdgeFeatures(edge_attr, weight, None, 0)
    features = known.features
    if (
        features is None
        or features.edge_attr() is not edge_attr
        or features.fill_value != layer.fill_value
    ):
        return None
    return _EdgeFeatures(features.filled, weight, edge_attr, features.hash)


def _prepared(
    layer: MessagePassing,
    x: Tensor,
    maps: Maps,
    graph: Graph,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    attn_bias: Tensor | None,
) -> joined.Call:
    lin_l, lin_r = maps
    of_l, of_r = lin_l._parameters, {} if lin_r is None else lin_r._parameters
    weight, bias = of_l["weight"], of_l["bias"]
    grad = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    return joined.Call(
        joined.Arguments(
            x,
            weight,
            bias,
            of_r.get("weight"),
            of_r.get("bias"),
            layer.att,
            layer.bias,
            edge_attr,
            edge_weight,
            attn_bias,
        ),
        graph.edges(with_sources=grad),
        graph.num_src,
        layer.concat,
        layer.heads,
        layer.out_channels,
        layer.negative_slope,
        layer.dropout if layer.training else 0.0,
    )


def _setting(layer: MessagePassing, dtype: torch.dtype) -> tuple | None:
    """All but modules and tensors that the checks of a call look at; None if that has no end."""
    options = _options_of(layer)
    slope, dropout, fill_value = map(type, options[:3])
    if slope not in _NUMBERS or dropout not in _NUMBERS or fill_value not in _FILL_VALUES:
        return None
    return type(layer), dtype, requested_backend(layer.backend), slope, dropout, *options


def _note(setting: tuple | None) -> None:
    """Keeps the setting of a call, which needs no checks any more."""
    if setting is not None:
        if len(_checked) >= _MOST_KEPT:
            _checked.clear()
        _checked.add(setting)
