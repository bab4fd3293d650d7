"""Bad input: the error names the argument, what was expected and what came, on every path."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch_geometric.nn

from gatv2_pyg import EdgeIndexError, GATv2Conv, Graph, gatv2_attention, use_backend

N, E, F, D = 6, 12, 5, 3


def conv(**options) -> GATv2Conv:
    return GATv2Conv(F, 4, heads=2, **options)


def with_residual() -> GATv2Conv:
    """A layer whose residual was replaced by one for other features."""
    layer = conv(residual=True)
    layer.res = torch_geometric.nn.Linear(F + 1, 8)
    return layer


def x(rows=N, columns=F, **options):
    return torch.randn(rows, columns, **options)


def edges(high=N, count=E):
    return torch.randint(high, (2, count), generator=torch.Generator().manual_seed(0))


def bad_edge(value):
    index = edges()
    index[1, 3] = value
    return index


META = {"device": "meta"}
CALLS = {
    "feature size": (
        conv,
        (x(columns=7), edges()),
        ValueError,
        r"'x'.*num_nodes, 5\].*\[6, 7\]",
    ),
    "1-D x": (conv, (torch.randn(F), edges()), ValueError, r"'x'.*\[\*, num_nodes, 5\].*\[5\]"),
    "x of the wrong type": (conv, ([1.0], edges()), TypeError, r"'x'.*Tensor.*list"),
    "no x[1]": (conv, ((x(), None), edges()), TypeError, r"'x\[1\]'.*Tensor.*NoneType"),
    "size of x[1]": (conv, ((x(), x(columns=4)), edges()), ValueError, r"'x\[1\]'.*5.*\[6, 4\]"),
    "float64 x": (conv, (x().double(), edges()), TypeError, r"'x'.*float32.*float64"),
    "integer x": (conv, (x().long(), edges()), TypeError, r"'x'.*float32.*int64"),
    "mixed x": (
        conv,
        ((x(), x().double()), edges()),
        TypeError,
        r"'x\[1\]'.*float32.*float64",
    ),
    "x elsewhere": (conv, (x(**META), edges()), ValueError, r"'x'.*cpu.*meta"),
    "x[1] elsewhere": (conv, ((x(), x(**META)), edges()), ValueError, r"'x\[1\]'.*cpu.*meta"),
    "edge_index elsewhere": (
        conv,
        (x(), edges().to("meta")),
        ValueError,
        r"'edge_index'.*cpu.*meta",
    ),
    "float edge_index": (conv, (x(), edges().float()), TypeError, r"'edge_index'.*int.*float32"),
    "edge_index of shape [E, 2]": (
        conv,
        (x(), edges().t()),
        ValueError,
        r"'edge_index'.*\[2, num_edges\].*\[12, 2\]",
    ),
    "1-D edge_index": (conv, (x(), edges()[0]), ValueError, r"'edge_index'.*\[12\]"),
    "list as edge_index": (conv, (x(), edges().tolist()), TypeError, r"'edge_index'.*list"),
    "index too large": (conv, (x(), bad_edge(N)), EdgeIndexError, r"destination.*\[0, 6\).*3.*6"),
    "negative index": (conv, (x(), bad_edge(-2)), EdgeIndexError, r"destination.*\[0, 6\).*3.*-2"),
    "negative source": (
        conv,
        (x(), bad_edge(-1).flip(0)),
        EdgeIndexError,
        r"source.*\[0, 6\).*3.*-1",
    ),
    "edge_attr without edge_dim": (
        conv,
        (x(), edges(), torch.randn(E, D)),
        ValueError,
        r"'edge_attr'.*'edge_dim'.*\[12, 3\]",
    ),
    "length of edge_attr": (
        lambda: conv(edge_dim=D),
        (x(), edges(), torch.randn(E - 1, D)),
        ValueError,
        r"'edge_attr'.*\[12, 3\].*\[11, 3\]",
    ),
    "width of edge_attr": (
        lambda: conv(edge_dim=D),
        (x(), edges(), torch.randn(E, D + 1)),
        ValueError,
        r"'edge_attr'.*\[12, 3\].*\[12, 4\]",
    ),
    "1-D edge_attr": (
        lambda: conv(edge_dim=D),
        (x(), edges(), torch.randn(E)),
        ValueError,
        r"'edge_attr'.*\[12, 3\].*\[12\]",
    ),
    "float64 edge_attr": (
        lambda: conv(edge_dim=D),
        (x(), edges(), torch.randn(E, D).double()),
        TypeError,
        r"'edge_attr'.*float32.*float64",
    ),
    "integer edge_attr, whose sum is no feature": (
        lambda: conv(edge_dim=D, fill_value="add"),
        (x(), edges(), torch.ones(E, D).long()),
        TypeError,
        r"^Expected 'edge_attr'.*float32.*int64",
    ),
    "x that the residual can't take": (
        with_residual,
        (x(), edges()),
        ValueError,
        r"^Expected 'x'.*\[\*, num_nodes, 6\].*\[6, 5\]",
    ),
    "edge_attr elsewhere": (
        lambda: conv(edge_dim=D),
        (x(), edges(), torch.randn(E, D, **META)),
        ValueError,
        r"'edge_attr'.*cpu.*meta",
    ),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name, backend):
    make, arguments, error, message = CALLS[name]
    layer = make()
    ran = []
    layer.lin_l.register_forward_hook(lambda *_: ran.append(name))
    with use_backend(backend), pytest.raises(error, match=message):
        layer(*arguments)
    assert not ran, "something was computed before the check"


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_out_of_range_is_an_index_error_and_a_value_error(flow, backend):
    layer = conv(flow=flow, backend=backend)
    for error in (IndexError, ValueError):
        with pytest.raises(error, match="edge_index"):
            layer(x(), bad_edge(N))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_each_flow_has_its_own_range(backend):
    """What is in range for one is out of range for the other, though the tensor is the same."""
    index, pair = torch.tensor([[5, 4, 3], [0, 1, 2]]), (x(), x(rows=3))
    conv(backend=backend, add_self_loops=False)(pair, index)
    back = conv(backend=backend, add_self_loops=False, flow="target_to_source")
    with pytest.raises(EdgeIndexError, match=r"^Expected the destination.*\[0, 3\).*edge 0.*5"):
        back(pair, index)


def test_sparse_matrices_must_fit():
    adj_t = torch.sparse_coo_tensor(edges(), torch.ones(E), (N, N)).coalesce().to_sparse_csr()
    for backend in ("auto", "reference"):
        layer = conv(backend=backend, add_self_loops=False)
        with pytest.raises(ValueError, match=r"'edge_index'.*\[7, 7\].*\[6, 6\]"):
            layer(x(rows=7), adj_t)
    with pytest.raises(ValueError, match="target_to_source"):
        conv(flow="target_to_source")(x(), adj_t)
    with pytest.raises(NotImplementedError, match="edge_attr"):
        conv(edge_dim=D)(x(), adj_t, torch.randn(adj_t._nnz(), D))


def test_missing_edge_attr_warns_once():
    layer = conv(edge_dim=D)
    with pytest.warns(UserWarning, match="edge_dim=3 but got no 'edge_attr'") as caught:
        layer(x(), edges())
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x(), edges())


@pytest.mark.parametrize(
    "make", [lambda: conv(backend="cuda"), lambda: use_backend("cpp").__enter__()]
)
def test_unknown_backends(make):
    with pytest.raises(ValueError, match=r"'backend'.*auto, fused, triton, scatter, reference"):
        make()


ATTENTION = {
    "x_src of 2 dimensions": ({"x_src": torch.randn(N, 8)}, ValueError, r"'x_src'.*\[6, 8\]"),
    "integer x_src": ({"x_src": torch.ones(N, 2, 4).long()}, TypeError, r"'x_src'.*int64"),
    "rows of x_src": ({"x_src": torch.randn(N + 1, 2, 4)}, ValueError, r"'x_src'.*6 rows.*7"),
    "rows of x_dst": ({"x_dst": torch.randn(5, 2, 4)}, ValueError, r"'x_dst'.*\[6, 2, 4\].*\[5,"),
    "heads of x_dst": ({"x_dst": torch.randn(N, 1, 8)}, ValueError, r"'x_dst'.*\[6, 2, 4\]"),
    "dtype of x_dst": ({"x_dst": torch.randn(N, 2, 4).half()}, TypeError, r"'x_dst'.*float16"),
    "device of x_dst": ({"x_dst": torch.randn(N, 2, 4, **META)}, ValueError, r"'x_dst'.*meta"),
    "sparse x_dst": (
        {"x_dst": torch.randn(N, 2, 4).to_sparse()},
        TypeError,
        r"^Expected 'x_dst' to be a dense Tensor, got one in torch.sparse_coo",
    ),
    "shape of att": ({"att": torch.randn(4, 2)}, ValueError, r"'att'.*\[2, 4\].*\[4, 2\]"),
    "integer att": ({"att": torch.ones(2, 4).long()}, TypeError, r"'att'.*int64"),
    "edge_attr alone": (
        {"edge_attr": torch.randn(E, D)},
        ValueError,
        r"^Expected 'edge_weight' to be given with 'edge_attr', got None",
    ),
    "edge_weight alone": (
        {"edge_weight": torch.randn(8, D)},
        ValueError,
        r"^Expected 'edge_attr' to be given with 'edge_weight', got None",
    ),
    "rows of edge_attr": (
        {"edge_attr": torch.randn(E + 1, D), "edge_weight": torch.randn(8, D)},
        ValueError,
        r"'edge_attr'.*\[12, \*\].*\[13, 3\]",
    ),
    "shape of edge_weight": (
        {"edge_attr": torch.randn(E, D), "edge_weight": torch.randn(D, 8)},
        ValueError,
        r"'edge_weight'.*\[8, 3\].*\[3, 8\]",
    ),
    "dropout": ({"dropout": 1.5}, ValueError, r"'dropout'.*1.5"),
    "dropout of NaN": ({"dropout": float("nan")}, ValueError, r"^Expected 'dropout'.*nan"),
    "dropout by truth": ({"dropout": True}, TypeError, r"^Expected 'dropout'.*number.*True"),
    "slope": ({"negative_slope": "0.2"}, TypeError, r"^Expected 'negative_slope'.*number.*'0.2'"),
    "slope of NaN": (
        {"negative_slope": float("nan")},
        ValueError,
        r"^Expected 'negative_slope'.*nan",
    ),
    "slope beyond float32": ({"negative_slope": -1e39}, ValueError, r"'negative_slope'.*-1e\+39"),
    "backend": ({"backend": "fast"}, ValueError, r"'backend'.*'fast'"),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_bad_attention(name):
    changed, error, message = ATTENTION[name]
    arguments = {
        "x_src": torch.randn(N, 2, 4),
        "x_dst": torch.randn(N, 2, 4),
        "att": torch.randn(2, 4),
        "graph": Graph.from_edge_index(edges(), N),
    }
    with pytest.raises(error, match=message):
        gatv2_attention(**(arguments | changed))


@pytest.mark.parametrize("backend", ["fused", "triton", "scatter"])
def test_a_backend_asked_for_by_name_never_falls_back(backend):
    index = torch.zeros(2, 1, dtype=torch.int64, device="meta")
    layer = conv(backend=backend).to("meta")
    layer.register_message_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=f"backend='{backend}' can't be used: a message hook"):
        layer(x(**META), index)


def changed_layers():
    """Layers that were changed after they were made: ``(name, layer, what is expected)``."""
    layer = GATv2Conv(4, 3, heads=2, edge_dim=3)
    layer.edge_dim = None
    yield "edge_dim taken away", layer, "made without 'edge_dim'"
    layer = GATv2Conv(4, 3, heads=2)
    layer.lin_edge = torch_geometric.nn.Linear(3, 6, bias=False)
    yield "lin_edge added", layer, "made without 'edge_dim'"
    layer = GATv2Conv(4, 3, heads=2, edge_dim=3)
    layer.lin_edge.in_channels = 4
    yield "in_channels that the weight has not", layer, r"shape \[7, 4\]"
    layer = GATv2Conv(4, 3, heads=2, edge_dim=4)
    layer.lin_edge.weight = torch.nn.Parameter(torch.ones(6, 3))
    yield "a weight of other columns", layer, r"shape \[7, 4\]"
    layer = GATv2Conv(4, 3, heads=2, edge_dim=3)
    layer.att = torch.nn.Parameter(layer.att.detach().to("meta"))
    yield "att elsewhere", layer, "to be on meta"


@pytest.mark.parametrize(
    ("layer", "expected"), [pytest.param(*rest, id=name) for name, *rest in changed_layers()]
)
def test_edge_attr_of_a_layer_that_was_changed(layer, expected):
    x, edge_index = torch.ones(5, 4), torch.zeros(2, 7, dtype=torch.long)
    with pytest.raises(ValueError, match=expected):
        layer(x, edge_index, torch.ones(7, 3))
