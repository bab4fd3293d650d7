"""Batched features on one graph: what one call for each element gives, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention, use_backend
from gatv2_pyg.backends import refusal
from tests.layer.test_attn_bias import close
from tests.layer.test_conv import backends

FUSED = refusal("fused", torch.device("cpu"), torch.float32)
needs_fused = pytest.mark.skipif(FUSED is not None, reason=f"no fused kernels: {FUSED}")


@st.composite
def problems(draw):
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    lead = draw(st.sampled_from([(1,), (3,), (2, 2), (0,), (2, 0, 3), (1, 2, 1)]))
    num_src = draw(st.sampled_from([1, 5, 9]))
    bipartite = draw(st.booleans())
    num_dst = draw(st.sampled_from([1, 4, 11])) if bipartite else num_src
    loops = draw(st.booleans())
    reach = min(num_src, num_dst) if loops else num_dst
    num_edges = draw(st.integers(0, 50))
    index = torch.stack(
        [torch.randint(size, (num_edges,), generator=rng) for size in (num_src, reach)]
    )

    def randn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    edge_dim = draw(st.sampled_from([None, 2]))
    heads = draw(st.sampled_from([1, 2, 3, 8]))
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = GATv2Conv(
        (3, 2) if bipartite else 3,
        draw(st.sampled_from([1, 4, 7])),
        heads=heads,
        edge_dim=edge_dim,
        concat=draw(st.booleans()),
        add_self_loops=loops,
        residual=draw(st.booleans()),
    ).double()
    x = (
        (randn(*lead, num_src, 3), randn(*lead, num_dst, 2))
        if bipartite
        else (randn(*lead, num_src, 3),)
    )
    edge_attr = None if edge_dim is None else randn(num_edges, edge_dim)
    bias = randn(num_edges, heads) if draw(st.booleans()) else None
    return conv, lead, x, index, edge_attr, bias


@pytest.mark.parametrize("backend", ["fused", "scatter", "reference"])
@settings(max_examples=40)
@given(problem=problems())
def test_against_one_call_for_each_element(problem, backend):
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    conv, lead, x, index, edge_attr, bias = problem
    shared = [value for value in (edge_attr, bias) if value is not None]
    leaves = [*x, *shared, *conv.parameters()]

    def call(x):
        x = tuple(x) if len(x) == 2 else x[0]
        return conv(x, index, edge_attr, return_attention_weights=True, attn_bias=bias)

    with use_backend(backend):
        out, (edges, alpha) = call(x)
        flat = zip(*(value.flatten(0, -3) for value in x), strict=True)
        each = [call(element) for element in flat]
    assert out.shape[:-2] == lead
    assert alpha.shape[:-2] == lead
    assert alpha.shape[-2:] == (edges.size(1), conv.heads)
    if not each:
        assert out.numel() == alpha.numel() == 0
        return
    want = torch.stack([one for one, _ in each]).view_as(out)
    want_alpha = torch.stack([one for _, (_, one) in each]).view_as(alpha)
    close(out, want)
    close(alpha, want_alpha)
    weights = torch.randn_like(out), torch.randn_like(alpha)
    found, expected = (
        torch.autograd.grad((o * weights[0]).sum() + (a * weights[1]).sum(), leaves)
        for o, a in ((out, alpha), (want, want_alpha))
    )
    for got, right in zip(found, expected, strict=True):
        close(got, right)


def small(dtype=torch.float64, lead=(4,), **options):
    rng = torch.Generator().manual_seed(0)
    index = torch.randint(6, (2, 25), generator=rng)
    torch.manual_seed(0)
    conv = GATv2Conv(4, 3, heads=2, **options).to(dtype)
    return conv, torch.randn(*lead, 6, 4, generator=rng).to(dtype), index


@pytest.mark.parametrize("backend", backends())
def test_dropout_differs_over_the_batch_and_drops_alike_in_all_backends(backend):
    conv, x, index = small(dropout=0.5)
    x = x[:1].expand(4, -1, -1)
    torch.manual_seed(3)
    with use_backend(backend):
        _, (_, alpha) = conv(x, index, return_attention_weights=True)
    masks = {tuple(one.flatten().gt(0).tolist()) for one in alpha}
    assert len(masks) == 4
    share = (alpha == 0).double().mean()
    assert 0.3 < share < 0.7
    graph = Graph.from_edge_index(index, 6, add_self_loops=True)
    features = torch.randn(4, 6, 2, 3, dtype=torch.float64)
    options = {"dropout": 0.5, "training": True, "seed": 11, "return_attention": True}
    att = torch.randn(2, 3, dtype=torch.float64)
    _, mine = gatv2_attention(features, features, att, graph, backend=backend, **options)
    _, want = gatv2_attention(features, features, att, graph, backend="reference", **options)
    close(mine, want)
    # The first element drops what a call without a batch drops.
    _, alone = gatv2_attention(features[0], features[0], att, graph, backend=backend, **options)
    close(mine[0], alone)


@needs_fused
@pytest.mark.parametrize("size", [(40, 300, 7), (3000, 40_000, 3)], ids=str)
def test_threads_change_no_bits(size):
    """Small graphs are taken one to a thread, large ones on all threads."""
    nodes, edges, batch = size
    rng = torch.Generator().manual_seed(0)
    index = torch.randint(nodes, (2, edges), generator=rng)
    torch.manual_seed(0)
    conv = GATv2Conv(8, 16, heads=8, edge_dim=2, dropout=0.3)
    x = torch.randn(batch, nodes, 8, generator=rng).requires_grad_()
    edge_attr = torch.randn(edges, 2, generator=rng).requires_grad_()
    bias = torch.randn(edges, generator=rng).requires_grad_()
    leaves = [x, edge_attr, bias, *conv.parameters()]
    before = torch.get_num_threads()
    results = []
    graph = Graph.from_edge_index(index, nodes)
    try:
        x_l, x_r = conv.lin_l(x).detach(), conv.lin_r(x).detach()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            inputs = [value.unflatten(-1, (8, 16)).clone().requires_grad_() for value in (x_l, x_r)]
            att, weight = conv.att[0], conv.lin_edge.weight
            out = gatv2_attention(
                *inputs,
                att,
                graph,
                edge_attr=edge_attr,
                edge_weight=weight,
                attn_bias=bias,
                dropout=0.3,
                training=True,
                seed=5,
            )
            leaves = [*inputs, edge_attr, bias, conv.att, weight]
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("backend", [name for name in backends() if name != "scatter"])
def test_second_derivatives(backend):
    conv, x, index = small(lead=(2,))
    x.requires_grad_()

    def call(x):
        with use_backend(backend):
            return conv(x, index)

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


@needs_fused
def test_batched_gradients():
    conv, x, index = small(lead=(2,))
    x.requires_grad_()
    out = conv(x, index)
    grads = torch.randn(3, *out.shape, dtype=torch.float64)
    leaves = (x, conv.att)
    batched = torch.autograd.grad(out, leaves, grads, is_grads_batched=True, retain_graph=True)
    for k, grad in enumerate(grads):
        each = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        torch.testing.assert_close([value[k] for value in batched], list(each))


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_compile_and_export(backend):
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    conv, x, index = small(torch.float32, backend=backend)
    want = conv(x, index)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, index), want)
    exported = torch.export.export(conv, (x, index), strict=False).module()
    torch.testing.assert_close(exported(x, index), want)


@needs_fused
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    conv, x, index = small(dtype, edge_dim=2)
    edge_attr = torch.randn(25, 2, dtype=dtype).requires_grad_()
    x.requires_grad_()
    out = conv(x, index, edge_attr)
    each = torch.stack([conv(one, index, edge_attr) for one in x])
    assert torch.equal(out, each)
    leaves = (x, edge_attr, conv.att)
    found = torch.autograd.grad(out.float().square().sum(), leaves)
    expected = torch.autograd.grad(each.float().square().sum(), leaves)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got.float(), want.float(), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_a_batch_of_none_on_a_bipartite_graph(backend, flow):
    conv = GATv2Conv((4, 3), 2, heads=2, add_self_loops=False, flow=flow)
    index = torch.tensor([[0, 1, 2], [1, 0, 2]])
    x = torch.randn(0, 7, 4), torch.randn(0, 5, 3)
    with use_backend(backend):
        out = conv(x, index)
        one = conv((torch.randn(7, 4), torch.randn(5, 3)), index)
    assert out.shape == (0, *one.shape)


def test_hooks_and_sparse_matrices():
    """Message passing goes element by element; a matrix is returned as it came."""
    conv, x, index = small(add_self_loops=False)
    want = conv(x, index)
    calls = []
    handle = conv.register_message_forward_hook(lambda *_: calls.append(None))
    close(conv(x, index), want)
    assert len(calls) == 4
    handle.remove()
    index = index.unique(dim=1)
    adj = torch.sparse_coo_tensor(index.flip(0), torch.ones(index.size(1)), (6, 6)).to_sparse_csr()
    close(conv(x, adj), conv(x, index))
    _, (matrix, alpha) = conv(x, adj, return_attention_weights=True)
    assert matrix is adj or matrix.layout == adj.layout
    assert alpha.shape == (4, index.size(1), 2)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(4), r"^Expected 'x' to have the shape \[\*, num_nodes, 4\], got \[4\]"),
        (torch.zeros(2, 6, 5), r"^Expected 'x' to have the shape \[\*, num_nodes, 4\]"),
        ((torch.zeros(2, 6, 4), torch.zeros(3, 6, 4)), r"^Expected 'x\[1\]' to have the batch"),
        (
            (torch.zeros(2, 6, 4), torch.zeros(6, 4)),
            r"batch dimensions \[2\], as 'x\[0\]', got \[\]",
        ),
    ],
    ids=["vector", "features", "batch", "one without"],
)
def test_errors(x, match):
    conv, _, index = small(torch.float32)
    with pytest.raises(ValueError, match=match):
        conv(x, index)


def test_errors_of_the_function():
    graph = Graph.from_edge_index(torch.zeros(2, 3, dtype=torch.long), 6)
    x = torch.zeros(2, 6, 2, 3)
    with pytest.raises(ValueError, match=r"^Expected 'x_dst' to have the shape \[2, 6, 2, 3\]"):
        gatv2_attention(x, x[:1], x[0, 0], graph)
    with pytest.raises(
        ValueError, match=r"^Expected 'x_src' to have the shape \[\*, N_src, H, C\]"
    ):
        gatv2_attention(x[0, 0], x, x[0, 0], graph)
