"""The short way to the CPU kernels: taken where nothing wraps a call, and only there."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention
from gatv2_pyg.kernels import cpu_kernels
from gatv2_pyg.ops import direct, operators
from gatv2_pyg.ops.checks import DTYPES

pytestmark = [
    pytest.mark.skipif(cpu_kernels() is None, reason="no compiled CPU kernels"),
    pytest.mark.usefixtures("way"),
]

GRAPH = Graph.from_edge_index(
    torch.randint(30, (2, 200), generator=torch.Generator().manual_seed(0)), 30, 30
)


def tensors(dtype=torch.float32, edge_dim=None):
    rng = torch.Generator().manual_seed(1)
    shapes = [(30, 2, 5), (30, 2, 5), (2, 5)]
    if edge_dim is not None:
        shapes += [(200, edge_dim), (10, edge_dim)]
    return [
        torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def attention(x_src, x_dst, att, edge_attr=None, edge_weight=None, **options):
    return gatv2_attention(
        x_src, x_dst, att, GRAPH, edge_attr=edge_attr, edge_weight=edge_weight, **options
    )


def batched(dtype):
    """Leaves of a batch, and of biases."""
    x_src, x_dst, att = tensors(dtype)
    bias = torch.randn(200, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
    x_src, x_dst = (torch.stack([x, 2 * x]).detach().requires_grad_() for x in (x_src, x_dst))
    return x_src, x_dst, att, bias


@pytest.fixture
def taken(monkeypatch):
    """How often the short way was taken forward and back, and the operators were."""
    counts = {"forward": 0, "backward": 0, "operators": 0, "their backward": 0}

    def count(module, name, what):
        original = getattr(module, name)

        def counted(*args, **kwargs):
            counts[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(direct, "_forward", "forward")
    count(direct, "_backward", "backward")
    count(operators, "attention", "operators")
    count(operators, "gradients", "their backward")
    return counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edge_dim", [None, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_same_bits_as_the_operators(taken, monkeypatch, dtype, edge_dim, dropout):
    results = []
    for way in ("direct", "operators"):
        if way == "operators":
            monkeypatch.setattr(direct, "fits", lambda *_: False)
        torch.manual_seed(3)
        leaves = tensors(dtype, edge_dim)
        out, alpha = attention(*leaves, dropout=dropout, training=True, return_attention=True)
        loss = out.float().square().sum() + alpha.float().square().sum()
        results.append([out, alpha, *torch.autograd.grad(loss, leaves)])
    assert taken == {"forward": 1, "backward": 1, "operators": 1, "their backward": 1}
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_and_biases_take_the_short_way(taken, monkeypatch, dtype):
    results = []
    for way in ("direct", "operators"):
        if way == "operators":
            monkeypatch.setattr(direct, "fits", lambda *_: False)
        *leaves, bias = batched(dtype)
        out, alpha = attention(*leaves, attn_bias=bias, return_attention=True)
        loss = out.float().square().sum() + alpha.float().square().sum()
        results.append([out, alpha, *torch.autograd.grad(loss, [*leaves, bias])])
    assert taken == {"forward": 1, "backward": 1, "operators": 1, "their backward": 1}
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_what_needs_no_gradient_has_none(taken):
    x_src, x_dst, att = tensors()
    assert not attention(x_src.detach(), x_dst.detach(), att.detach()).requires_grad
    with torch.no_grad():
        assert not attention(x_src, x_dst, att).requires_grad
    out = attention(x_src.detach(), x_dst, att)
    assert [grad.shape for grad in torch.autograd.grad(out.sum(), [x_dst, att])] == [
        x_dst.shape,
        att.shape,
    ]
    assert taken["operators"] == 0


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_mode_and_the_profiler_see_the_operators():
    with Seen() as seen:
        attention(*tensors()).sum().backward()
    assert "gatv2_pyg.attention.default" in seen.names
    assert "gatv2_pyg.attention_backward.default" in seen.names
    with torch.profiler.profile() as profile:
        attention(*tensors()).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"gatv2_pyg::attention", "gatv2_pyg::attention_backward"} <= names


def test_backward_under_a_mode_goes_by_the_operators():
    out = attention(*tensors())
    with Seen() as seen:
        out.sum().backward()
    assert "gatv2_pyg.attention_backward.default" in seen.names


def test_batched_and_second_derivatives():
    leaves = tensors(torch.float64)
    out = attention(*leaves)
    vectors = torch.randn(3, *out.shape, dtype=torch.float64)
    batched = torch.autograd.grad(out, leaves, vectors, is_grads_batched=True, retain_graph=True)
    for k, vector in enumerate(vectors):
        single = torch.autograd.grad(out, leaves, vector, retain_graph=True)
        for one, other in zip(single, batched, strict=True):
            torch.testing.assert_close(other[k], one)
    assert torch.autograd.gradgradcheck(attention, leaves)


@pytest.mark.parametrize("of", ["x_src", "grad"])
def test_tensors_whose_memory_is_not_their_value(of):
    """Conjugate views carry a sign; the gradient of a sum with no elements has no memory."""
    x_src, x_dst, att = (leaf.detach() for leaf in tensors())
    negative = torch.complex(torch.zeros_like(x_src), x_src).conj().imag
    assert negative.is_neg()
    if of == "x_src":
        assert torch.equal(attention(negative, x_dst, att), attention(-x_src, x_dst, att))
        return
    leaf = x_src.clone().requires_grad_()
    out = attention(leaf, x_dst, att)
    for vector in (negative, torch._efficientzerotensor(out.shape)):
        plain = torch.empty_like(out).copy_(vector)
        got = torch.autograd.grad(out, leaf, vector, retain_graph=True)[0]
        assert torch.equal(got, torch.autograd.grad(out, leaf, plain, retain_graph=True)[0])


def other_strides(value):
    """The same numbers, the first dimension innermost."""
    return value.movedim(0, -1).contiguous().movedim(-1, 0)


@pytest.mark.parametrize("change", ["dtype", "shape", "strides", "none"])
def test_saved_tensors_that_hooks_replace(taken, change):
    """Tensors of another form are refused by the operators' checks, not read."""

    def unpack(value):
        if change == "dtype":
            return value.double() if value.dim() == 3 else value
        if change == "strides":
            return other_strides(value)
        return value[:-1] if change == "shape" else value.clone()

    leaves = tensors()
    with torch.autograd.graph.saved_tensors_hooks(lambda value: value, unpack):
        out = attention(*leaves)
    if change in ("strides", "none"):
        got = torch.autograd.grad(out.sum(), leaves)
        want = torch.autograd.grad(attention(*leaves).sum(), leaves)
        assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))
        return
    with pytest.raises((TypeError, ValueError), match=r"^Expected '"):
        out.sum().backward()


@pytest.mark.parametrize(
    "replaced", [(2, 4), (1, 2, 5), (3, 5)], ids=["channels", "dimensions", "heads"]
)
def test_a_parameter_of_another_shape_is_refused(replaced):
    layer = GATv2Conv(4, 5, heads=2)
    layer.att = torch.nn.Parameter(torch.ones(1, *replaced))
    with pytest.raises(ValueError, match=r"^Expected 'att' to have the shape"):
        layer(torch.randn(30, 4), torch.randint(30, (2, 9)))


@pytest.mark.parametrize("shape", [(10, 2), (9, 3), (30,)])
def test_an_edge_weight_of_another_shape_is_refused(shape):
    layer = GATv2Conv(4, 5, heads=2, edge_dim=3, add_self_loops=False)
    layer.lin_edge.weight = torch.nn.Parameter(torch.ones(shape))
    with pytest.raises(ValueError, match=r"^Expected 'edge_weight' to have the shape"):
        layer(torch.randn(30, 4), torch.randint(30, (2, 9)), torch.randn(9, 3))


class Named(torch.Tensor):
    pass


def test_a_subclass_comes_out_as_it_went_in(taken):
    x_src, x_dst, att = tensors()
    assert isinstance(attention(x_src.as_subclass(Named), x_dst, att), Named)
    assert taken == {"forward": 0, "backward": 0, "operators": 1, "their backward": 0}


class Rows(torch.nn.Module):
    """A linear map that gives another number of rows than it got."""

    def __init__(self, lin, count):
        super().__init__()
        self.lin, self.count = lin, count

    @property
    def weight(self):
        return self.lin.weight

    def forward(self, x):
        return self.lin(x)[: self.count]


@pytest.mark.parametrize("which", ["lin_l", "lin_r"])
def test_maps_that_drop_rows_are_refused(which):
    """The kernels would read beyond the tensor's end."""
    layer = GATv2Conv(4, 5, heads=2, share_weights=False)
    setattr(layer, which, Rows(getattr(layer, which), 3))
    with pytest.raises(ValueError, match=r"^Expected '"):
        layer(torch.randn(30, 4), torch.randint(30, (2, 90)))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_nothing_is_dropped_outside_training(backend):
    x, graph = torch.randn(6, 2, 3), Graph.from_edge_index(torch.randint(6, (2, 20)), 6)
    found = [
        gatv2_attention(x, x, x[0], graph, dropout=dropout, return_attention=True, backend=backend)
        for dropout in (0.0, 0.9)
    ]
    for kept, same in zip(*found, strict=True):
        assert torch.equal(kept, same)
