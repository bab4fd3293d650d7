"""Biases of the edges' logits: against message passing that adds them, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric import EdgeIndex
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv
from torch_geometric.utils import add_self_loops, remove_self_loops, to_torch_csr_tensor

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention, to_pyg, use_backend, use_gatv2
from gatv2_pyg.backends import refusal
from tests.layer.test_conv import backends

FUSED = refusal("fused", torch.device("cpu"), torch.float32)
needs_fused = pytest.mark.skipif(FUSED is not None, reason=f"no fused kernels: {FUSED}")


def by_messages(conv, x, edge_index, edge_attr, bias):
    """The layer, spelled out: each edge's score with its bias, a softmax by node, a sum."""
    x_l, x_r = x if isinstance(x, tuple) else (x, x)
    num_dst = x_r.size(0)
    bias = bias.unsqueeze(1) if bias.dim() == 1 else bias
    attr = edge_attr
    if conv.add_self_loops:
        count = min(x_l.size(0), num_dst)
        if attr is not None:
            edge_index, both = remove_self_loops(edge_index, torch.cat([attr, bias], 1))
            attr, bias = both[:, : attr.size(1)], both[:, attr.size(1) :]
            edge_index, attr = add_self_loops(
                edge_index, attr, fill_value=conv.fill_value, num_nodes=count
            )
        else:
            edge_index, bias = remove_self_loops(edge_index, bias)
            edge_index, _ = add_self_loops(edge_index, num_nodes=count)
        bias = torch.cat([bias, bias.new_zeros(count, bias.size(1))])
    src, dst = edge_index
    shape = (-1, conv.heads, conv.out_channels)
    x_src, x_dst = conv.lin_l(x_l).view(shape), conv.lin_r(x_r).view(shape)
    z = x_src[src] + x_dst[dst]
    if attr is not None:
        z = z + conv.lin_edge(attr).view(shape)
    s = (F.leaky_relu(z, conv.negative_slope) * conv.att).sum(-1) + bias
    columns = []
    for node in range(num_dst):
        scores = s[dst == node]
        taking_part = scores > -torch.inf
        # One more, of weight 0, for heads that have none.
        safe = torch.where(taking_part, scores, -1e300)
        columns.append(torch.where(taking_part, safe.softmax(0), 0.0))
    order = torch.cat([(dst == node).nonzero()[:, 0] for node in range(num_dst)])
    alpha = s.new_zeros(s.shape).index_put((order,), torch.cat(columns))
    out = x_src.new_zeros(num_dst, *shape[1:]).index_add(0, dst, alpha.unsqueeze(-1) * x_src[src])
    out = out.flatten(1) if conv.concat else out.mean(1)
    return out + conv.bias, edge_index, alpha


@st.composite
def problems(draw):
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    num_src = draw(st.sampled_from([1, 4, 9]))
    bipartite, loops = draw(st.booleans()), draw(st.booleans())
    num_dst = draw(st.sampled_from([1, 5, 12])) if bipartite else num_src
    num_edges = draw(st.integers(0, 60))
    heads, channels = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from([1, 4, 7, 16]))
    edge_dim = draw(st.sampled_from([None, None, 3]))
    reach = min(num_src, num_dst) if loops else num_dst

    def randn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    index = torch.stack(
        [torch.randint(size, (num_edges,), generator=rng) for size in (num_src, reach)]
    )
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = GATv2Conv(
        (3, 2) if bipartite else 3,
        channels,
        heads=heads,
        edge_dim=edge_dim,
        concat=draw(st.booleans()),
        add_self_loops=loops,
    ).double()
    shape = (num_edges, heads) if draw(st.booleans()) else (num_edges,)
    bias = 3 * torch.randn(*shape, generator=rng, dtype=torch.float64)
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    bias = bias.masked_fill(torch.rand(*shape, generator=rng) < share, -torch.inf)
    x = (randn(num_src, 3), randn(num_dst, 2)) if bipartite else randn(num_src, 3)
    edge_attr = None if edge_dim is None else randn(num_edges, edge_dim)
    kind = draw(st.sampled_from(["plain", "int32", "EdgeIndex"]))
    given_index = {
        "plain": index,
        "int32": index.int(),
        "EdgeIndex": EdgeIndex(index, sparse_size=(num_src, num_dst)),
    }[kind]
    return conv, x, index, given_index, edge_attr, bias.requires_grad_()


@pytest.mark.parametrize("backend", ["fused", "scatter", "reference"])
@settings(max_examples=40)
@given(problem=problems())
def test_against_message_passing(problem, backend):
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    conv, x, index, given_index, edge_attr, bias = problem
    features = list(x) if isinstance(x, tuple) else [x]
    leaves = [*features, bias, *conv.parameters(), *([] if edge_attr is None else [edge_attr])]
    with use_backend(backend):
        out, (edges, alpha) = conv(
            x, given_index, edge_attr, return_attention_weights=True, attn_bias=bias
        )
    want, want_edges, want_alpha = by_messages(conv, x, index, edge_attr, bias)
    assert torch.equal(torch.as_tensor(edges).long(), want_edges)
    weights = torch.randn_like(out), torch.randn_like(alpha)
    close(out, want)
    close(alpha, want_alpha)
    found, expected = (
        torch.autograd.grad(
            (o * weights[0]).sum() + (a * weights[1]).sum(), leaves, allow_unused=True
        )
        for o, a in ((out, alpha), (want, want_alpha))
    )
    for got, right in zip(found, expected, strict=True):
        close(got, torch.zeros_like(got) if right is None else right)
    assert (found[len(features)][bias == -torch.inf] == 0).all()


def close(got, want):
    """Within 1e-10 of the largest value."""
    got, want = got.detach(), want.detach()
    assert got.isfinite().all()
    largest = float(want.abs().max()) if want.numel() else 0.0
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10 * max(1.0, largest))


def small(dtype=torch.float64, **options):
    rng = torch.Generator().manual_seed(0)
    index = torch.randint(6, (2, 25), generator=rng)
    torch.manual_seed(0)
    conv = GATv2Conv(4, 3, heads=2, **options).to(dtype)
    x = torch.randn(6, 4, generator=rng).to(dtype)
    bias = torch.randn(25, 2, generator=rng).to(dtype)
    bias[index[1] == 2] = -torch.inf
    return conv, x, index, bias


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_infinite_and_nan_biases_spoil_their_node_as_in_message_passing(backend, bad):
    conv, x, index, _ = small(add_self_loops=False)
    bias = torch.zeros(25).double()
    bias[3] = bad
    out = conv(x, index, attn_bias=bias) if backend is None else None
    with use_backend(backend):
        out = conv(x, index, attn_bias=bias)
    node = int(index[1, 3])
    assert out[node].isnan().all()
    others = torch.arange(6) != node
    assert torch.equal(out[others], conv(x, index)[others]) or torch.allclose(
        out[others], conv(x, index)[others], atol=1e-12
    )


@pytest.mark.parametrize("backend", backends())
def test_a_constant_bias_changes_nothing_and_a_mask_removes_edges(backend):
    conv, x, index, _ = small(add_self_loops=False)
    keep = torch.rand(25, generator=torch.Generator().manual_seed(1)) < 0.6
    with use_backend(backend):
        plain = conv(x, index)
        assert torch.allclose(conv(x, index, attn_bias=torch.full((25,), 2.5)), plain, atol=1e-12)
        masked = conv(x, index, attn_bias=torch.where(keep, 0.0, -torch.inf))
        assert torch.allclose(masked, conv(x, index[:, keep]), atol=1e-12)


@pytest.mark.parametrize("backend", backends())
def test_a_node_all_of_whose_edges_are_left_out_is_one_without_edges(backend):
    """With its features of any size, in message passing too."""
    conv, x, index, _ = small(add_self_loops=False)
    node = int(index[1, 0])
    out_of_it = index[1] == node
    bias = torch.zeros(25).double().masked_fill(out_of_it, -torch.inf)
    with use_backend(backend):
        out, (_, alpha) = conv(x, index, attn_bias=bias, return_attention_weights=True)
        want = conv(x, index[:, ~out_of_it])
    assert torch.equal(out[node], conv.bias)
    assert (alpha[out_of_it] == 0).all()
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("backend", [name for name in backends() if name != "scatter"])
def test_second_derivatives(backend):
    conv, x, index, bias = small()
    x.requires_grad_()
    bias.requires_grad_()

    def call(x, bias):
        with use_backend(backend):
            return conv(x, index, attn_bias=bias)

    assert torch.autograd.gradcheck(call, (x, bias))
    assert torch.autograd.gradgradcheck(call, (x, bias))


def edge_by_edge(x_src, x_dst, att, edge_attr, edge_weight, bias, index):
    """One element of a batch; masked edges take no part."""
    out = []
    src, dst = index
    for node in range(x_dst.size(0)):
        mine = dst == node
        x_j = x_src[src[mine]]
        z = x_j + x_dst[node] + (edge_attr[mine] @ edge_weight.t()).view_as(x_j)
        s = (F.leaky_relu(z, 0.2) * att).sum(-1) + bias[mine]
        masked = s == -torch.inf
        alpha = s.masked_fill(masked, -1e9).softmax(0).masked_fill(masked, 0.0)
        out.append((alpha.unsqueeze(-1) * x_j).sum(0))
    return torch.stack(out)


@pytest.mark.parametrize("backend", backends())
def test_masked_rows_of_a_batch_with_edge_features(backend):
    """Two derivatives, where nothing is left of a row, and where all else is shared."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    index = torch.randint(5, (2, 14), generator=rng)
    leaves = (random(2, 5, 2, 3), random(2, 5, 2, 3), random(2, 3))
    leaves = (*leaves, random(14, 4), random(6, 4), random(14, 2))
    hidden = torch.zeros(14, 2, dtype=torch.bool)
    hidden[index[1] == 2, 0] = True
    hidden[index[1] == 3] = True
    assert hidden.any(0).all()
    graph = Graph.from_edge_index(index, 5)

    def found(by_edge: bool):
        *given, bias = leaves
        x_src, x_dst, att, edge_attr, edge_weight = given
        bias = bias.masked_fill(hidden, -torch.inf)
        if by_edge:
            pairs = zip(x_src, x_dst, strict=True)
            shared = (att, edge_attr, edge_weight, bias, index)
            out = torch.stack([edge_by_edge(*pair, *shared) for pair in pairs])
        else:
            extra = {"edge_attr": edge_attr, "edge_weight": edge_weight, "attn_bias": bias}
            out = gatv2_attention(x_src, x_dst, att, graph, backend=backend, **extra)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        if backend == "scatter":  # whose operators have no second derivatives
            return out, *first
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        return out, *first, *second

    for mine, theirs in zip(found(False), found(True), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@needs_fused
def test_batched_gradients():
    conv, x, index, bias = small()
    bias.requires_grad_()
    out = conv(x, index, attn_bias=bias)
    grads = torch.randn(3, *out.shape, dtype=torch.float64)
    (batched,) = torch.autograd.grad(out, bias, grads, is_grads_batched=True, retain_graph=True)
    for k, grad in enumerate(grads):
        (one,) = torch.autograd.grad(out, bias, grad, retain_graph=True)
        torch.testing.assert_close(batched[k], one)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_compile_and_export(backend):
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    conv, x, index, bias = small(torch.float32, backend=backend)
    want = conv(x, index, attn_bias=bias)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    bias.requires_grad_()
    got = compiled(x, index, attn_bias=bias)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    found, bias.grad = bias.grad, None
    conv(x, index, attn_bias=bias).square().sum().backward()
    torch.testing.assert_close(found, bias.grad)
    exported = torch.export.export(
        conv, (x, index), {"attn_bias": bias.detach()}, strict=False
    ).module()
    torch.testing.assert_close(exported(x, index, attn_bias=bias.detach()), want)


@needs_fused
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_in_float32(dtype):
    conv, x, index, bias = small(dtype)
    wide = bias.float() + 1e-4  # lost in half precision
    wide.requires_grad_()
    out = conv(x, index, attn_bias=wide)
    assert out.dtype == dtype
    out.sum().backward()
    assert wide.grad.dtype == torch.float32
    exact = GATv2Conv(4, 3, heads=2).double()
    exact.load_state_dict(conv.state_dict())
    want = exact(x.double(), index, attn_bias=wide.detach().double())
    torch.testing.assert_close(out.double(), want, rtol=3e-2, atol=3e-2)
    with torch.autocast("cpu", dtype):
        assert conv.float()(x.float(), index, attn_bias=bias.float()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [1e3, 1e5])
@pytest.mark.parametrize("hooked", [True, False], ids=["message passing", "backend"])
def test_biases_in_half_precision_are_added_in_float32(hooked, dtype, offset):
    """What a bias adds to all edges of a node changes nothing, whatever half precision holds."""
    conv, x, index, bias = small(dtype, add_self_loops=False)
    if hooked:
        conv.register_message_forward_hook(lambda *_: None)
    bias = bias.float().nan_to_num(neginf=-2.0).requires_grad_()
    want = conv(x, index, attn_bias=bias)
    (expected,) = torch.autograd.grad(want.float().square().sum(), bias)
    got = conv(x, index, attn_bias=bias + offset)
    (found,) = torch.autograd.grad(got.float().square().sum(), bias)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want, rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)


def test_patterns_of_switching():
    """A swapped layer takes biases; PyG's does not know them."""
    conv, x, index, bias = small()
    want = conv(x, index, attn_bias=bias)
    pyg = to_pyg(conv)
    assert type(pyg) is PyGGATv2Conv
    with pytest.raises(TypeError, match="attn_bias"):
        pyg(x, index, attn_bias=bias)
    assert torch.equal(use_gatv2(pyg)(x, index, attn_bias=bias), want)


def test_sparse_matrices_and_steps_of_message_passing():
    conv, x, index, bias = small(add_self_loops=False)
    index = index[:, (index[0] * 6 + index[1]).argsort()].unique(dim=1)
    order = (index[1] * 6 + index[0]).argsort()
    bias = bias[: index.size(1)]
    adj = to_torch_csr_tensor(index, size=(6, 6)).t().to_sparse_csr()
    want = conv(x, index, attn_bias=bias)
    close(conv(x, adj, attn_bias=bias[order]), want)

    class Stepwise(GATv2Conv):
        def edge_update(self, x_j, x_i, edge_attr, index, ptr, dim_size):
            return super().edge_update(x_j, x_i, edge_attr, index, ptr, dim_size)

    class Own(GATv2Conv):
        def edge_update(self, x_j, x_i, edge_attr, index, ptr, dim_size):
            return torch.ones(x_j.size(0), self.heads, dtype=x_j.dtype)

    for kind in (Stepwise, Own):
        other = kind(4, 3, heads=2, add_self_loops=False).double()
        other.load_state_dict(conv.state_dict())
        if kind is Stepwise:
            close(other(x, index, attn_bias=bias), want)
        else:
            with pytest.raises(ValueError, match=r"^Expected no 'attn_bias', since Own has"):
                other(x, index, attn_bias=bias)


def test_rows_of_a_graph_take_the_biases_of_its_ids():
    rng = torch.Generator().manual_seed(0)
    index = torch.randint(9, (2, 60), generator=rng)
    graph = Graph.from_edge_index(index, 9, add_self_loops=True)
    x = torch.randn(9, 2, 3, generator=rng, dtype=torch.float64)
    att = torch.randn(2, 3, generator=rng, dtype=torch.float64)
    bias = torch.randn(graph.num_ids, generator=rng, dtype=torch.float64)
    whole = gatv2_attention(x, x, att, graph, attn_bias=bias)
    parts = [
        gatv2_attention(x, x[a:b], att, graph.rows(a, b), attn_bias=bias)
        for a, b in ((0, 4), (4, 9))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("bias", "error", "match"),
    [
        (
            torch.zeros(24),
            ValueError,
            r"^Expected 'attn_bias' to have the shape \[25\] or \[25, 2\]",
        ),
        *(
            (
                torch.zeros(25, heads),
                ValueError,
                rf"^Expected 'attn_bias' .* \[25\] or \[25, 2\], got \[25, {heads}\]",
            )
            for heads in (3, 1)
        ),
        (torch.zeros(25, dtype=torch.long), TypeError, r"^Expected 'attn_bias' to have a floating"),
        ([0.0] * 25, TypeError, r"^Expected 'attn_bias' to be a Tensor, got list"),
        (torch.zeros(25, device="meta"), ValueError, r"^Expected 'attn_bias' to be on cpu"),
    ],
    ids=["count", "heads", "one head", "dtype", "type", "device"],
)
def test_errors(bias, error, match):
    conv, x, index, _ = small(torch.float32)
    with pytest.raises(error, match=match):
        conv(x, index, attn_bias=bias)
    graph = Graph.from_edge_index(index, 6)
    x = torch.zeros(6, 2, 3)
    with pytest.raises(error, match=match):
        gatv2_attention(x, x, x[0], graph, attn_bias=bias)


def test_layouts_that_take_none():
    conv, x, index, _ = small(torch.float32)
    csr = to_torch_csr_tensor(index.unique(dim=1), size=(6, 6))
    bias = torch.zeros(csr._nnz())
    with pytest.raises(
        NotImplementedError, match=r"^Expected no 'attn_bias' with 'add_self_loops'"
    ):
        conv(x, csr, attn_bias=bias)
    conv.add_self_loops = False
    with pytest.raises(NotImplementedError, match=r"^Expected no 'attn_bias' with an 'edge_index'"):
        conv(x, csr.to_sparse_csc(), attn_bias=bias)
