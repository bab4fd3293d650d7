"""Maps, attention and bias in one step of autograd: where nobody sees the steps, and exactly."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
import torch_geometric.nn
from torch.utils.checkpoint import checkpoint

from gatv2_pyg import GATv2Conv
from gatv2_pyg.kernels import cpu_kernels
from gatv2_pyg.ops import joined
from tests.ops.test_direct import other_strides

pytestmark = pytest.mark.skipif(cpu_kernels() is None, reason="no compiled CPU kernels")

NODES, EDGES, FEATURES, BONDS = 30, 90, 5, 3


@pytest.fixture
def taken(monkeypatch):
    """How often the way was taken forward, back, and back by operations autograd follows."""
    counts = {"layer": 0, "_gradients": 0, "_gradients_of_composed": 0}

    def count(name):
        original = getattr(joined, name)

        def counted(*args):
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(joined, name, counted)

    for name in counts:
        count(name)
    return counts


def problem(nodes=NODES, edges=EDGES, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(nodes, FEATURES, generator=rng, dtype=dtype)
    edge_index = torch.randint(nodes, (2, edges), generator=rng)
    edge_attr = torch.randn(edges, BONDS, generator=rng, dtype=dtype)
    return x, edge_index, edge_attr


def pair(dtype=torch.float64, **options):
    """This layer and PyG's, with the same parameters."""
    torch.manual_seed(0)
    options = {"heads": 4, **options}
    theirs = torch_geometric.nn.GATv2Conv(FEATURES, 6, **options).to(dtype)
    torch.nn.init.normal_(theirs.att)
    ours = GATv2Conv(FEATURES, 6, **options).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def agree(found, expected, rtol=1e-10, atol=1e-10):
    for got, want in zip(found, expected, strict=True):
        if got is None or want is None:
            assert all(value is None or not value.any() for value in (got, want))
        else:
            torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("concat", "share_weights", "edge_dim", "add_self_loops", "of_x"),
    [*itertools.product((True, False), (True, False), (None, BONDS), (True, False), (True, False))],
)
@pytest.mark.parametrize("nodes", [NODES, 1, 0])
def test_gives_what_pyg_gives(taken, nodes, concat, share_weights, edge_dim, add_self_loops, of_x):
    x, edge_index, edge_attr = problem(max(nodes, 1), EDGES if nodes else 0)
    x = x[:nodes].requires_grad_(of_x)
    extra = () if edge_dim is None else (edge_attr,)
    found = []
    for layer in pair(
        concat=concat,
        share_weights=share_weights,
        edge_dim=edge_dim,
        add_self_loops=add_self_loops,
    ):
        leaves = [*layer.parameters(), *[x] * of_x]
        out = layer(x, edge_index, *extra)
        grads = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
        with torch.no_grad():
            found.append([out, *grads, layer(x, edge_index, *extra)])
    agree(*found)
    assert taken == {"layer": 2, "_gradients": 1, "_gradients_of_composed": 0}


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("share_weights", [True, False])
def test_second_and_batched_derivatives(taken, concat, share_weights):
    x, edge_index, edge_attr = problem()
    x.requires_grad_()
    found = []
    for layer in pair(concat=concat, share_weights=share_weights, edge_dim=BONDS):
        leaves = [x, *layer.parameters()]
        # x is no leaf, nor is what the second derivative goes through.
        out = layer(x * 2, edge_index, edge_attr)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)
        out = layer(x * 2, edge_index, edge_attr)
        rows = torch.eye(3, out.numel(), dtype=out.dtype).view(3, *out.shape)
        batched = torch.autograd.grad(out, leaves, rows, is_grads_batched=True)
        found.append([*first, *second, *batched])
    agree(*found)
    # The second derivative goes through the gradient of the loss, and so through the layer too.
    assert taken == {"layer": 2, "_gradients": 1, "_gradients_of_composed": 2}


@pytest.mark.parametrize("frozen", ["lin_l", "lin_r", "att", "bias", "lin_edge", "lin_l lin_r"])
def test_only_what_needs_a_gradient_gets_one(taken, frozen):
    x, edge_index, edge_attr = problem()
    found = []
    for layer in pair(edge_dim=BONDS):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name.split(".")[0] not in frozen.split())
        layer(x, edge_index, edge_attr).square().sum().backward()
        found.append([parameter.grad for parameter in layer.parameters()])
    agree(*found)
    assert any(grad is None for grad in found[0])
    assert taken["_gradients"] == 1


def test_one_weight_in_both_places(taken):
    x, edge_index, _ = problem()
    found = []
    for layer in pair():
        layer.lin_r = layer.lin_l
        leaves = list(layer.parameters())
        loss = layer(x, edge_index).square().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)
        plain = torch.autograd.grad(layer(x, edge_index).square().sum(), leaves)
        found.append([*first, *second, *plain])
    agree(*found)
    assert taken == {"layer": 2, "_gradients": 2, "_gradients_of_composed": 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_is_that_of_separate_steps(taken, monkeypatch, dtype):
    x, edge_index, edge_attr = problem(dtype=dtype)
    ours, _ = pair(dtype, dropout=0.5, edge_dim=BONDS)
    bias = torch.randn(EDGES, dtype=dtype, requires_grad=True)
    found = []
    for joins in (True, False):
        if not joins:
            monkeypatch.setattr(joined, "fits", lambda *_: False)
        torch.manual_seed(4)
        out = ours(x, edge_index, edge_attr, attn_bias=bias)
        found.append([out, *torch.autograd.grad(out.square().sum(), [*ours.parameters(), bias])])
    assert taken["layer"] == 1
    assert all(map(torch.equal, *found))


def test_saved_tensors_of_other_strides(taken):
    x, edge_index, edge_attr = problem()
    ours, _ = pair(edge_dim=BONDS)
    expected = torch.autograd.grad(ours(x, edge_index, edge_attr).sum(), [*ours.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, other_strides):
        out = ours(x, edge_index, edge_attr)
    agree(torch.autograd.grad(out.sum(), [*ours.parameters()]), expected, rtol=0, atol=0)
    assert taken["_gradients"] == 2


def test_saved_tensors_that_hooks_replace(taken):
    x, edge_index, edge_attr = problem(dtype=torch.float32)
    ours, _ = pair(torch.float32, edge_dim=BONDS)
    expected = torch.autograd.grad(ours(x, edge_index, edge_attr).sum(), [*ours.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t):
        out = ours(x, edge_index, edge_attr)
    found = torch.autograd.grad(out.sum(), [*ours.parameters()])
    agree(found, expected, rtol=1e-4, atol=1e-5)
    assert taken["_gradients_of_composed"] == 1


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints(taken, use_reentrant):
    x, edge_index, _ = problem()
    x.requires_grad_()
    ours, _ = pair(dropout=0.3)
    found = []
    for run in (ours, lambda *args: checkpoint(ours, *args, use_reentrant=use_reentrant)):
        torch.manual_seed(5)
        out = run(x, edge_index)
        found.append(torch.autograd.grad(out.sum(), x) if not use_reentrant else _backward(out, x))
    assert torch.equal(found[0][0], found[1][0])
    assert taken["layer"] == 3


def _backward(out, x):
    x.grad = None
    out.sum().backward()
    return (x.grad,)


def test_what_is_changed_before_backward_is_an_error():
    x, edge_index, _ = problem()
    ours, _ = pair()
    out = ours(x, edge_index)
    with torch.no_grad():
        ours.lin_l.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_the_output_is_the_callers():
    x, edge_index, _ = problem()
    found = []
    for layer in pair():
        out = layer(x, edge_index)
        out.mul_(2)
        found.append(torch.autograd.grad(out.square().sum(), list(layer.parameters())))
    agree(*found)


def calls():
    """Calls whose steps someone sees, or that have others: ``(name, layer, call)``."""
    x, edge_index, _ = problem()
    plain = {}
    yield "attention", plain, lambda layer: layer(x, edge_index, return_attention_weights=True)[0]
    yield "a pair", plain, lambda layer: layer((x, x.clone()), edge_index)
    yield "sparse features", plain, lambda layer: layer(x.to_sparse_csr(), edge_index)
    yield "a residual", {"residual": True}, lambda layer: layer(x, edge_index)
    yield "no bias", {"bias": False}, lambda layer: layer(x, edge_index)
    yield "a message hook", plain, lambda layer: _listened(layer, x, edge_index)
    for part in ("lin_l", "lin_r"):
        yield (
            f"a hook on {part}",
            plain,
            lambda layer, part=part: _hooked(layer, part, x, edge_index),
        )


def _listened(layer, x, edge_index):
    layer.register_message_forward_hook(lambda *_: None)
    return layer(x, edge_index)


def _hooked(layer, part, x, edge_index):
    seen = []
    getattr(layer, part).register_forward_hook(lambda *_: seen.append(1))
    out = layer(x, edge_index)
    assert seen
    return out


@pytest.mark.parametrize(
    ("options", "call"), [pytest.param(*case, id=name) for name, *case in calls()]
)
def test_other_calls_go_step_by_step(taken, options, call):
    ours, theirs = pair(**options)
    agree([call(ours)], [call(theirs)])
    assert taken["layer"] == 0


def test_autocast_goes_step_by_step(taken):
    x, edge_index, _ = problem(dtype=torch.float32)
    ours, _ = pair(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x, edge_index).dtype == torch.float32
    assert taken["layer"] == 0


def test_batches_go_step_by_step(taken):
    x, edge_index, _ = problem()
    ours, _ = pair()
    batch = ours(torch.stack([x, 2 * x]), edge_index)
    assert taken["layer"] == 0
    agree(batch, [ours(x, edge_index), ours(2 * x, edge_index)])


@pytest.mark.parametrize("part", ["att", "bias", "lin_r.bias"])
def test_a_parameter_of_another_shape_is_never_read_beyond(taken, part):
    x, edge_index, _ = problem()
    ours, _ = pair()
    ours.get_parameter(part).data = torch.ones(1, dtype=torch.float64)
    with contextlib.suppress(RuntimeError, ValueError):
        ours(x, edge_index)
    assert taken["layer"] == 0
