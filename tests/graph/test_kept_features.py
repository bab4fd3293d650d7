"""Edge features with those of self-loops below them: kept with the graph, and when they are not."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gatv2_pyg import GATv2Conv, kernels, set_graph_cache
from gatv2_pyg.graph import adjacency
from gatv2_pyg.graph.adjacency import Neighbours

EDGES = torch.tensor([[0, 1, 2, 2, 0], [1, 1, 0, 2, 1]])

pytestmark = pytest.mark.skipif(
    kernels.cpu_kernels() is None, reason="without the compiled kernels nothing is kept"
)


@pytest.fixture(autouse=True)
def empty():
    set_graph_cache(False)
    set_graph_cache(True)
    yield
    set_graph_cache(True)


def of(edge_attr, fill_value="mean", flow="source_to_target", edge_index=EDGES):
    return Neighbours.of(
        edge_index,
        edge_attr,
        num_src=3,
        num_dst=3,
        self_loops=True,
        fill_value=fill_value,
        flow=flow,
    )


def features(edge_attr, *args, **kwargs):
    neighbours = of(edge_attr, *args, **kwargs)
    found = neighbours.features(neighbours.graph())
    torch.testing.assert_close(found, neighbours.features())
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fill_value", ["mean", "min", 0.5, None])
def test_equal_features_on_one_graph_are_made_once(dtype, fill_value):
    edge_attr = torch.randn(5, 2).to(dtype)
    first = features(edge_attr, fill_value)
    assert features(edge_attr, fill_value) is first
    assert features(edge_attr.clone(), fill_value) is first


@pytest.mark.parametrize(
    "write",
    [
        lambda a: a.mul_(2),
        lambda a: a.data.mul_(2),
        lambda a: a.numpy().__setitem__((4, 1), 7.0),
        lambda a: a.untyped_storage().fill_(1),
        lambda a: a[3, 0].neg_(),
    ],
    ids=["in place", ".data", "NumPy", "storage", "a sign"],
)
def test_whoever_writes_to_them_they_are_made_anew(write):
    edge_attr = torch.randn(5, 2)
    first = features(edge_attr)
    write(edge_attr)
    assert features(edge_attr) is not first


def test_what_makes_other_features_is_told_apart():
    edge_attr = torch.randn(5, 2)
    first = features(edge_attr)
    assert features(edge_attr, "add") is not features(edge_attr, "mean")
    assert features(edge_attr, 1.0) is not features(edge_attr, 2.0)
    assert features(edge_attr, flow="target_to_source") is not first
    assert features(edge_attr, edge_index=EDGES.flip(0)) is not first
    other = EDGES.clone()
    before = features(edge_attr, edge_index=other)
    other[1, 0] = 2
    assert features(edge_attr, edge_index=other) is not before
    ones = torch.ones(5, 2)
    assert features(ones).dtype != features(ones.double()).dtype
    assert features(torch.zeros(5, 4)).shape != features(torch.zeros(5, 2)).shape
    # One bit pattern, two numbers.
    bits = torch.full((5, 2), 15360, dtype=torch.int16)
    assert features(bits.view(torch.float16)).dtype != features(bits.view(torch.bfloat16)).dtype


def test_what_can_not_be_kept_is_made_anew(monkeypatch):
    edge_attr, made = torch.randn(5, 2), []
    for given in (
        edge_attr.clone().requires_grad_(),
        edge_attr.t().contiguous().t(),
        edge_attr.long(),
    ):
        assert features(given) is not features(given)
    tensor = torch.tensor([1.0, 2.0])
    assert features(edge_attr, tensor) is not features(edge_attr, tensor)
    with torch.inference_mode():
        assert features(edge_attr) is not features(edge_attr)
    with FlopCounterMode(display=False):
        assert features(edge_attr) is not features(edge_attr)
    torch.func.vmap(lambda v: (made.append(features(edge_attr)), v)[1])(torch.zeros(1))
    assert features(edge_attr) is not made[0]
    monkeypatch.setattr(adjacency, "_MOST_KEPT", edge_attr.nbytes - 1)
    assert features(edge_attr) is not features(edge_attr)
    monkeypatch.undo()
    set_graph_cache(False)
    assert features(edge_attr) is not features(edge_attr)


def test_training_follows_inference_and_transforms():
    conv = GATv2Conv(4, 2, edge_dim=2)
    x, edge_attr = torch.randn(3, 4), torch.randn(5, 2)
    want = conv(x, EDGES.clone(), edge_attr.clone())
    with torch.inference_mode():
        conv(x, EDGES, edge_attr)
    torch.func.vmap(lambda x: conv(x, EDGES, edge_attr))(x.expand(2, 3, 4))
    torch.func.grad(lambda a: conv(x, EDGES, a).sum())(edge_attr)
    out = conv(x, EDGES, edge_attr)
    torch.testing.assert_close(out, want)
    out.sum().backward()
    again = conv(x, EDGES, edge_attr)
    assert torch.equal(again, out)
    learned = edge_attr.clone().requires_grad_()
    conv(x, EDGES, learned).sum().backward()
    assert learned.grad.abs().sum() > 0


def test_their_number_may_change_in_a_compiled_layer():
    conv = GATv2Conv(4, 2, edge_dim=2)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(conv, backend=backend, fullgraph=True, dynamic=True)
    for nodes, edges in ((3, 5), (4, 9), (9, 20)):
        x, edge_attr = torch.randn(nodes, 4), torch.randn(edges, 2)
        edge_index = torch.randint(nodes, (2, edges))
        want = conv(x, edge_index, edge_attr)
        torch.testing.assert_close(compiled(x, edge_index, edge_attr), want)
    assert len(graphs) == 1
