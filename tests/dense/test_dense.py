"""DenseGATv2Conv against the sparse layer on the same edges, and PyG's conventions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv
from torch_geometric.nn.dense import DenseGATConv

from gatv2_pyg import DenseGATv2Conv, GATv2Conv, use_backend
from gatv2_pyg.dense import conv as dense_conv
from gatv2_pyg.dense import edges as dense_edges
from tests.layer.test_attn_bias import close
from tests.layer.test_conv import backends


@st.composite
def problems(draw):
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    batch, nodes = draw(st.sampled_from([0, 1, 2, 5])), draw(st.sampled_from([0, 1, 4, 9]))
    options = {
        "heads": draw(st.sampled_from([1, 2, 3, 8])),
        "concat": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "share_weights": draw(st.booleans()),
        "residual": draw(st.booleans()),
    }
    channels = draw(st.sampled_from([1, 4, 7]))
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = DenseGATv2Conv(3, channels, **options).double()
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    shared = draw(st.sampled_from([None, "one", "matrix"]))
    size = {None: (batch, nodes, nodes), "one": (1, nodes, nodes), "matrix": (nodes, nodes)}[shared]
    adj = (torch.rand(*size, generator=rng) < share).to(
        draw(st.sampled_from([torch.bool, torch.float32, torch.int64]))
    )
    x = torch.randn(batch, nodes, 3, generator=rng, dtype=torch.float64).requires_grad_()
    mask = torch.rand(batch, nodes, generator=rng) < 0.7 if draw(st.booleans()) else None
    return conv, options, channels, x, adj, mask, draw(st.booleans())


@pytest.mark.parametrize("backend", ["fused", "scatter", "reference"])
@settings(max_examples=40)
@given(problem=problems())
def test_against_the_sparse_layer(problem, backend):
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    conv, options, channels, x, adj, mask, add_loop = problem
    sparse = PyGGATv2Conv(3, channels, add_self_loops=add_loop, **options).double()
    sparse.load_state_dict(conv.state_dict())
    with use_backend(backend):
        out = conv(x, adj, mask, add_loop)
    whole = adj if adj.dim() == 3 else adj[None]
    whole = whole.expand(x.size(0), -1, -1)
    each = []
    for features, matrix in zip(x, whole, strict=True):
        dst, src = matrix.nonzero(as_tuple=True)
        each.append(sparse(features, torch.stack([src, dst])))
    want = torch.stack(each) if each else out.detach()
    if mask is not None:
        want = want * mask.unsqueeze(-1)
    assert out.shape == want.shape
    close(out, want)
    if not each or out.numel() == 0:
        return
    weight = torch.randn_like(out)
    found = torch.autograd.grad((out * weight).sum(), [x, *conv.parameters()])
    expected = torch.autograd.grad((want * weight).sum(), [x, *sparse.parameters()])
    names = [name for name, _ in conv.named_parameters()]
    by_name = dict(zip([name for name, _ in sparse.named_parameters()], expected[1:], strict=True))
    close(found[0], expected[0])
    for name, got in zip(names, found[1:], strict=True):
        close(got, by_name[name])


def test_state_dicts_are_those_of_the_sparse_layer():
    dense = DenseGATv2Conv(5, 4, heads=3, residual=True)
    sparse = GATv2Conv(5, 4, heads=3, residual=True)
    sparse.load_state_dict(dense.state_dict())
    dense.load_state_dict(sparse.state_dict())
    assert repr(dense) == "DenseGATv2Conv(5, 4, heads=3)"
    lazy = DenseGATv2Conv(-1, 4, heads=3)
    assert lazy(torch.randn(2, 6, 5), torch.ones(6, 6)).shape == (2, 6, 12)


def test_the_conventions_are_those_of_pyg():
    """Shapes of what PyG's dense layer takes and gives; its values it does not share."""
    dense, pyg = DenseGATv2Conv(3, 4, heads=2), DenseGATConv(3, 4, heads=2)
    x, adj = torch.randn(2, 5, 3), torch.ones(5, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for arguments in ((x, adj), (x[0], adj), (x, adj[None], mask), (x, adj[None], mask, False)):
        assert dense(*arguments).shape == pyg(*arguments).shape
    assert (dense(x, adj, mask)[0, 3:] == 0).all()
    before = adj.clone()
    dense(x, adj)
    assert torch.equal(adj, before)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("shared", [False, True])
def test_compile_and_export_run_over_all_pairs(backend, shared):
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    torch.manual_seed(0)
    conv = DenseGATv2Conv(3, 4, heads=2, backend=backend)
    x = torch.randn(2, 5, 3).requires_grad_()
    adj = torch.rand(1 if shared else 2, 5, 5) < 0.4
    adj[0, 2] = False

    def both(call):
        out = call(x, adj, None, False)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])]

    want = both(conv)
    torch.testing.assert_close(both(torch.compile(conv, backend="aot_eager", fullgraph=True)), want)
    exported = torch.export.export(conv, (x, adj, None, False), strict=False).module()
    torch.testing.assert_close(exported(x, adj, None, False).detach(), want[0])


def test_gradients_of_gradients():
    torch.manual_seed(0)
    conv = DenseGATv2Conv(3, 2, heads=2).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    adj = torch.rand(2, 4, 4) < 0.5
    assert torch.autograd.gradcheck(lambda x: conv(x, adj), (x,))
    assert torch.autograd.gradgradcheck(lambda x: conv(x, adj), (x,))


def test_dropout_differs_over_the_batch():
    conv = DenseGATv2Conv(3, 4, heads=2, dropout=0.5, bias=False)
    x = torch.randn(1, 5, 3).expand(3, -1, -1)
    for adj in (torch.ones(1, 5, 5), torch.ones(3, 5, 5)):
        out = conv(x, adj)
        assert not torch.equal(out[0], out[1])
        assert torch.equal(conv.eval()(x, adj)[0], conv(x, adj)[1])
        conv.train()


def test_the_result_may_be_changed_in_place():
    conv = DenseGATv2Conv(3, 4, bias=False)
    x = torch.randn(2, 5, 3, requires_grad=True)
    conv(x, torch.ones(5, 5)).relu_().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1), (1, 5), (5,), (5, 1)])
def test_masks_of_nodes(shape):
    mask = torch.zeros(shape)
    assert (DenseGATv2Conv(3, 4)(torch.randn(2, 5, 3), torch.ones(5, 5), mask) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((torch.zeros(2, 5, 4), torch.ones(5, 5)), ValueError, r"^Expected 'x' to have the shape"),
        ((torch.zeros(1, 2, 5, 3), torch.ones(5, 5)), ValueError, r"shape \[B, N, F\], got"),
        (
            (torch.zeros(2, 5, 3), torch.ones(5, 4)),
            ValueError,
            r"^Expected 'adj' to have the shape",
        ),
        ((torch.zeros(2, 5, 3), torch.ones(3, 5, 5)), ValueError, r"got \[3, 5, 5\]"),
        ((torch.zeros(2, 5, 3), [[1]]), TypeError, r"^Expected 'adj' to be a Tensor, got list"),
        (
            (torch.zeros(2, 5, 3), torch.ones(5, 5).to_sparse()),
            TypeError,
            r"^Expected 'adj' to be a dense Tensor",
        ),
        (
            (torch.zeros(5, 3).to_sparse_csr(), torch.ones(5, 5)),
            TypeError,
            r"^Expected 'x' to be a dense Tensor, got one in torch.sparse_csr",
        ),
        (
            (torch.zeros(2, 5, 3), torch.ones(5, 5), torch.ones(3)),
            ValueError,
            r"^Expected 'mask' to have the shape \[2, 5\], got \[3\]",
        ),
        (
            (torch.zeros(2, 5, 3), torch.ones(5, 5), torch.ones(5, 2)),
            ValueError,
            r"^Expected 'mask' to have the shape \[2, 5\], got \[5, 2\]",
        ),
        (
            (torch.zeros(2, 5, 3), torch.ones(5, 5, device="meta")),
            ValueError,
            r"^Expected 'adj' to be on cpu",
        ),
    ],
    ids=[
        "features",
        "dimensions",
        "square",
        "batch",
        "type",
        "layout",
        "sparse",
        "mask",
        "turned",
        "device",
    ],
)
def test_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        DenseGATv2Conv(3, 4)(*arguments)


@pytest.mark.parametrize("slope", [float("inf"), 1e300, "steep"])
def test_a_slope_that_is_none(slope):
    conv = DenseGATv2Conv(3, 4, negative_slope=slope)
    with pytest.raises((ValueError, TypeError), match=r"^Expected 'negative_slope'"):
        conv(torch.zeros(2, 5, 3), torch.ones(5, 5))


@pytest.mark.parametrize("cells", [1, 7, 20])
def test_large_matrices_are_looked_through_in_parts(cells, monkeypatch):
    adj = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    want, _ = dense_edges.edges_of(adj, add_loop=True)
    monkeypatch.setattr(dense_edges, "_CELLS", cells)
    got, _ = dense_edges.edges_of(adj, add_loop=True)
    assert torch.equal(got.by_dst.ptr, want.by_dst.ptr)
    assert torch.equal(got.by_dst.idx, want.by_dst.idx)


@pytest.mark.parametrize("bias", [True, False])
def test_the_dtype_under_autocast_is_that_of_the_sparse_layer(bias):
    dense, sparse = DenseGATv2Conv(3, 4, bias=bias), GATv2Conv(3, 4, bias=bias)
    x, adj = torch.randn(5, 3), torch.ones(5, 5)
    index = adj.nonzero().t()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert dense(x, adj).dtype == sparse(x, index).dtype


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_a_mask_changes_no_dtype(dtype):
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=dtype)
    out = DenseGATv2Conv(3, 4)(torch.randn(2, 5, 3), torch.ones(5, 5), mask)
    assert out.dtype == torch.float32
    assert (out[0, 2:] == 0).all()
    # One for the whole batch.
    out = DenseGATv2Conv(3, 4)(torch.randn(2, 5, 3), torch.ones(5, 5), mask[0])
    assert (out[:, 2:] == 0).all()
    assert (out[:, :2] != 0).any()


def test_all_parameters_are_drawn_anew():
    conv = DenseGATv2Conv(3, 4, heads=2, residual=True)
    with torch.no_grad():
        for value in conv.parameters():
            value.fill_(7)
    conv.reset_parameters()
    for name, value in conv.named_parameters():
        assert not (value == 7).any(), name


def test_the_layer_asks_for_its_backend(monkeypatch):
    taken = []
    original = dense_conv.attend

    def attend(backend, *arguments, **options):
        taken.append(backend.name)
        return original(backend, *arguments, **options)

    monkeypatch.setattr(dense_conv, "attend", attend)
    x, adj = torch.randn(2, 5, 3), torch.ones(5, 5)
    DenseGATv2Conv(3, 4, backend="reference")(x, adj)
    with use_backend("reference"):
        DenseGATv2Conv(3, 4)(x, adj)
    DenseGATv2Conv(3, 4)(x, adj)
    assert taken[:2] == ["reference", "reference"]
    assert taken[2] == GATv2Conv(3, 4).backend_for(x[0], adj.nonzero().t()).name


def test_nothing_is_dropped_in_evaluation():
    conv = DenseGATv2Conv(3, 4, heads=2, dropout=0.9).eval()
    x, adj = torch.randn(2, 5, 3), torch.ones(5, 5)
    want = DenseGATv2Conv(3, 4, heads=2)
    want.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x, adj), want(x, adj))
