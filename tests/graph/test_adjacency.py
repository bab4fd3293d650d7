"""Self-loop features in a fixed order, and what a layer makes of an adjacency."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.utils import scatter

from gatv2_pyg.graph.adjacency import Neighbours, reduce_in_order


@pytest.mark.parametrize("reduce", ["sum", "add", "mean", "mul"])
@pytest.mark.parametrize("size", [(), (3,)])
def test_reductions_in_order_are_those_of_pyg(reduce, size):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(50, *size, generator=rng, dtype=torch.float64, requires_grad=True)
    group = torch.randint(8, (50,), generator=rng)
    got = reduce_in_order(rows, group, 9, reduce)
    want = scatter(rows, group, 0, 9, reduce)
    torch.testing.assert_close(got, want)
    weight = torch.randn(want.shape, generator=rng, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad((v * weight).sum(), rows)[0] for v in (got, want))
    torch.testing.assert_close(mine, theirs)


def test_a_mean_of_one_row_is_that_row():
    rows = torch.tensor([[3.0, 5.0], [1.0, 2.0], [2.0, 8.0]])
    got = reduce_in_order(rows, torch.tensor([0, 2, 2]), 4, "mean")
    assert got.tolist() == [[3, 5], [0, 0], [1.5, 5], [0, 0]]


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_reductions_in_order_have_second_derivatives(reduce):
    rows = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    group = torch.tensor([0, 2, 2, 0, 1, 2])
    torch.autograd.gradgradcheck(lambda r: reduce_in_order(r, group, 4, reduce).sin(), rows)


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


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("fill_value", ["mean", "add", "sum", "min", "max", "mul"])
@pytest.mark.parametrize("sizes", [(6, 6), (4, 7), (7, 4), (1, 1)])
@pytest.mark.parametrize("num_edges", [0, 1, 30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64])
def test_features_of_self_loops_are_those_over_the_grouped_edges(
    flow, fill_value, sizes, num_edges, dtype
):
    rng = torch.Generator().manual_seed(num_edges)
    num_src, num_dst = sizes
    if flow == "target_to_source":
        sizes = num_src, min(sizes)
    ends = [torch.randint(size, (num_edges,), generator=rng) for size in sizes]
    edge_index = torch.stack(ends if flow == "source_to_target" else ends[::-1])
    if num_edges == 30:
        edge_index[:, :3] = 0  # loops that are replaced
    edge_attr = (torch.randn(num_edges, 2, generator=rng) * 8).to(dtype)
    neighbours = Neighbours.of(
        edge_index,
        edge_attr,
        num_src=num_src,
        num_dst=num_dst,
        self_loops=True,
        fill_value=fill_value,
        flow=flow,
    )
    features = neighbours.features(neighbours.graph())
    torch.testing.assert_close(features, neighbours.features())


def test_features_of_self_loops_of_edges_in_order():
    """The ids of such edges are not stored."""
    edge_index = torch.tensor([[1, 2, 0], [0, 0, 1]])
    graph = Neighbours.of(
        edge_index,
        None,
        num_src=3,
        num_dst=2,
        self_loops=False,
        fill_value="mean",
        flow="source_to_target",
    ).graph()
    assert graph.by_dst.edge.numel() == 0
    ids, offsets = graph.bags()
    assert ids.tolist() == [0, 1, 2]
    assert offsets.tolist() == [0, 2, 3]
