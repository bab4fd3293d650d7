"""The layer's step in C++: the bits of the step in Python, and left where it must be."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention
from gatv2_pyg.kernels import built
from gatv2_pyg.kernels.cpu import abi
from gatv2_pyg.ops import native

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)

in_cpp = pytest.mark.parametrize("way", ["C++"], indirect=True)

PROJECT = Path(__file__).parents[2]
BONDS = 3
SHAPES = [(1, 1), (1, 7), (4, 6), (8, 8), (3, 20), (2, 64), (17, 3)]


@pytest.fixture
def steps(monkeypatch):
    """Calls of the step in C++, which may be switched off."""
    compiled = native.operators()
    state = {"calls": 0, "on": True}

    def counted(*args):
        state["calls"] += 1
        return compiled.layer_step(*args)

    watched = compiled._replace(layer_step=counted)
    monkeypatch.setattr(native, "operators", lambda: watched if state["on"] else None)
    return state


def problem(nodes=40, edges=150, features=9, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, features, generator=rng, dtype=dtype)
    edge_index = torch.randint(max(nodes, 1), (2, edges if nodes else 0), generator=rng)
    edge_attr = torch.randn(edge_index.size(1), BONDS, generator=rng, dtype=dtype)
    return x, edge_index, edge_attr


def make(heads=4, channels=6, features=9, dtype=torch.float32, **options):
    torch.manual_seed(0)
    layer = GATv2Conv(features, channels, heads=heads, **options).to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def both(steps, call, leaves, seed=3):
    """What a call and its gradients give by C++ and by Python; both must be the same bits."""
    found = []
    for steps["on"] in (True, False):
        torch.manual_seed(seed)
        out = call()
        grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        grads = torch.autograd.grad(out, wanted, grad, allow_unused=True) if wanted else ()
        found.append([out.detach(), *grads])
    for got, want in zip(*found, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            assert torch.equal(got, want)
    return found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("edge_dim", [None, BONDS])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_same_bits(steps, dtype, shape, share_weights, edge_dim, dropout):
    for nodes, of_x, wide in itertools.product((0, 1, 40), (True, False), (True, False)):
        x, edge_index, edge_attr = problem(nodes, dtype=dtype)
        edge_index = edge_index if wide else edge_index.int()
        layer = make(
            *shape, dtype=dtype, share_weights=share_weights, edge_dim=edge_dim, dropout=dropout
        )
        x.requires_grad_(of_x)
        edge_attr.requires_grad_(of_x)
        extra = () if edge_dim is None else (edge_attr,)
        steps["calls"] = 0
        both(steps, lambda: layer(x, edge_index, *extra), [x, *extra, *layer.parameters()])  # noqa: B023
        assert steps["calls"] == 1


def test_any_subset_of_the_gradients(steps):
    x, edge_index, edge_attr = problem()
    for share_weights in (True, False):
        layer = make(edge_dim=BONDS, share_weights=share_weights)
        leaves = [x, edge_attr, *layer.parameters()]
        for needs in itertools.product((True, False), repeat=len(leaves)):
            for leaf, need in zip(leaves, needs, strict=True):
                leaf.requires_grad_(need)
            both(steps, lambda: layer(x, edge_index, edge_attr), leaves)  # noqa: B023
    assert steps["calls"] > 2**7


def test_a_subset_asked_for_gives_the_bits_of_all(steps):
    for shape, sizes in (((3, 16), (40, 150, 1)), ((5, 3), (5, 150, 2)), ((4, 6), (40, 150, 9))):
        x, edge_index, edge_attr = problem(*sizes)
        layer = make(*shape, features=sizes[2], edge_dim=BONDS)
        leaves = [x.requires_grad_(), *layer.parameters()]
        every = both(steps, lambda: layer(x, edge_index, edge_attr), leaves)[1:]  # noqa: B023
        for leaf, want in zip(leaves, every, strict=True):
            (found,) = both(steps, lambda: layer(x, edge_index, edge_attr), [leaf])[1:]  # noqa: B023
            assert torch.equal(found, want)


def test_forward_within_the_backward_of_another(steps):
    """There autograd tells what that backward computes."""
    x, edge_index, _ = problem()
    layer = make()
    found = []
    for steps["on"] in (True, False):
        leaf = torch.ones(3, requires_grad=True)
        value = leaf * 1

        def hook(grad):
            with torch.enable_grad():
                inner = x.clone().requires_grad_()
                out = layer(inner, edge_index).square().sum()
                found.append(torch.autograd.grad(out, [inner, *layer.parameters()]))

        value.register_hook(hook)
        torch.autograd.grad((value * 2).sum(), leaf)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert steps["calls"] == 1


@pytest.mark.parametrize("early", [True, False])
def test_checkpoints_of_which_some_gradients_are_asked_for(steps, early):
    x, edge_index, _ = problem()
    first, second = make(), make(features=24)
    leaves = [*first.parameters(), *second.parameters()]

    def two(x):
        return second(first(x, edge_index).relu(), edge_index)

    with set_checkpoint_early_stop(early):
        found = torch.autograd.grad(checkpoint(two, x, use_reentrant=False).sum(), leaves)
    expected = torch.autograd.grad(two(x).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert steps["calls"] == 6


@pytest.mark.parametrize("what", ["x", "weight", "att", "edge_attr", "grad"])
def test_memory_in_any_order(steps, what):
    x, edge_index, edge_attr = problem()
    layer = make(edge_dim=BONDS)
    if what == "weight":
        for lin in (layer.lin_l, layer.lin_r):
            lin.weight = torch.nn.Parameter(lin.weight.detach().t().contiguous().t())
    if what == "att":
        layer.att = torch.nn.Parameter(layer.att.detach().mT.contiguous().mT)
    if what == "x":
        x = x.t().contiguous().t()
    if what == "edge_attr":
        edge_attr = torch.cat([edge_attr, edge_attr], 1)[:, ::2]
    x.requires_grad_()

    def call():
        out = layer(x, edge_index, edge_attr)
        return out.t() if what == "grad" else out

    both(steps, call, [x, *layer.parameters()])
    assert steps["calls"] == 1


@in_cpp
def test_rows_beyond_what_is_kept_and_huge_pages(steps, doors):
    nodes = 90_000  # 24 channels in float64: two gradients take more than 32 MiB
    x, edge_index, _ = problem(nodes, 2 * nodes, 2, torch.float64)
    layer = make(features=2, dtype=torch.float64)
    asked = []
    doors(gatv2_prefer_huge_pages=lambda ask: lambda address, size: asked.append(size) or 0)
    both(steps, lambda: layer(x, edge_index), [*layer.parameters()])
    assert asked == [nodes * 24 * 8] * 2
    asked.clear()
    layer(x[:100].float().double(), edge_index[:, :0])
    assert not asked


@pytest.mark.parametrize("inference", [True, False])
def test_without_gradients_nothing_is_kept(steps, inference):
    x, edge_index, edge_attr = problem()
    layer = make(edge_dim=BONDS)
    with torch.inference_mode() if inference else torch.no_grad():
        found = layer(x, edge_index, edge_attr)
        steps["on"] = False
        assert torch.equal(found, layer(x, edge_index, edge_attr))
    assert found.grad_fn is None
    assert not found.requires_grad
    assert steps["calls"] == 1


def calls_of_others():
    """What the step does not take: ``(name, options, call)``."""
    x, edge_index, _ = problem()
    bias = torch.zeros(edge_index.size(1))
    yield "biases of edges", {}, lambda layer: layer(x, edge_index, attn_bias=bias)
    yield "a batch", {}, lambda layer: layer(torch.stack([x, x]), edge_index)
    yield "averaged heads", {"concat": False}, lambda layer: layer(x, edge_index)
    yield "bfloat16", {"dtype": torch.bfloat16}, lambda layer: layer(x.bfloat16(), edge_index)


@pytest.mark.parametrize(
    ("options", "call"), [pytest.param(*rest, id=name) for name, *rest in calls_of_others()]
)
def test_left_to_others(steps, options, call):
    layer = make(**options)
    call(layer).sum().backward()
    assert steps["calls"] == 0
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_averaged_over_one_head(steps):
    x, edge_index, _ = problem()
    layer = make(1, 6, concat=False)
    both(steps, lambda: layer(x, edge_index), list(layer.parameters()))
    assert steps["calls"] == 1


def test_a_second_backward_and_one_through_half_the_graph(steps):
    x, edge_index, _ = problem()
    layer = make()
    out = layer(x.requires_grad_(), edge_index)
    first = torch.autograd.grad(out.sum(), [x, layer.att], retain_graph=True)
    again = torch.autograd.grad(out.sum(), [layer.att, x])
    assert torch.equal(first[0], again[1])
    assert torch.equal(first[1], again[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out.sum(), x)


@in_cpp
def test_tangents_profilers_and_transforms_go_by_operations(steps, taken):
    x, edge_index, edge_attr = problem(dtype=torch.float64)
    x.requires_grad_()
    layer = make(dtype=torch.float64, edge_dim=BONDS)
    leaves = [x, *layer.parameters()]
    out = layer(x, edge_index, edge_attr)
    grad = out.detach().cos()
    expected = torch.autograd.grad(out, leaves, grad, retain_graph=True)
    with torch.profiler.profile() as profile:
        profiled = torch.autograd.grad(out, leaves, grad, retain_graph=True)
    assert any("gatv2_pyg::attention_backward" in event.key for event in profile.key_averages())
    with forward_ad.dual_level():
        dual = torch.autograd.grad(out, leaves, forward_ad.make_dual(grad, grad), retain_graph=True)
        dual = [forward_ad.unpack_dual(value) for value in dual]
    rows = torch.stack([grad, grad * 2])
    batched = torch.autograd.grad(out, leaves, rows, is_grads_batched=True, retain_graph=True)
    created = torch.autograd.grad(out, leaves, grad, create_graph=True)
    for at, want in enumerate(expected):
        for got in (profiled[at], dual[at].primal, dual[at].tangent, batched[at][0], created[at]):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(batched[at][1], want * 2, rtol=1e-10, atol=1e-10)
    # That of the bias is a sum of the given gradient.
    alone = [leaf for leaf, value in zip(leaves, created, strict=True) if not value.requires_grad]
    assert [id(leaf) for leaf in alone] == [id(layer.bias)]
    assert taken["followed"] == 4


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_autograd_takes_its_backward(steps):
    x, edge_index, edge_attr = problem()
    layer = make(edge_dim=BONDS, share_weights=True)
    leaves = [x.requires_grad_(), *layer.parameters()]
    expected = torch.autograd.grad(layer(x, edge_index, edge_attr).square().sum(), leaves)
    for _ in range(2):
        loss = layer(x, edge_index, edge_attr).square().sum()
        for leaf in leaves:
            leaf.grad = None
        with compiled_autograd._enable(torch.compile(backend="eager")):
            loss.backward()
        for leaf, want in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, want)
    assert steps["calls"] == 3


@in_cpp
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_no_room_is_an_error(doors, direction):
    x, edge_index, _ = problem()
    layer = make()
    doors(**{f"gatv2_{direction}": lambda _: lambda arguments, isa: 1})
    with pytest.raises(torch.OutOfMemoryError, match="scratch memory"):
        layer(x, edge_index).sum().backward()
    assert layer.att.grad is None


def test_threads_share_a_layer(steps):
    x, edge_index, edge_attr = problem(200, 900)
    layer = make(edge_dim=BONDS)
    expected = torch.autograd.grad(
        layer(x, edge_index, edge_attr).square().sum(), list(layer.parameters())
    )
    wrong = []

    def work():
        for _ in range(30):
            out = layer(x, edge_index, edge_attr).square().sum()
            found = torch.autograd.grad(out, list(layer.parameters()))
            wrong.extend(1 for a, b in zip(found, expected, strict=True) if not torch.equal(a, b))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert steps["calls"] == 121


@in_cpp
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_takes_one_thread(doors):
    """The parent's pool of threads is gone there: a product of torch's could wait for it."""
    x, edge_index, _ = problem(3, 5)
    graph = Graph.from_edge_index(edge_index, x.size(0), x.size(0))
    rows, att, threads = torch.randn(x.size(0), 3, 5), torch.randn(3, 5), []

    def asked(_):
        def forward(arguments, isa):
            threads.append(abi.Arguments.from_address(arguments).threads)
            return 0

        return forward

    doors(gatv2_forward=asked)
    with torch.no_grad():
        gatv2_attention(rows, rows, att, graph)
        child = os.fork()
        if child == 0:
            gatv2_attention(rows, rows, att, graph)
            os._exit(threads[-1])
    assert threads == [torch.get_num_threads()]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


FORKED_BEFORE = """
import os, signal, torch
from gatv2_pyg import GATv2Conv
from gatv2_pyg.ops import native

torch.manual_seed(0)
x, edge_index = torch.randn(20, 4), torch.randint(20, (2, 20_000))
others, layer = GATv2Conv(4, 8, heads=4, concat=False), GATv2Conv(4, 8, heads=4)
with torch.no_grad():
    others(x, edge_index)
    assert native._opened.cache_info().currsize == 0
    if (child := os.fork()) == 0:
        signal.alarm(60)
        layer(x, edge_index)
        os._exit(17)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_forked_before_the_step_was_loaded():
    """The parent has run kernels, on a pool of threads that the child has not."""
    ran = subprocess.run(
        [sys.executable, "-c", FORKED_BEFORE], capture_output=True, text=True, cwd=PROJECT
    )
    assert ran.stdout.split() == ["17"], ran.stderr


def test_a_library_for_another_torch_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "_version", lambda: "2.12.9")
    assert native._find() is None
    assert "torch 2.12.9" in native._opened.__wrapped__()


def test_a_library_of_other_sources_is_left_alone(monkeypatch):
    assert native._find() is not None
    monkeypatch.setattr(built, "hash_of_sources", lambda *_: "0" * 64)
    assert native._find() is None


def test_what_was_built_is_said(steps):
    _, handle = native._opened()
    handle.gatv2_layer_sources.restype = ctypes.c_char_p
    assert f"torch {native._version()} sources " in handle.gatv2_layer_sources().decode()
