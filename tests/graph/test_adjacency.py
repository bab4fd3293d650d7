"""What a layer makes of an adjacency."""

from __future__ import annotations

import pytest
import torch

from gatv2_pyg.graph.adjacency import Neighbours


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_ids_name_the_edges_that_are_returned(flow):
    edge_index = torch.tensor([[0, 1, 2, 2, 0], [1, 1, 0, 2, 1]])
    edge_attr = torch.arange(5.0)
    neighbours = Neighbours.of(
        edge_index,
        edge_attr,
        num_src=3,
        num_dst=3,
        self_loops=True,
        fill_value=-1.0,
        flow=flow,
    )
    adj, ids = neighbours.with_self_loops()
    assert ids.tolist() == [0, 2, 4, 5, 6, 7]
    assert adj.tolist() == [[0, 2, 0, 0, 1, 2], [1, 0, 1, 0, 1, 2]]
    assert neighbours.features().tolist() == [0, 1, 2, 3, 4, -1, -1, -1]


@pytest.mark.parametrize(("num_src", "num_dst"), [(3, 5), (5, 3)])
def test_only_nodes_of_both_kinds_get_self_loops(num_src, num_dst):
    """The edges of the others, numbered as if they were one kind, add nothing to the features."""
    edge_index = torch.tensor([[0, 1, 2, 2], [1, num_dst - 1, num_dst - 2, 0]])
    neighbours = Neighbours.of(
        edge_index,
        torch.tensor([1.0, 2.0, 4.0, 8.0]),
        num_src=num_src,
        num_dst=num_dst,
        self_loops=True,
        fill_value="mean",
        flow="source_to_target",
    )
    adj, ids = neighbours.with_self_loops()
    assert ids.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert adj[:, 4:].tolist() == [[0, 1, 2], [0, 1, 2]]
    loops = neighbours.features()[4:].tolist()
    assert loops == ([8, 1, 0] if num_dst == 5 else [8, 2.5, 2])
    assert neighbours.graph().num_ids == 7
