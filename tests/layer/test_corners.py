"""Corners of the layer, each held to PyG's class."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch_geometric.nn

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention, use_backend
from gatv2_pyg.backends import refusal, requested_backend

PATHS = ["auto", "reference"]


def pair(*args, **options):
    """Both layers with the same weights, in float64."""
    theirs = torch_geometric.nn.GATv2Conv(*args, **options).double()
    mine = GATv2Conv(*args, **options).double()
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def problem(*shape: int):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=rng, dtype=torch.float64), torch.randint(
        shape[0], (2, 60), generator=rng
    )


def test_auto_is_fused_on_cpu():
    """Asked of nobody: where the kernels refuse, tests that ask them are skipped."""
    conv, (x, index) = GATv2Conv(4, 3, heads=2), problem(9, 4)
    assert conv.backend_for(x.float(), index).name == "fused"
    assert refusal("fused", torch.device("cpu"), torch.float32) is None


@pytest.mark.parametrize("backend", PATHS)
def test_shared_weights_with_a_pair_use_both(backend):
    mine, theirs = pair(4, 3, heads=2, share_weights=True)
    x, index = problem(9, 4)
    other = torch.randn_like(x)
    with use_backend(backend):
        torch.testing.assert_close(mine((x, other), index), theirs((x, other), index))


def test_reset_parameters_draws_all_of_them():
    conv = GATv2Conv(4, 3, heads=2, edge_dim=5, residual=True)
    before = {name: value.clone() for name, value in conv.named_parameters()}
    torch.nn.init.ones_(conv.bias)
    conv.reset_parameters()
    for name, value in conv.named_parameters():
        drawn = name != "bias"
        assert torch.equal(value, before[name]) != drawn, name


def test_a_layer_pickled_before_it_had_a_backend():
    conv, (x, index) = GATv2Conv(4, 3), problem(9, 4)
    old = copy.deepcopy(conv)
    for name in ("backend", "_warned_of_missing_edge_attr"):
        del old.__dict__[name]
    new = pickle.loads(pickle.dumps(old))
    assert new.backend == "auto"
    torch.testing.assert_close(new(x.float(), index), conv(x.float(), index))


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_returned_coefficients_have_the_dtype_of_the_layer(backend, dtype):
    conv, (x, index) = GATv2Conv(4, 3, backend=backend).to(dtype), problem(9, 4)
    out, (_, alpha) = conv(x.to(dtype), index, return_attention_weights=True)
    assert out.dtype == alpha.dtype == dtype


@pytest.mark.parametrize("backend", PATHS)
def test_float64_under_autocast_is_left_alone(backend):
    mine, theirs = pair(4, 3, heads=2)
    x, index = problem(9, 4)
    with torch.autocast("cpu", torch.bfloat16), use_backend(backend):
        out = mine(x, index)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, theirs(x, index), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("fill", ["mean", "max", "min", "add", "mul"])
def test_self_loops_of_a_pair_with_fewer_sources(fill, backend):
    """Every node that is on both sides has a loop, whose features PyG's layer fails to reduce."""
    options = {"heads": 2, "edge_dim": 2}
    _, looped = pair((3, 3), 4, add_self_loops=False, **options)
    mine = GATv2Conv((3, 3), 4, fill_value=fill, backend=backend, **options).double()
    mine.load_state_dict(looped.state_dict())
    x_src, x_dst = problem(2, 3)[0], problem(5, 3)[0]
    attr = problem(5, 2)[0]
    edges = torch.tensor([[0, 1, 1, 0, 1], [4, 3, 0, 0, 0]])
    others = edges[0] != edges[1]
    reduce = {"add": "sum"}.get(fill, fill)
    loops = torch_geometric.utils.scatter(attr[others], edges[1, others], 0, 5, reduce)[:2]
    all_edges = torch.cat([edges[:, others], torch.arange(2).repeat(2, 1)], 1)
    expected = looped((x_src, x_dst), all_edges, torch.cat([attr[others], loops]))
    torch.testing.assert_close(mine((x_src, x_dst), edges, attr), expected)


def test_nested_overrides():
    with use_backend("reference"):
        with use_backend("fused"):
            assert requested_backend("auto") == "fused"
        assert requested_backend("auto") == "reference"
    assert requested_backend("auto") == "auto"


def test_forward_mode_goes_by_message_passing():
    mine, theirs = pair(4, 3, heads=2)
    x, index = problem(9, 4)
    tangent = torch.randn_like(x)
    values = []
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        for conv in (mine, theirs):
            values.append(torch.autograd.forward_ad.unpack_dual(conv(dual, index)))
        assert mine.backend_for(dual, index).name == "reference"
    torch.testing.assert_close(values[0].tangent, values[1].tangent)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
@pytest.mark.parametrize("where", ["lin_l", "lin_r", "lin_edge", "aggr_module"])
def test_hooks_of_submodules_are_called(register, where):
    x, index = problem(9, 4)
    edge_attr = torch.randn(60, 5, dtype=torch.float64)
    calls = []
    for name, conv in zip(("mine", "theirs"), pair(4, 3, edge_dim=5), strict=True):
        getattr(getattr(conv, where), register)(lambda *_, name=name: calls.append(name))
        conv(x.requires_grad_(), index, edge_attr.requires_grad_()).sum().backward()
    assert calls.count("mine") == calls.count("theirs") > 0


def test_an_overridden_message_and_aggregate_is_used():
    class Own(GATv2Conv):
        def message_and_aggregate(self, edge_index):
            raise NotImplementedError

    x, index = problem(9, 4)
    reason = Own(4, 3).double().backend_for(x, index).reason
    assert "'message_and_aggregate' is overridden" in reason


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("options", [{}, {"concat": False}, {"residual": True}, {"bias": True}])
def test_the_result_may_be_changed_in_place(options, backend):
    conv, (x, index) = GATv2Conv(4, 3, **({"bias": False} | options)).double(), problem(9, 4)
    x.requires_grad_()
    grads = []
    for change in (torch.mul, torch.Tensor.mul_):
        with use_backend(backend):
            out = change(conv(x, index), 3)
        grads.append(torch.autograd.grad(out.sin().sum(), x)[0])
    assert torch.equal(*grads)


def test_evaluation_drops_nothing():
    conv, (x, index) = GATv2Conv(4, 3, dropout=0.9).double().eval(), problem(9, 4)
    assert torch.equal(conv(x, index), conv(x, index))
    _, (edges, alpha) = conv(x, index, return_attention_weights=True)
    total = torch.zeros(9, 1, dtype=torch.float64).index_add(0, edges[1], alpha)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("backend", PATHS)
def test_second_derivatives_keep_the_dropout_mask(backend):
    """Under ``create_graph`` the first derivative is that of the mask that forward drew."""
    conv, (x, index) = GATv2Conv(4, 3, dropout=0.5, backend=backend).double(), problem(9, 4)
    x.requires_grad_()
    grads = []
    for create_graph in (False, True):
        torch.manual_seed(3)
        out = conv(x, index).sin().sum()
        grads.append(torch.autograd.grad(out, x, create_graph=create_graph)[0].detach())
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", ["auto", "scatter", "reference"])
def test_a_seed_under_another_default_device(backend):
    (x, index), found = problem(9, 6), []
    x, graph = x.view(9, 2, 3).requires_grad_(), Graph.from_edge_index(index, 9)
    for device in ("cpu", "meta"):
        for seed in (7, torch.tensor(7, device="cpu")):
            with torch.device(device):
                options = {"seed": seed, "dropout": 0.5, "training": True, "backend": backend}
                out = gatv2_attention(x, x, x[0], graph, **options)
                found.append([out, *torch.autograd.grad(out.square().sum(), x)])
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))
    assert not torch.equal(found[0][0], gatv2_attention(x, x, x[0], graph))


@pytest.mark.parametrize("second", [False, True], ids=["gradient", "second"])
@pytest.mark.parametrize(
    "options",
    [{}, {"residual": True, "concat": False}, {"fill_value": "max"}, {"add_self_loops": False}],
    ids=str,
)
@pytest.mark.parametrize("backend", ["auto", "scatter", "reference"])
def test_another_default_device(backend, options, second):
    """What is drawn and computed stays where the arguments are."""
    conv = GATv2Conv(4, 3, heads=3, edge_dim=2, dropout=0.5, **options).double()
    x, index = problem(9, 4)
    attr, found = torch.randn(60, 2, dtype=torch.float64), []
    for device in ("cpu", "meta"):
        given = x.clone().requires_grad_()
        torch.manual_seed(3)
        with use_backend(backend), torch.device(device):
            out, (_, alpha) = conv(given, index, attr, return_attention_weights=True)
            (grad,) = torch.autograd.grad(out.square().sum(), given, create_graph=second)
            if second:
                (grad,) = torch.autograd.grad(grad.square().sum(), given)
        found.append([out, alpha, grad])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
