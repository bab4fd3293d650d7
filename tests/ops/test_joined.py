"""Maps, attention and bias in one step of autograd: where nobody sees the steps, and exactly."""

from __future__ import annotations

import contextlib
import copy
import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gatv2_pyg import GATv2Conv
from gatv2_pyg.graph.adjacency import Neighbours
from gatv2_pyg.kernels import cpu_kernels
from gatv2_pyg.ops import joined
from tests.ops import transforms

pytestmark = [
    pytest.mark.skipif(cpu_kernels() is None, reason="no compiled CPU kernels"),
    pytest.mark.usefixtures("way"),
]

LINEAR = F.linear
NODES, EDGES, FEATURES, BONDS = 30, 90, 5, 3


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
    assert taken == {"layer": 2, "_gradients": 1, "followed": 0}


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
    assert taken == {"layer": 2, "_gradients": 1, "followed": 2}


@pytest.mark.parametrize(
    "frozen", ["lin_l", "lin_r", "att", "bias", "lin_edge", "lin_l lin_r", "lin_l.weight"]
)
def test_only_what_needs_a_gradient_gets_one(taken, frozen):
    x, edge_index, edge_attr = problem()
    found = []
    for layer in pair(edge_dim=BONDS):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not {name, name.split(".")[0]} & set(frozen.split()))
        layer(x, edge_index, edge_attr).square().sum().backward()
        found.append([parameter.grad for parameter in layer.parameters()])
    agree(*found)
    assert any(grad is None for grad in found[0])
    assert taken["layer"] == (frozen != "lin_l lin_r")


LEAVES = ["x", "lin_l.weight", "lin_l.bias", "lin_r.weight", "lin_r.bias", "att", "bias"]


@pytest.mark.parametrize("name", LEAVES)
def test_one_gradient_alone(taken, name):
    x, edge_index, _ = problem()
    x.requires_grad_()
    found = []
    for layer in pair():
        leaf = x if name == "x" else layer.get_parameter(name)
        found.append(torch.autograd.grad(layer(x, edge_index).square().sum(), leaf))
    agree(*found)
    assert taken["_gradients"] == 1


@pytest.mark.parametrize("joins", [True, False])
def test_forward_mode_over_backward(monkeypatch, joins):
    """A gradient with a tangent gives gradients with tangents."""
    if not joins:
        monkeypatch.setattr(joined, "takes", lambda _: False)
    x, edge_index, edge_attr = problem()
    x.requires_grad_()
    found = []
    for layer in pair(edge_dim=BONDS):
        out = layer(x, edge_index, edge_attr)
        with forward_ad.dual_level():
            grad = forward_ad.make_dual(out.detach().cos(), out.detach().sin())
            got = torch.autograd.grad(out, [x, *layer.parameters()], grad)
            found.append([part for value in got for part in forward_ad.unpack_dual(value)])
    assert all(part is not None for part in found[0])
    agree(*found)


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
    assert taken == {"layer": 2, "_gradients": 2, "followed": 1}


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
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_nothing_is_dropped_outside_training(taken):
    x, edge_index, _ = problem()
    ours, theirs = pair(dropout=0.9)
    agree([ours.eval()(x, edge_index)], [theirs.eval()(x, edge_index)])
    assert taken["layer"] == 1


def test_saved_tensors_that_hooks_replace(taken):
    x, edge_index, edge_attr = problem(dtype=torch.float32)
    ours, _ = pair(torch.float32, edge_dim=BONDS)
    expected = torch.autograd.grad(ours(x, edge_index, edge_attr).sum(), [*ours.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t):
        out = ours(x, edge_index, edge_attr)
    found = torch.autograd.grad(out.sum(), [*ours.parameters()])
    agree(found, expected, rtol=1e-4, atol=1e-5)
    assert taken["followed"] == 1


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
    x.requires_grad_()
    ours, _ = pair()
    out = ours(x, edge_index)
    with torch.no_grad():
        ours.lin_l.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


UNSAVED = ["lin_l.bias", "lin_r.bias", "bias"]


def first_and_second(layer, out, leaves):
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)
    return [*first, *second]


@pytest.mark.parametrize("name", [*UNSAVED, "lin_l.weight", "lin_r.weight"])
def test_what_backward_does_not_need_may_be_changed(taken, name):
    x, edge_index, _ = problem()
    # The weights are needed for the gradient of x alone.
    x.requires_grad_(name in UNSAVED)
    found = []
    for layer in pair():
        out = layer(x, edge_index)
        with torch.no_grad():
            layer.get_parameter(name).mul_(2)
        out.square().sum().backward()
        found.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
        x.grad = None
    agree(*found)
    assert taken["_gradients"] == 1


@pytest.mark.parametrize("name", [*UNSAVED, "lin_l.weight", "lin_r.weight"])
def test_a_change_before_second_derivatives_is_noticed(name):
    x, edge_index, _ = problem()
    x.requires_grad_(name in UNSAVED)
    ours, _ = pair()
    out = ours(x, edge_index)
    with torch.no_grad():
        ours.get_parameter(name).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.square().sum(), list(ours.parameters()), create_graph=True)


def test_second_derivatives_where_x_needs_no_gradient(taken):
    x, edge_index, _ = problem()
    found = []
    for layer in pair():
        leaves = list(layer.parameters())
        found.append(first_and_second(layer, layer(x, edge_index), leaves))
    agree(*found)
    assert taken["followed"] == 1


def test_features_of_frozen_maps_are_not_kept():
    x, edge_index, _ = problem()
    x.requires_grad_()
    found = []
    for layer in pair():
        layer.lin_l.requires_grad_(False)
        layer.lin_r.requires_grad_(False)
        features = x * 2
        out = layer(features, edge_index)
        features.detach().zero_()
        kept = weakref.ref(features)
        del features
        assert kept() is None
        found.append(torch.autograd.grad(out.square().sum(), [x, layer.att, layer.bias]))
    agree(*found)


class Silent(torch.autograd.Function):
    """A step that gives no gradient back."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_gradient_of_the_output_is_none_of_the_parameters(taken):
    x, edge_index, _ = problem()
    ours, _ = pair()
    Silent.apply(ours(x.requires_grad_(), edge_index)).sum().backward()
    assert taken == {"layer": 1, "_gradients": 0, "followed": 0}
    assert x.grad is None
    assert all(parameter.grad is None for parameter in ours.parameters())


class Watching(TorchFunctionMode):
    """Makes of what maps give another tensor."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return self.make(found) if func in (F.linear, torch.Tensor.mm) else found


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}, {"concat": False}], ids=str)
@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_changes_nothing(taken, device, create_graph, options):
    x, edge_index, edge_attr = problem()
    ours, _ = pair(edge_dim=BONDS, **options)
    leaves, found = [x.requires_grad_(), *ours.parameters()], []
    for around in (contextlib.nullcontext(), torch.device(device)):
        torch.manual_seed(3)
        with around:
            out = ours(x, edge_index, edge_attr)
            grads = torch.autograd.grad(out.square().sum(), leaves, create_graph=create_graph)
            if create_graph:
                grads += torch.autograd.grad(grads[0].square().sum(), leaves, allow_unused=True)
        found.append([out, *grads])
    for got, want in zip(*found, strict=True):
        assert got is want is None or torch.equal(got, want)
    assert taken["layer"] == 2
    assert taken["_gradients"] == 2


@pytest.mark.parametrize("create_graph", [True, False])
def test_backward_is_not_what_autocast_or_a_mode_makes_of_it(taken, create_graph):
    x, edge_index, _ = problem(dtype=torch.float32)
    x.requires_grad_()
    ours, _ = pair(torch.float32)
    leaves = [x, *ours.parameters()]
    expected = torch.autograd.grad(ours(x, edge_index).square().sum(), leaves)
    for around in (torch.autocast("cpu", torch.bfloat16), Watching(lambda found: found * 2)):
        loss = ours(x, edge_index).square().sum()
        with around:
            found = torch.autograd.grad(loss, leaves, create_graph=create_graph)
        agree(found, expected, rtol=1e-4, atol=1e-4)
    assert taken["layer"] == 3


@pytest.mark.parametrize("way", ["Python"], indirect=True)
@pytest.mark.parametrize("share_weights", [True, False])
def test_large_rows_give_what_small_ones_do(taken, monkeypatch, share_weights):
    """Huge pages are asked for, and weights' gradients are products of their own."""
    x, edge_index, _ = problem()
    layer, _ = pair(share_weights=share_weights)
    asked, together = [], []
    handle, backward = cpu_kernels().library().handle, cpu_kernels().backward_summed
    ask = handle.gatv2_prefer_huge_pages
    monkeypatch.setattr(
        cpu_kernels(),
        "backward_summed",
        lambda *call: together.append(call[-1] is not None) or backward(*call),
    )
    found = []
    for large in (False, True):
        if large:
            monkeypatch.setattr(joined, "_KEPT_BYTES", 0)
            monkeypatch.setattr(cpu_kernels(), "_HUGE_PAGE", 0)
            monkeypatch.setattr(
                handle,
                "gatv2_prefer_huge_pages",
                lambda address, size: asked.append(size) or ask(address, size),
            )
        out = layer(x, edge_index)
        found.append([out, *torch.autograd.grad(out.square().sum(), layer.parameters())])
    agree(*found)
    assert asked == [NODES * 24 * 8] * (1 if share_weights else 2)
    assert together == [not share_weights, False]
    assert taken == {"layer": 2, "_gradients": 2, "followed": 0}


@pytest.mark.parametrize("lead", [(), (2,)], ids=str)
@pytest.mark.parametrize("bias_heads", [(), (4,)], ids=str)
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("share_weights", [True, False])
def test_gradients_share_no_memory_and_no_version(share_weights, concat, bias_heads, lead):
    x, edge_index, edge_attr = problem()
    x = x.expand(*lead, *x.shape).clone().requires_grad_()
    attn_bias = torch.zeros(EDGES, *bias_heads, dtype=x.dtype, requires_grad=True)
    layer, _ = pair(share_weights=share_weights, concat=concat, edge_dim=BONDS)
    leaves = [x, attn_bias, *layer.parameters()]
    out = layer(x, edge_index, edge_attr, attn_bias=attn_bias)
    found = torch.autograd.grad(out.square().sum(), leaves)
    storages = {grad.untyped_storage().data_ptr() for grad in found}
    assert len(storages) == len(leaves)
    for grad in found:
        assert grad.storage_offset() == 0
        assert grad.untyped_storage().nbytes() == grad.nbytes
    for changed, grad in enumerate(found):
        before = [other._version for other in found]
        grad.mul_(2)
        assert [other._version - old for other, old in zip(found, before, strict=True)] == [
            at == changed for at in range(len(found))
        ]


@pytest.mark.parametrize("by", ["a mode", "another function"])
def test_maps_that_are_watched_go_step_by_step(taken, monkeypatch, by):
    x, edge_index, _ = problem()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    found = []
    for layer in pair():
        with monkeypatch.context() as patch:
            if by == "another function":
                patch.setattr(F, "linear", lambda *args: LINEAR(*args) * scale)
                out = layer(x, edge_index)
            else:
                with Watching(lambda value: value * scale):
                    out = layer(x, edge_index)
        found.append([out, *torch.autograd.grad(out.square().sum(), [scale, layer.att])])
    agree(*found)
    assert taken["layer"] == 0


def test_a_pair_of_one_tensor_goes_through_both_maps():
    x, edge_index, _ = problem()
    found = []
    for layer in pair(share_weights=True):
        torch.manual_seed(1)
        layer.lin_r = copy.deepcopy(layer.lin_l)
        torch.nn.init.normal_(layer.lin_r.weight)
        found.append([layer(x, edge_index), layer((x, x), edge_index)])
    agree(*found)
    assert not torch.allclose(*found[0])


@pytest.mark.parametrize("shape", [(1, 6, 4), (2, 4, 6)])
def test_att_of_another_shape_is_refused(shape):
    x, edge_index, _ = problem()
    ours, _ = pair()
    ours.att = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^Expected 'att' to have the shape"):
        ours(x, edge_index)


def test_att_of_a_derived_class_is_used(taken):
    x, edge_index, _ = problem()
    found = []
    for layer in pair():
        made = property(lambda self: self._parameters["att"].exp())
        layer.__class__ = type("Positive", (type(layer),), {"att": made})
        out = layer(x, edge_index)
        found.append([out, *torch.autograd.grad(out.square().sum(), layer._parameters["att"])])
    agree(*found)
    assert taken["layer"] == 1


@pytest.mark.parametrize("joins", [True, False])
def test_saved_tensors_of_other_strides(monkeypatch, joins):
    """Rows of more than 16 edges read the saved output."""
    if not joins:
        monkeypatch.setattr(joined, "takes", lambda _: False)
    x, edge_index, _ = problem(edges=3000)
    ours, _ = pair()
    expected = torch.autograd.grad(ours(x, edge_index).sin().sum(), list(ours.parameters()))
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda value: value,
        lambda value: value.transpose(0, -1).contiguous().transpose(0, -1),
    )
    with hooks:
        out = ours(x, edge_index)
    agree(torch.autograd.grad(out.sin().sum(), list(ours.parameters())), expected)


def test_features_are_made_once(monkeypatch):
    """Where a call can't go in one step, that is known before anything is computed."""
    x, edge_index, edge_attr = problem()
    ours, _ = pair(edge_dim=BONDS)
    made = []
    original = Neighbours.features
    monkeypatch.setattr(Neighbours, "features", lambda *args: made.append(1) or original(*args))
    ours.bfloat16()(x.bfloat16(), edge_index, edge_attr.bfloat16())
    assert len(made) == 1


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


@pytest.mark.parametrize("part", ["att", "bias", "lin_r.bias", "lin_r.weight"])
def test_a_parameter_of_another_shape_is_never_read_beyond(taken, part):
    x, edge_index, _ = problem()
    ours, _ = pair()
    shape = (1, FEATURES) if part == "lin_r.weight" else (1,)
    ours.get_parameter(part).data = torch.ones(shape, dtype=torch.float64)
    with contextlib.suppress(RuntimeError, ValueError):
        ours(x, edge_index)
    assert taken["layer"] == 0


@pytest.mark.parametrize("concat", [True, False])
def test_no_heads_go_step_by_step(taken, concat):
    x, edge_index, _ = problem()
    ours = GATv2Conv(FEATURES, 6, heads=0, concat=concat).double()
    assert ours(x, edge_index).shape == (NODES, 0 if concat else 6)
    assert taken["layer"] == 0


@pytest.mark.parametrize("options", [{}, {"share_weights": True}, {"concat": False}])
def test_transforms_over_a_backward(way, options):
    torch.manual_seed(0)
    layer = GATv2Conv(5, 3, heads=2, edge_dim=BONDS, **options).double()
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(20, BONDS, dtype=torch.float64, requires_grad=True)
    leaves = [x, edge_attr, *layer.parameters()]
    out = layer(x, torch.randint(6, (2, 20)), edge_attr)
    transforms.agree(out, leaves)
