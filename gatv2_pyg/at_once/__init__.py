"""A layer on one set of nodes at once: its maps, its attention and its bias, on the CPU.

On small graphs the checks of a call, and the search for its graph, take as long as its kernels.
What they found is true of the next call too where nothing that they look at has changed: options
of the layer, told by their values; maps, told by being bare; and tensors, which the step in C++
looks at itself, where indices and edge features are confirmed by their hashes.  Edges that are new
are grouped in C++ at once, with those hashes.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.nn.conv import MessagePassing

from gatv2_pyg.at_once.edges import edges_of
from gatv2_pyg.backends import backend_in_force
from gatv2_pyg.graph import Graph
from gatv2_pyg.graph.adjacency import Neighbours
from gatv2_pyg.inputs import is_bare_map, part_of
from gatv2_pyg.ops import joined
from gatv2_pyg.passing import is_observed, why_message_passing

_options_of = attrgetter(
    "dropout",
    "fill_value",
    "heads",
    "out_channels",
    "concat",
    "add_self_loops",
    "edge_dim",
    "flow",
    "share_weights",
    "backend",
)
_PLAIN = frozenset((bool, int, float, str, type(None)))
"""Types of options whose values tell all."""
_MOST_KEPT = 256
_checked: WeakKeyDictionary[type, set[tuple]] = WeakKeyDictionary()
"""By class, what :func:`_setting` told of calls that passed all checks and took the step in C++."""


class Maps(NamedTuple):
    """The linear maps of a layer."""

    lin_l: Any
    lin_r: Any
    """None where ``lin_l`` stands in its place."""


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
        _note(type(layer), _setting(layer))
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
    if torch.compiler.is_compiling() or type(x) is not Tensor or type(edge_index) is not Tensor:
        return None
    try:
        found = _known_call(layer, base, x, edge_index, edge_attr)
    except AttributeError:  # the checks tell what the layer lacks, and what else is wrong
        return None
    return None if found is None else joined.step(*found)


def _known_call(
    layer: MessagePassing, base: type, x: Tensor, edge_index: Tensor, edge_attr: Any
) -> tuple[joined.Call, joined.Origin | None] | None:
    setting = _setting(layer)
    if x.dim() != 2 or setting is None or setting not in _checked.get(type(layer), ()):
        return None
    maps = _maps_of(layer)
    if (
        maps is None
        or is_observed()
        or why_message_passing(layer, base) is not None
        or not can_be(layer, x, maps)
        or (edge_attr is None) != (layer.edge_dim is None)
    ):
        return None
    weight = None
    if edge_attr is not None:
        lin_edge = layer.lin_edge
        weight = lin_edge.weight
        if type(edge_attr) is not Tensor or type(weight) is not Parameter:
            return None
        if lin_edge.in_channels != weight.size(-1):
            return None
    found = edges_of(layer, x.size(0), edge_index, edge_attr, _needs_sources(x, maps))
    if found is None:
        return None
    graph, given, origin = found
    return _prepared(layer, x, maps, graph, given, weight, None), origin


def can_be(layer: MessagePassing, x: Tensor, maps: Maps) -> bool:
    """Whether nothing would see the operations of the maps and of the layer's other steps."""
    lin_l, lin_r = maps
    return (
        layer.bias is not None
        and layer.att is not None
        and joined.takes(x)
        and is_bare_map(lin_l)
        and (lin_r is None or is_bare_map(lin_r))
    )


def _maps_of(layer: MessagePassing) -> Maps | None:
    """The maps of a layer without a residual; None where they are to be checked."""
    lin_l, lin_r, res = (part_of(layer, name) for name in ("lin_l", "lin_r", "res"))
    if res is not None or (layer.share_weights and lin_r is not lin_l):
        return None
    return Maps(lin_l, None if layer.share_weights else lin_r)


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
    return joined.Call(
        joined.Arguments(
            x,
            of_l["weight"],
            of_l["bias"],
            of_r.get("weight"),
            of_r.get("bias"),
            layer.att,
            layer.bias,
            edge_attr,
            edge_weight,
            attn_bias,
        ),
        graph.edges(with_sources=_needs_sources(x, maps)),
        graph.num_src,
        layer.concat,
        layer.heads,
        layer.out_channels,
        layer.negative_slope,
        layer.dropout if layer.training else 0.0,
    )


def _needs_sources(x: Tensor, maps: Maps) -> bool:
    """Whether backward goes over the edges by source."""
    of_l = maps.lin_l._parameters
    weight, bias = of_l["weight"], of_l["bias"]
    return torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )


def _setting(layer: MessagePassing) -> tuple | None:
    """All but modules and tensors that the checks of a call look at; None if that has no end."""
    options = _options_of(layer)
    types = tuple(map(type, options))
    if not _PLAIN.issuperset(types):
        return None
    return backend_in_force(), types, options


def _note(cls: type, setting: tuple | None) -> None:
    """Keeps the setting of a call, which needs no checks any more."""
    if setting is not None:
        settings = _checked.setdefault(cls, set())
        if len(settings) >= _MOST_KEPT:
            settings.clear()
        settings.add(setting)
