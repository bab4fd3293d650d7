"""The features of added self-loops: as PyG makes them, by the compiled kernels and without."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch_geometric.nn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.utils import scatter

from gatv2_pyg import GATv2Conv, kernels
from gatv2_pyg.graph import loops
from gatv2_pyg.graph.adjacency import Neighbours
from gatv2_pyg.graph.loops import reduce_in_order, with_loop_features
from gatv2_pyg.graph.structure import Graph

needs_kernels = pytest.mark.skipif(kernels.cpu_kernels() is None, reason="no compiled CPU kernels")


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


def problem(num_nodes=40, num_edges=300, dim=3, dtype=torch.float64, seed=0):
    """Features, edges with old self-loops among them and a node of many edges, their graph."""
    rng = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(max(num_nodes, 1), (2, num_edges if num_nodes else 0), generator=rng)
    edge_index[1, : num_edges // 3] = 0
    edge_attr = torch.randn(edge_index.size(1), dim, generator=rng, dtype=dtype)
    return edge_attr, edge_index, Graph.from_edge_index(edge_index, num_nodes, add_self_loops=True)


class Names(TorchFunctionMode):
    """The functions of torch that are called within."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def calls(monkeypatch):
    """The names of the kernels that were called, in order."""
    found = []
    if kernels.cpu_kernels() is None:
        pytest.skip("no compiled CPU kernels")
    cpu = kernels.load_kernels("cpu")

    def follow(name):
        original = getattr(cpu, name)

        def called(*args):
            found.append(name)
            return original(*args)

        monkeypatch.setattr(cpu, name, called)

    follow("loop_features")
    follow("loop_gradients")
    return found


@needs_kernels
@settings(deadline=None, max_examples=100)
@given(
    nodes=st.integers(0, 12),
    edges=st.integers(0, 60),
    dim=st.integers(0, 20),
    wide=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    fill_value=st.sampled_from(["mean", "add", "sum"]),
    seed=st.integers(0, 99),
)
def test_kernels_give_what_scatter_gives(nodes, edges, dim, wide, dtype, fill_value, seed):
    edge_attr, edge_index, graph = problem(nodes, edges, dim, dtype, seed)
    if wide:
        graph._by_dst = type(graph._by_dst)(*(part.long() for part in graph._by_dst))
    found = []
    for given_graph in (graph, None):
        leaf = edge_attr.clone().requires_grad_()
        out = with_loop_features(leaf, edge_index, nodes, fill_value, given_graph)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        weight[: len(edge_attr)][edge_index[0] == edge_index[1]] = 0  # as the attention leaves it
        (grad,) = torch.autograd.grad((out * weight).sum(), leaf)
        found.append((out.detach(), grad))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("fill_value", ["mean", "add"])
def test_a_default_device_leaves_them_to_the_kernels(calls, fill_value, device):
    edge_attr, edge_index, graph = problem()
    edge_attr.requires_grad_()
    found = []
    for around in (contextlib.nullcontext(), torch.device(device)):
        with around:
            out = with_loop_features(edge_attr, edge_index, 40, fill_value, graph)
            found.append((out, *torch.autograd.grad(out.square().sum(), edge_attr)))
    assert all(map(torch.equal, *found))
    assert calls == ["loop_features", "loop_gradients"] * 2


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("fill_value", ["mean", "add"])
def test_any_number_of_threads_gives_the_same_bits(calls, threads, fill_value):
    edge_attr, edge_index, graph = problem(3000, 40_000, 5, torch.float32)
    edge_attr.requires_grad_()
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            out = with_loop_features(edge_attr, edge_index, 3000, fill_value, graph)
            found.append((out, *torch.autograd.grad(out.square().sum(), edge_attr)))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))
    assert calls == ["loop_features", "loop_gradients"] * 2


@pytest.mark.parametrize("fill_value", ["mean", "add"])
def test_first_second_and_batched_derivatives(calls, fill_value):
    edge_attr, edge_index, graph = problem(5, 12, 2)
    edge_attr.requires_grad_()

    def function(values):
        return with_loop_features(values, edge_index, 5, fill_value, graph)

    assert torch.autograd.gradcheck(function, edge_attr, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, edge_attr)
    assert "loop_gradients" in calls


@pytest.mark.parametrize("fill_value", ["mean", "add"])
def test_both_gradients_are_one(calls, fill_value):
    """That of the kernels, and that by operations that autograd follows, old self-loops too."""
    edge_attr, edge_index, graph = problem()
    edge_attr.requires_grad_()
    out = with_loop_features(edge_attr, edge_index, 40, fill_value, graph)
    weight = torch.randn_like(out)
    (direct,) = torch.autograd.grad(out, edge_attr, weight, retain_graph=True)
    assert calls == ["loop_features", "loop_gradients"]
    (followed,) = torch.autograd.grad(out, edge_attr, weight, create_graph=True)
    assert calls == ["loop_features", "loop_gradients"]
    torch.testing.assert_close(direct, followed)
    assert (edge_index[0] == edge_index[1]).any()


@pytest.mark.parametrize("sizes", [(5, 9), (9, 5), (9, 1)])
def test_both_gradients_of_two_sets_of_nodes_and_of_any_strides(calls, sizes):
    """Nodes beyond those with loops; with one destination the edges stand in order of ids."""
    num_src, num_dst = sizes
    src, dst = torch.arange(1, 31) % (num_src - 1) + 1, torch.arange(30) % num_dst
    edge_index = torch.stack([src, dst])
    graph = Graph.from_edge_index(edge_index, num_src, num_dst, add_self_loops=True)
    assert (graph.by_dst.edge.numel() == 0) == (num_dst == 1)
    edge_attr = torch.randn(30, 3, dtype=torch.float64, requires_grad=True)
    out = with_loop_features(edge_attr, edge_index, min(sizes), "mean", graph)
    weight = torch.randn(out.shape[::-1], dtype=out.dtype).t()
    (direct,) = torch.autograd.grad(out, edge_attr, weight, retain_graph=True)
    (followed,) = torch.autograd.grad(out, edge_attr, weight, create_graph=True)
    plain = with_loop_features(edge_attr, edge_index, min(sizes), "mean")
    (want,) = torch.autograd.grad(plain, edge_attr, weight)
    kept = src != dst
    torch.testing.assert_close(direct[kept], want[kept])
    torch.testing.assert_close(followed[kept], want[kept])
    assert calls == ["loop_features", "loop_gradients"]


@pytest.mark.parametrize(
    "features",
    [
        lambda a: a.unsqueeze(0).expand(7, -1, -1).sum(0),
        lambda a: a.t().contiguous().t(),
        lambda a: torch.stack([a, a])[1],
    ],
    ids=["a sum", "columns first", "a slice"],
)
def test_features_of_any_strides(calls, features):
    edge_attr, edge_index, graph = problem()
    values = features(edge_attr)
    got = with_loop_features(values, edge_index, 40, "mean", graph)
    torch.testing.assert_close(got, with_loop_features(values, edge_index, 40, "mean"))
    assert calls == ["loop_features"]


def test_what_others_want_to_see_is_left_to_torch(calls):
    edge_attr, edge_index, graph = problem()
    want = with_loop_features(edge_attr, edge_index, 40, "mean")

    class Features(torch.Tensor):
        pass

    def made(values=edge_attr):
        return with_loop_features(values, edge_index, 40, "mean", graph)

    with FlopCounterMode(display=False):
        torch.testing.assert_close(made(), want)
    with torch.autograd.profiler.profile():
        torch.testing.assert_close(made(), want)
    with forward_ad.dual_level():
        dual = made(forward_ad.make_dual(edge_attr, torch.ones_like(edge_attr)))
        tangent = forward_ad.unpack_dual(dual).tangent
    assert torch.equal(tangent[:300], torch.ones(300, 3, dtype=torch.float64))
    assert isinstance(made(edge_attr.as_subclass(Features)), Features)
    batch = torch.stack([edge_attr, 2 * edge_attr])
    torch.testing.assert_close(torch.func.vmap(made)(batch)[1], 2 * want)
    torch.func.grad(lambda values: made(values).sum())(edge_attr)
    with Names() as names:
        torch.testing.assert_close(made(), want)
    assert "cat" in names.seen
    half = made(edge_attr.half())
    assert half.dtype == torch.float16
    assert calls == []


def test_gradients_that_others_want_to_see_are_left_to_torch(calls):
    edge_attr, edge_index, graph = problem()
    edge_attr.requires_grad_()
    for wrapped in (
        FlopCounterMode(display=False),
        torch.autograd.profiler.profile(),
        contextlib.nullcontext(),
    ):
        out = with_loop_features(edge_attr, edge_index, 40, "mean", graph)
        with wrapped:
            torch.autograd.grad(out.sum(), edge_attr)
    assert calls == ["loop_features"] * 3 + ["loop_gradients"]


def test_features_that_are_no_rows_of_the_graph_stay_with_torch(calls):
    """The kernels would read past them."""
    edge_attr, edge_index, graph = problem()
    short, few = edge_attr[:10], edge_index[:, :10]
    got = with_loop_features(short, few, 40, "mean", graph)
    torch.testing.assert_close(got, with_loop_features(short, few, 40, "mean"))
    assert calls == []


def test_without_compiled_kernels(calls, monkeypatch):
    edge_attr, edge_index, graph = problem()
    want = with_loop_features(edge_attr, edge_index, 40, "mean", graph)
    monkeypatch.setattr(loops.kernels, "cpu_kernels", lambda: None)
    torch.testing.assert_close(with_loop_features(edge_attr, edge_index, 40, "mean", graph), want)
    assert calls == ["loop_features"]


@pytest.mark.parametrize("value", [1e200, torch.inf, torch.nan])
@pytest.mark.parametrize("fill_value", ["mean", "add", "min", "max", "mul"])
def test_features_of_replaced_loops_reach_no_gradient(fill_value, value):
    """Those of several loops multiply to inf; those of edges beyond the nodes with loops too."""
    edge_attr, edge_index, _ = problem()
    edge_index[:, :4] = 7
    graph = Graph.from_edge_index(edge_index, 40, add_self_loops=True)
    edge_attr[edge_index[0] == edge_index[1]] = value
    edge_attr.requires_grad_()
    for num_loops, given_graph in ((40, graph), (40, None), (7, None)):
        out = with_loop_features(edge_attr, edge_index, num_loops, fill_value, given_graph)
        (grad,) = torch.autograd.grad(out[len(edge_attr) :].sum(), edge_attr)
        assert grad[edge_index[0] == edge_index[1]].eq(0).all()
        assert grad[edge_index[1] >= num_loops].eq(0).all()


@pytest.mark.parametrize("fill_value", ["mean", "add", "min", "max", "mul", 0.5])
def test_features_may_change_before_backward(fill_value):
    """As with PyG's layer, which keeps features without the old self-loops."""
    edge_attr, edge_index, _ = problem()
    found = []
    for changes in (False, True):
        leaf = edge_attr.clone().requires_grad_()
        values = leaf * 2
        out = with_loop_features(values, edge_index, 40, fill_value)
        if changes:
            values.zero_()
        found.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("fill_value", ["mean", "add", "max", 0.5])
def test_gradients_of_bonds_that_a_network_makes(fill_value):
    """The embedding of the bonds learns, as by PyG's layer."""
    edge_attr, edge_index, _ = problem()
    torch.manual_seed(0)
    options = {"heads": 2, "edge_dim": 4, "fill_value": fill_value}
    theirs = torch_geometric.nn.GATv2Conv(5, 3, **options).double()
    ours = GATv2Conv(5, 3, **options).double()
    ours.load_state_dict(theirs.state_dict())
    embedding, x = torch.nn.Linear(3, 4).double(), torch.randn(40, 5, dtype=torch.float64)
    found = [
        torch.autograd.grad(
            layer(x, edge_index, embedding(edge_attr)).square().sum(),
            [*embedding.parameters(), *layer.parameters()],
        )
        for layer in (theirs, ours)
    ]
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)
