"""The layer against PyG's, over random settings, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric import EdgeIndex
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

from gatv2_pyg import GATv2Conv, use_backend
from gatv2_pyg.backends import refusal

FILL_VALUES = ["mean", "add", "min", "max", "mul", 0.0, -1.5, "tensor"]


def backends() -> list[str]:
    device = torch.device("cpu")
    names = ("fused", "scatter", "reference")
    return [name for name in names if refusal(name, device, torch.float64) is None]


@st.composite
def problems(draw):
    """Settings of a layer and the arguments of a call; ``edge_index`` as PyG users may pass it."""
    bipartite = draw(st.booleans())
    flow = draw(st.sampled_from(["source_to_target"] * 3 + ["target_to_source"]))
    num_src = draw(st.sampled_from([0, 1, 2, 5, 9, 14]))
    num_dst = draw(st.sampled_from([1, 4, 9, 17])) if bipartite and num_src > 0 else num_src
    if flow == "target_to_source":
        num_dst = num_src
    num_edges = draw(st.integers(0, 40)) if num_src else 0
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def randn(*size):
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    loops = draw(st.booleans())
    reach = min(num_src, num_dst) if loops else num_dst
    index = torch.stack(
        [
            torch.randint(max(size, 1), (num_edges,), generator=rng)
            for size in ((num_src, reach) if flow == "source_to_target" else (reach, num_src))
        ]
    )
    features = draw(st.sampled_from([1, 3, 8]))
    features = (features, draw(st.sampled_from([2, 5]))) if bipartite else features
    layout = draw(
        st.sampled_from(["plain", "plain", "int32", "strided", "EdgeIndex", "csr", "coo"])
    )
    sparse = layout in ("csr", "coo") and flow == "source_to_target"
    with_attr = draw(st.booleans()) and not (sparse and loops)
    edge_dim = draw(st.sampled_from([1, 2, 5])) if with_attr else None
    heads, channels = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from([1, 3, 4, 16]))
    fill_value = draw(st.sampled_from(FILL_VALUES))
    concat = draw(st.booleans())
    options = {
        "heads": heads,
        "concat": concat,
        "negative_slope": draw(st.sampled_from([0.2, 0.0, 0.9])),
        "add_self_loops": loops,
        "edge_dim": edge_dim,
        "fill_value": randn(edge_dim or 1) if fill_value == "tensor" else fill_value,
        "bias": draw(st.booleans()),
        "share_weights": draw(st.booleans()) and not bipartite,
        "residual": draw(st.booleans()),
        "flow": flow,
    }
    x = (
        (randn(num_src, features[0]), randn(num_dst, features[1]))
        if bipartite
        else randn(num_src, features)
    )
    if sparse:
        index = index.unique(dim=1) if num_edges else index
        size = (num_dst, num_src)
        convert = to_torch_csr_tensor if layout == "csr" else to_torch_coo_tensor
        adjacency = convert(index.flip(0), size=size)
    elif layout == "EdgeIndex":
        order = draw(st.sampled_from([None, "row", "col"]))
        if order is not None:
            index = index[:, index[0 if order == "row" else 1].argsort(stable=True)]
        size = (num_src, num_dst) if flow == "source_to_target" else (num_dst, num_src)
        adjacency = EdgeIndex(index, sparse_size=size, sort_order=order)
    else:
        adjacency = {
            "int32": index.int(),
            "strided": index.t().contiguous().t(),
        }.get(layout, index)
    edge_attr = None
    if with_attr:
        edge_attr = randn(index.size(1), edge_dim)
        if edge_dim == 1 and draw(st.booleans()):
            edge_attr = edge_attr[:, 0]
            if fill_value == "tensor":
                options["fill_value"] = 0.5
    return features, channels, options, x, adjacency, edge_attr


def run(layer, x, adjacency, edge_attr):
    """Outputs, attention and all gradients (of parameters, features, edge features), by name."""
    leaves = [part.clone().requires_grad_() for part in (x if isinstance(x, tuple) else (x,))]
    attr = None if edge_attr is None else edge_attr.clone().requires_grad_()
    features = tuple(leaves) if isinstance(x, tuple) else leaves[0]
    out, (edges, alpha) = layer(features, adjacency, attr, return_attention_weights=True)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).sin()
    loss = (out * weights).sum() + (alpha * alpha.detach().cos()).sum()
    layer.zero_grad()
    loss.backward()
    results = {"out": out, "alpha": alpha, "edges": edges}
    for name, parameter in layer.named_parameters():
        results[f"grad {name}"] = parameter.grad
    for name, leaf in [("x[0]", leaves[0]), ("x[-1]", leaves[-1]), ("edge_attr", attr)]:
        results[f"grad {name}"] = None if leaf is None else leaf.grad
    return results


def assert_same(got, want, tolerance=1e-10):
    for name, value in want.items():
        mine = got[name]
        if value is None:
            assert mine is None or not mine.any(), name
        elif name == "edges":
            assert type(mine) is type(value)
            assert mine.layout == value.layout
            if value.layout == torch.strided:
                assert torch.equal(torch.as_tensor(mine).long(), torch.as_tensor(value))
            else:
                torch.testing.assert_close(mine.to_dense(), value.to_dense())
        else:
            assert mine is not None, name
            torch.testing.assert_close(
                mine, value, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
            )


def twins(*args, **kwargs) -> tuple[GATv2Conv, PyGGATv2Conv]:
    """The two layers with the same weights, loaded from one to the other and back, strictly."""
    theirs = PyGGATv2Conv(*args, **kwargs).double()
    mine = GATv2Conv(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(mine.state_dict(), strict=True)
    assert repr(mine) == repr(theirs)
    return mine, theirs


@given(problems())
@settings(max_examples=250)
def test_equals_pyg(problem):
    features, channels, options, x, adjacency, edge_attr = problem
    mine, theirs = twins(features, channels, **options)
    # For int32 indices PyG raises, or its gradients are wrong.
    is_int32 = isinstance(adjacency, torch.Tensor) and adjacency.dtype == torch.int32
    want = run(theirs, x, adjacency.long() if is_int32 else adjacency, edge_attr)
    for backend in backends():
        with use_backend(backend):
            assert_same(run(mine, x, adjacency, edge_attr), want)


def graph(num_nodes=8, num_edges=30, features=5, edge_dim=None):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(num_nodes, features, generator=rng, dtype=torch.float64)
    index = torch.randint(num_nodes, (2, num_edges), generator=rng)
    if edge_dim is None:
        return x, index
    return x, index, torch.randn(num_edges, edge_dim, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("backend", backends())
def test_csc_matrices_are_taken_too(backend):
    x, index = graph()
    index = index.unique(dim=1)
    conv = GATv2Conv(5, 4, heads=2, backend=backend).double()
    adj_t = torch.sparse_coo_tensor(index.flip(0), torch.ones(index.size(1)), (8, 8)).coalesce()
    torch.testing.assert_close(conv(x, adj_t.to_sparse_csc()), conv(x, index))
    with pytest.raises(NotImplementedError, match="edge_attr"):
        GATv2Conv(5, 4, edge_dim=2, add_self_loops=False).double()(
            x, adj_t.to_sparse_csc(), torch.randn(index.size(1), 2, dtype=torch.float64)
        )


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("loops", [False, True])
def test_values_of_a_sparse_matrix_are_edge_features(backend, loops):
    x, index, attr = graph(edge_dim=3)
    index = index.unique(dim=1)
    adj = to_torch_csr_tensor(index.flip(0), attr[: index.size(1)], size=(8, 8))
    mine, theirs = twins(5, 4, heads=2, edge_dim=3, add_self_loops=loops)
    with use_backend(backend):
        torch.testing.assert_close(mine(x, adj), theirs(x, adj))


def test_sparse_tensors_of_torch_sparse():
    torch_sparse = pytest.importorskip("torch_sparse")
    x, index = graph()
    index = index.unique(dim=1)
    adj_t = torch_sparse.SparseTensor(row=index[1], col=index[0], sparse_sizes=(8, 8))
    mine, theirs = twins(5, 4, heads=2)
    for backend in backends():
        with use_backend(backend):
            got, want = (layer(x, adj_t, return_attention_weights=True) for layer in (mine, theirs))
            torch.testing.assert_close(got[0], want[0])
            torch.testing.assert_close(got[1].to_dense(), want[1].to_dense())


@pytest.mark.parametrize("backend", backends())
def test_lazy_sizes(backend):
    x, index, attr = graph(edge_dim=3)
    conv = GATv2Conv(-1, 4, heads=2, edge_dim=-1, residual=True, backend=backend).double()
    assert conv(x, index, attr).shape == (8, 8)
    assert conv.lin_l.weight.shape == (8, 5)
    assert conv.lin_edge.weight.shape == (8, 3)
    pair = GATv2Conv((-1, -1), 4, backend=backend).double()
    assert pair((x, x[:3, :2]), index[:, index[1] < 3]).shape == (3, 4)


@pytest.mark.parametrize("asked", [None, False, True])
def test_attention_is_returned_only_if_asked_for(asked):
    x, index = graph()
    result = GATv2Conv(5, 4).double()(x, index, return_attention_weights=asked)
    assert isinstance(result, tuple) == bool(asked)


def test_all_backends_drop_the_same_coefficients():
    x, index = graph(num_nodes=30, num_edges=200)
    conv = GATv2Conv(5, 4, heads=3, dropout=0.5).double().train()
    results = {}
    for backend in backends():
        with use_backend(backend):
            torch.manual_seed(7)
            results[backend] = conv(x, index, return_attention_weights=True)
    out, (_, alpha) = results["reference"]
    assert 0.3 < (alpha == 0).double().mean() < 0.7
    for other, (_, coefficients) in results.values():
        torch.testing.assert_close(other, out)
        assert torch.equal(coefficients == 0, alpha == 0)


def test_manual_seed_reproduces_training():
    x, index = graph(num_nodes=30, num_edges=200)
    conv = GATv2Conv(5, 4, heads=3, dropout=0.5).double().train()
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append([conv(x, index).square().sum().item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    assert torch.equal(conv.eval()(x, index), conv(x, index))


def test_no_tensor_stays_on_the_layer():
    x, index = graph()
    conv = GATv2Conv(5, 4).double()
    before = set(vars(conv))
    conv(x, index, return_attention_weights=True)[0].sum().backward()
    assert set(vars(conv)) == before
    assert not any(isinstance(value, torch.Tensor) for value in vars(conv).values())


@pytest.mark.parametrize("fill_value", ["mean", "add", "max", 1.0])
def test_edge_features_of_no_size(fill_value):
    torch.manual_seed(0)
    theirs = PyGGATv2Conv(4, 5, heads=2, edge_dim=0, fill_value=fill_value)
    ours = GATv2Conv(4, 5, heads=2, edge_dim=0, fill_value=fill_value)
    ours.load_state_dict(theirs.state_dict())
    x, edge_index = torch.randn(6, 4), torch.randint(6, (2, 9))
    nothing = torch.empty(9, 0)
    torch.testing.assert_close(ours(x, edge_index, nothing), theirs(x, edge_index, nothing))
