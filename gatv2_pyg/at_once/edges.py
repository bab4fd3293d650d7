"""The edges of a call that is not checked: those of one before, or new ones, grouped in C++."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch_geometric.nn.conv import MessagePassing

from gatv2_pyg.graph import Graph
from gatv2_pyg.graph.adjacency import (
    known_features,
    known_neighbours,
    learn_features,
    learn_neighbours,
)
from gatv2_pyg.graph.cache import Known, graph_cache_is_on
from gatv2_pyg.graph.grouping import source_blocks
from gatv2_pyg.graph.loops import is_mean
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.plain import are_plain
from gatv2_pyg.ops import native
from gatv2_pyg.ops.joined import Origin


class Edges(NamedTuple):
    """What a step takes of a call's edges."""

    graph: Graph
    features: Tensor | None
    """By edge id, if any."""
    origin: Origin | None
    """What is to be confirmed, if anything."""


def edges_of(
    layer: MessagePassing,
    num_nodes: int,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    with_sources: bool,
) -> Edges | None:
    """The edges of a call on one set of nodes; None where the checks are to find them.

    Args:
        layer: of options that passed the checks.
        num_nodes: of those.
        edge_index: not checked, of no subclass.
        edge_attr: likewise.
        with_sources: whether backward goes over the edges by source.
    """
    known = known_neighbours(edge_index, num_nodes, bool(layer.add_self_loops), layer.flow)
    if known is None:
        return _new(layer, num_nodes, edge_index, edge_attr, with_sources)
    return _known(layer, known, edge_index, edge_attr)


def _known(
    layer: MessagePassing, known: Known, edge_index: Tensor, edge_attr: Tensor | None
) -> Edges | None:
    graph = known.value
    if edge_attr is None or not layer.add_self_loops:
        return Edges(graph, edge_attr, Origin(edge_index, known.hash, None, 0))
    features = known_features(graph, layer.fill_value, layer.flow)
    if features is None:
        return None
    given, of_attr = features
    return Edges(graph, given, Origin(edge_index, known.hash, edge_attr, of_attr))


def _new(
    layer: MessagePassing,
    num_nodes: int,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    with_sources: bool,
) -> Edges | None:
    compiled = native.operators()
    if compiled is None or not graph_cache_is_on() or not are_plain((edge_index, edge_attr)):
        return None
    loops, flow, fill_value = bool(layer.add_self_loops), layer.flow, layer.fill_value
    sources_first = flow == "source_to_target"
    to_fill, mean = edge_attr if loops else None, is_mean(fill_value)
    if edge_index.dim() != 2:
        return None
    if to_fill is not None:
        width = layer.lin_edge.weight.size(-1)
        if mean is None or not sources_first or to_fill.shape[1:] != (width,):
            return None
    num_ids = edge_index.size(1) + (num_nodes if loops else 0)
    blocks = source_blocks(num_nodes, num_nodes, num_ids) if with_sources else 0
    by_dst, by_src, filled, of_rows, of_attr = compiled.layer_graph(
        edge_index, num_nodes, loops, sources_first, blocks, to_fill, bool(mean)
    )
    if not by_dst:
        return None
    graph = Graph._of_grouped(Rows(*by_dst), Rows(*by_src) if by_src else None, num_ids)
    learn_neighbours(edge_index, of_rows, graph, loops, flow)
    if to_fill is None or filled is None:
        return Edges(graph, edge_attr, None)
    learn_features(graph, fill_value, flow, to_fill, of_attr, filled)
    return Edges(graph, filled, None)
