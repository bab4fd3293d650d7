"""Attention alone in C++: the bits of the short way in Python, and left where it must be."""

from __future__ import annotations

import itertools
import operator

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention, use_backend
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.ops import native
from tests.ops import transforms

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)

SHAPES = [(1, 1), (1, 7), (3, 20), (8, 5), (2, 64), (17, 3)]
NODES, BONDS = 40, 3


@pytest.fixture
def steps(monkeypatch):
    """Calls that the step in C++ took; it may be switched off."""
    compiled = native.operators()
    state = {"taken": 0, "on": True}

    def counted(*args):
        found = compiled.attention_step(*args)
        state["taken"] += found is not None
        return found

    watched = compiled._replace(attention_step=counted)
    monkeypatch.setattr(native, "operators", lambda: watched if state["on"] else None)
    return state


class Call:
    """What the attention is called with."""

    def __init__(self, heads=4, channels=6, dtype=torch.float32, edges=True, src=NODES, dst=NODES):
        rng = torch.Generator().manual_seed(0)
        count = 150 if min(src, dst) else 0
        ends = [torch.randint(max(n, 1), (count,), generator=rng) for n in (src, dst)]
        self.graph = Graph.from_edge_index(torch.stack(ends), src, dst)

        def randn(*size):
            return torch.randn(*size, generator=rng, dtype=torch.float64).to(dtype)

        shape = heads, channels
        self.values = {"x_src": randn(src, *shape), "x_dst": randn(dst, *shape)}
        self.values["att"] = randn(*shape)
        if edges:
            self.values["edge_attr"] = randn(count, BONDS)
            self.values["edge_weight"] = randn(heads * channels, BONDS)
        for value in self.values.values():
            value.requires_grad_()
        self.options = {}

    def __call__(self, **values):
        x_src, x_dst, att, *of_edges = (self.values | values).values()
        named = dict(zip(("edge_attr", "edge_weight"), of_edges, strict=False))
        return gatv2_attention(x_src, x_dst, att, self.graph, **named, **self.options)

    def found(self):
        """The output, the gradients, and where the generator is then; or the error."""
        torch.manual_seed(3)
        try:
            out = self()
            after = torch.get_rng_state()
            leaves = [v for v in self.values.values() if isinstance(v, torch.Tensor)]
            leaves = [leaf for leaf in leaves if leaf.requires_grad]
            if isinstance(out, tuple):
                out = torch.cat([part.flatten() for part in out])
            weights = torch.linspace(-1, 1, out.numel(), device=out.device)
            loss = (out * weights.view(out.shape).to(out.dtype)).sum()
            grads = torch.autograd.grad(loss, leaves) if out.requires_grad else ()
        except Exception as error:
            return type(error), str(error)
        return out.detach(), after, *grads


def both(steps, call):
    found = []
    for steps["on"] in (True, False):
        found.append(call.found())
    steps["on"] = True
    assert len(found[0]) == len(found[1])
    for got, want in zip(*found, strict=True):
        if isinstance(got, torch.Tensor):
            assert got.dtype == want.dtype
            assert torch.equal(got, want)
        else:
            assert got == want
    return found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4, 1.0])
def test_the_same_bits(steps, dtype, shape, edges, dropout):
    for src, dst in ((NODES, NODES), (NODES, 7), (3, NODES), (1, 1), (0, 0), (NODES, 0)):
        call = Call(*shape, dtype, edges, src, dst)
        call.options = {"dropout": dropout, "training": True}
        steps["taken"] = 0
        both(steps, call)
        assert steps["taken"] == 1
        with torch.no_grad():
            both(steps, call)
        assert steps["taken"] == 2


def test_any_subset_of_the_gradients(steps):
    call = Call()
    for needs in itertools.product((True, False), repeat=len(call.values)):
        for leaf, need in zip(call.values.values(), needs, strict=True):
            leaf.requires_grad_(need)
        both(steps, call)
    assert steps["taken"] == 2**5


def test_a_subset_asked_for_gives_the_bits_of_all(steps):
    call = Call()
    leaves = list(call.values.values())
    every = torch.autograd.grad(call().square().sum(), leaves)
    for leaf, want in zip(leaves, every, strict=True):
        (found,) = torch.autograd.grad(call().square().sum(), [leaf])
        assert torch.equal(found, want)


def strided(value):
    return value.movedim(0, -1).contiguous().movedim(-1, 0)


def test_in_any_strides(steps):
    call = Call()
    for name, value in list(call.values.items()):
        want = both(steps, call)
        call.values[name] = strided(value.detach()).requires_grad_()
        assert not call.values[name].is_contiguous()
        for got, plain in zip(both(steps, call), want, strict=True):
            assert torch.equal(got, plain)
    assert steps["taken"] == 2 * len(call.values)


def negative(call):
    made = torch.complex(torch.zeros(NODES, 4, 6), torch.ones(NODES, 4, 6)).conj().imag
    call.values["x_src"] = made


def with_bias(call):
    call.options["attn_bias"] = torch.ones(150)


def with_attention(call):
    call.options["return_attention"] = True


def with_seed(call):
    call.options |= {"seed": 3, "dropout": 0.5, "training": True}


def in_batches(call):
    for name in ("x_src", "x_dst"):
        call.values[name] = torch.stack([call.values[name].detach()] * 2)


def in_bfloat16(call):
    call.values = {name: value.bfloat16() for name, value in call.values.items()}


def of_two_dtypes(call):
    call.values["x_dst"] = call.values["x_dst"].double()


def vectors_in_double(call):
    call.values["att"] = call.values["att"].double()


def weights_in_double(call):
    call.values["edge_weight"] = call.values["edge_weight"].double()


def features_in_double(call):
    call.values["edge_attr"] = call.values["edge_attr"].double()


def fewer(name):
    def change(call):
        call.values[name] = call.values[name][:-1]

    change.__name__ = f"fewer in {name}"
    return change


def flatter(name):
    def change(call):
        call.values[name] = call.values[name].flatten()

    change.__name__ = f"flatter {name}"
    return change


def no_tensor(name):
    def change(call):
        call.values[name] = 3

    change.__name__ = f"no {name}"
    return change


def option(name, value):
    def change(call):
        call.options[name] = value

    change.__name__ = f"{name} {value}"
    return change


def without_weights(call):
    del call.values["edge_weight"]


def without_channels(call):
    call.values = Call(4, 0).values


def on_meta(call):
    call.values["x_src"] = call.values["x_src"].to("meta")


def no_graph(call):
    call.graph = "graph"


OF_VALUES = ["x_src", "x_dst", "att", "edge_attr", "edge_weight"]
LEFT = [
    negative,
    with_bias,
    with_attention,
    in_batches,
    in_bfloat16,
    of_two_dtypes,
    features_in_double,
    without_weights,
    without_channels,
    on_meta,
    no_graph,
    *(kind(name) for kind in (fewer, flatter, no_tensor) for name in OF_VALUES),
    option("dropout", 2.0),
    option("dropout", -0.1),
    option("dropout", float("nan")),
    option("dropout", "much"),
    option("negative_slope", float("inf")),
    option("negative_slope", float("nan")),
    option("negative_slope", 1e39),
    option("negative_slope", None),
    option("backend", "nonsense"),
    option("backend", "reference"),
    option("seed", -1),
]


@pytest.mark.parametrize("change", LEFT, ids=operator.attrgetter("__name__"))
def test_what_is_left_to_python(steps, change):
    call = Call()
    change(call)
    both(steps, call)
    assert steps["taken"] == 0


@pytest.mark.parametrize("change", [vectors_in_double, weights_in_double])
def test_what_is_cast_before(steps, change):
    call = Call()
    change(call)
    both(steps, call)
    assert steps["taken"] == 1


def test_numbers_that_are_no_floats_are_checked_before(steps):
    call = Call()
    for call.options in ({"negative_slope": 1}, {"dropout": 0}, {"negative_slope": True}):
        both(steps, call)


def test_a_seed_is_that_of_the_mask(steps):
    call = Call()
    with_seed(call)
    both(steps, call)
    assert steps["taken"] == 1
    call.options["seed"] = torch.tensor(3)
    both(steps, call)
    assert steps["taken"] == 2


@pytest.mark.parametrize("backend", ["scatter", "reference", "fused", "auto"])
def test_a_backend_in_force(steps, backend):
    call = Call()
    with use_backend(backend):
        both(steps, call)
    assert steps["taken"] == (backend in ("fused", "auto"))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert "attention_step" not in str(func)
        return func(*args, **kwargs or {})


def test_a_mode_sees_no_step(steps):
    call = Call()
    want = call()
    with Functions():
        assert torch.equal(call(), want)
    assert steps["taken"] == 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_is_no_such_mode(steps, device):
    call = Call()
    call.options = {"dropout": 0.4, "training": True}
    want = call.found()
    with torch.device(device):
        for got, same in zip(both(steps, call), want, strict=True):
            assert torch.equal(got, same)
        with Functions():
            assert torch.equal(call.found()[0], want[0])
    assert steps["taken"] == 2


def test_a_change_before_backward_is_an_error(steps):
    for name in OF_VALUES:
        call = Call()
        call.values["x_src"] = call.values["x_src"] * 1
        call.values[name] = call.values[name] * 1
        out = call()
        call.values[name].detach().mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()
    out = call()
    out.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    assert steps["taken"] == 6


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(steps, reentrant):
    call = Call()
    call.options = {"dropout": 0.5, "training": True}
    leaves = list(call.values.values())
    found = []
    for kept in (True, False):
        torch.manual_seed(0)
        if kept:
            out = call()
        else:
            names = list(call.values)
            out = checkpoint(
                lambda *values: call(**dict(zip(names, values, strict=True))),  # noqa: B023
                *leaves,
                use_reentrant=reentrant,
            )
        out.square().sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
        for leaf in leaves:
            leaf.grad = None
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)
    assert steps["taken"] >= 2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_second_derivatives(steps, dropout):
    call = Call(2, 3, torch.float64, src=6, dst=5)
    call.options = {"dropout": dropout, "training": True}
    names = list(call.values)

    def compute(*values):
        torch.manual_seed(0)
        return call(**dict(zip(names, values, strict=True)))

    leaves = list(call.values.values())
    assert torch.autograd.gradcheck(compute, leaves)
    assert torch.autograd.gradgradcheck(compute, leaves)
    assert steps["taken"] > 2


@pytest.mark.parametrize("on", [True, False])
def test_transforms_over_a_backward(steps, on):
    steps["on"] = on
    call = Call(2, 3, torch.float64, src=6, dst=5)
    transforms.agree(call(), list(call.values.values()))
    assert steps["taken"] == on


def test_a_graph_on_another_device(steps):
    call = Call(dst=NODES)
    by_dst, by_src, num_ids = call.graph.edges(with_sources=True)
    away = (Rows(*(part.to("meta") for part in rows)) for rows in (by_dst, by_src))
    call.graph = Graph._of_grouped(*away, num_ids)
    assert call.graph.is_plain
    error, message = both(steps, call)
    assert error is ValueError
    assert message == "Expected 'graph' to be on cpu, as 'x_src', got meta"


@pytest.mark.parametrize("options", [{}, {"edge_dim": BONDS, "dropout": 0.3}, {"residual": True}])
def test_layers_on_pairs_take_it(steps, options):
    torch.manual_seed(0)
    layer = GATv2Conv((5, 4), 6, heads=4, add_self_loops=False, **options)
    x = torch.randn(NODES, 5), torch.randn(7, 4)
    edge_index = torch.stack([torch.randint(NODES, (60,)), torch.randint(7, (60,))])
    edge_attr = torch.randn(60, BONDS) if "edge_dim" in options else None
    found = []
    for steps["on"] in (True, False):
        torch.manual_seed(1)
        out = layer(x, edge_index, edge_attr)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)
    assert steps["taken"] == 1


def wide(part):
    return part.long()


def floating(part):
    return part.float()


def on_another(part):
    return part.to("meta")


def strided_rows(part):
    return torch.stack([part, part], dim=-1)[..., 0] if part.numel() else part[None]


def test_the_operator_refuses_what_it_lacks():
    call = Call()
    by_dst, by_src, num_ids = call.graph.edges(with_sources=True)
    values = list(call.values.values())
    numbers = NODES, num_ids, 0.2, 0.0, None
    step = native.operators().attention_step
    assert step(*values, by_dst, by_src, *numbers) is not None
    assert step(*values, by_dst, (), *numbers) is None
    assert step(*values, by_dst, by_src, NODES - 1, *numbers[1:]) is None
    assert step(*values, by_dst, by_src, NODES, num_ids + 1, *numbers[2:]) is None
    with torch.no_grad():
        assert step(*values, by_dst, (), *numbers) is not None
    with pytest.raises(ValueError, match="Expected 'by_dst' and 'by_src' to hold 5 tensors"):
        step(*values, by_dst[:3], by_src, *numbers)
    for rows in (by_dst, by_src):
        for place, other in itertools.product(range(5), (wide, floating, on_another, strided_rows)):
            changed = [other(part) if at == place else part for at, part in enumerate(rows)]
            given = (changed, by_src) if rows is by_dst else (by_dst, changed)
            assert step(*values, *given, *numbers) is None
    assert step(*values, by_dst, (by_src[0][:-1], *by_src[1:]), *numbers) is None
    assert step(*values, by_dst, (by_src[0], by_src[1][:-1], *by_src[2:]), *numbers) is None
