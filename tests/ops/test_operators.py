"""The operators: schemas, fakes, autograd, second derivatives, compile, export, autocast."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention
from gatv2_pyg.backends import refusal
from gatv2_pyg.kernels.contract import Inputs
from gatv2_pyg.ops import operators as ops
from gatv2_pyg.ops.call import Call
from gatv2_pyg.ops.dropout import draw_seed, dropout_scale
from tests.kernels.cases import Case, build, cast

FUSED = refusal("fused", torch.device("cpu"), torch.float32)
needs_fused = pytest.mark.skipif(FUSED is not None, reason=f"no fused kernels: {FUSED}")


def call(dtype=torch.float32, **options):
    """Arguments of the operator for a small problem, whose inputs need gradients."""
    p = cast(build(Case(num_src=9, num_dst=7, num_edges=30, **options)), dtype)
    inputs = Inputs(*(None if value is None else value.requires_grad_() for value in p.inputs))
    seed = torch.tensor(p.seed) if p.dropout else 0
    flat = Call.of(inputs, p.edges, p.options._replace(seed=seed))
    return (*flat, True, False)


OPTIONS = [
    {},
    {"edge_dim": 3, "dropout": 0.4, "self_loops": True},
    {"edge_dim": 2, "bias": "head", "batch": 2, "self_loops": True},
]


@needs_fused
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own, torch 2.14
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "all", "beyond"])
def test_opcheck_attention(options):
    torch.library.opcheck(torch.ops.gatv2_pyg.attention.default, call(**options))


@needs_fused
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "all", "beyond"])
def test_opcheck_backward(options):
    *flat, _, _ = call(**options)
    call_ = Call(*(value.detach() if isinstance(value, torch.Tensor) else value for value in flat))
    out, _, lse, alpha = torch.ops.gatv2_pyg.attention(*call_, True, False)
    grads = torch.randn_like(out), torch.randn_like(alpha)
    needs = [value is not None for value in call_.inputs]
    torch.library.opcheck(
        torch.ops.gatv2_pyg.attention_backward.default, (*grads, *call_, out, lse, alpha, needs)
    )


@needs_fused
@pytest.mark.parametrize("widen", [False, True])
def test_fakes_have_the_dtypes_of_half_precision(widen):
    arguments = (*call(torch.bfloat16)[:-1], widen)
    torch.library.opcheck(
        torch.ops.gatv2_pyg.attention.default, arguments, test_utils="test_faketensor"
    )


@needs_fused
def test_what_the_operators_refuse():
    *flat, _, _ = call()
    made = Call(*(value.detach() if isinstance(value, torch.Tensor) else value for value in flat))
    forward, backward = torch.ops.gatv2_pyg.attention, torch.ops.gatv2_pyg.attention_backward
    with pytest.raises(ValueError, match=r"^Expected 'num_ids' to be 0 or more, got -1"):
        forward(*made._replace(num_ids=-1), True, False)
    for shape in ((1, 1, *made.x_src.shape), made.x_src.shape[1:]):
        with pytest.raises(
            ValueError, match=r"^Expected 'x_src' to have the shape \[N_src, H, C\]"
        ):
            forward(*made._replace(x_src=made.x_src.reshape(-1).new_zeros(shape)), True, False)
    # Found before backward, which alone reads them.
    wrong = made._replace(by_src_idx=made.by_src_idx + 1)
    with pytest.raises(ValueError, match=r"^Expected 'by_src' to be a sound grouping"):
        forward(*wrong, True, False)
    out, _, lse, alpha = forward(*made, True, False)
    needs = [value is not None for value in made.inputs]
    grads = torch.ones_like(out), torch.ones_like(alpha)
    for given, kept in ((grads[1], None), (None, alpha)):
        with pytest.raises(ValueError, match=r"^Expected 'alpha' to be given with 'grad_alpha'"):
            backward(grads[0], given, *made, out, lse, kept, needs)
    with pytest.raises(ValueError, match=r"^Expected 'needs' to have 6 elements, got 4"):
        backward(*grads, *made, out, lse, alpha, needs[:4])


@needs_fused
def test_the_batching_rule_of_backward_takes_each_element():
    *flat, _, _ = call()
    made = Call(*(value.detach() if isinstance(value, torch.Tensor) else value for value in flat))
    out, _, lse, _ = torch.ops.gatv2_pyg.attention(*made, False, True)
    needs = [value is not None for value in made.inputs]

    def backward(grad):
        return ops.NATIVE.backward(grad, None, *made, out, lse, None, needs)

    grads = torch.randn(3, *out.shape)
    batched = torch.func.vmap(backward)(grads)
    for k, grad in enumerate(grads):
        torch.testing.assert_close([part[k] for part in batched], list(backward(grad)))


def test_the_schema_has_the_names_of_a_call():
    for operator, before in ((ops.NATIVE.forward, 0), (ops.NATIVE.backward, 2)):
        names = [argument.name for argument in operator._schema.arguments]
        assert tuple(names[before : before + len(Call._fields)]) == Call._fields


@pytest.mark.parametrize("loops", [False, True])
def test_opcheck_grouping(loops):
    index = torch.randint(9, (2, 2000), generator=torch.Generator().manual_seed(0))
    index[1, :1200] = 3
    arguments = (index, 9, 9, loops, True, False)
    torch.library.opcheck(torch.ops.gatv2_pyg.group_by_dst.default, arguments)
    rows = torch.ops.gatv2_pyg.group_by_dst(*arguments)
    num_ids = rows[1].numel()
    torch.library.opcheck(torch.ops.gatv2_pyg.group_by_src.default, (*rows[:2], 9, num_ids))


def attention_of(*leaves, backend="auto", loops=True, dropout=0.0):
    index = torch.randint(5, (2, 14), generator=torch.Generator().manual_seed(2))
    graph = Graph.from_edge_index(index, 5, add_self_loops=loops)
    x_src, x_dst, att, *edge = leaves
    options = dict(zip(("edge_attr", "edge_weight"), edge, strict=False))
    torch.manual_seed(0)
    return gatv2_attention(
        x_src,
        x_dst,
        att,
        graph,
        backend=backend,
        dropout=dropout,
        training=dropout > 0,
        return_attention=True,
        **options,
    )


def leaves(edge_dim=None):
    rng = torch.Generator().manual_seed(1)
    shapes = [(5, 2, 3), (5, 2, 3), (2, 3)]
    if edge_dim is not None:
        shapes += [(19, edge_dim), (6, edge_dim)]
    return [
        torch.randn(*shape, generator=rng, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]


def backends():
    device = torch.device("cpu")
    names = ("fused", "scatter", "reference")
    return [name for name in names if refusal(name, device, torch.float64) is None]


@pytest.mark.parametrize("edge_dim", [None, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("backend", backends())
def test_gradcheck(backend, dropout, edge_dim):
    def function(*values):
        return attention_of(*values, backend=backend, dropout=dropout)

    torch.autograd.gradcheck(function, leaves(edge_dim), fast_mode=True)


@pytest.mark.parametrize("backend", [name for name in backends() if name != "scatter"])
def test_a_batch_of_gradients_is_that_of_each(backend):
    values = leaves(2)
    out, _ = attention_of(*values, backend=backend)
    grads = torch.randn(3, *out.shape, dtype=out.dtype)
    batched = torch.autograd.grad(out, values, grads, retain_graph=True, is_grads_batched=True)
    for k, grad in enumerate(grads):
        single = torch.autograd.grad(out, values, grad, retain_graph=True)
        torch.testing.assert_close([part[k] for part in batched], list(single))


@pytest.mark.parametrize("edge_dim", [None, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("backend", [name for name in backends() if name != "scatter"])
def test_gradgradcheck(backend, dropout, edge_dim):
    def function(*values):
        return attention_of(*values, backend=backend, dropout=dropout)

    torch.autograd.gradgradcheck(function, leaves(edge_dim), fast_mode=True)


@pytest.mark.parametrize("backend", backends())
def test_edges_in_order_are_dropped_by_their_ids(backend):
    """Their graph has no list of ids: the position is the id."""
    index = torch.tensor([[4, 2, 0, 1, 3, 2, 0], [0, 0, 1, 2, 2, 2, 4]])
    graph = Graph.from_edge_index(index, 5)
    assert graph.by_dst.edge.numel() == 0
    torch.manual_seed(3)
    values = leaves()
    _, alpha = gatv2_attention(
        *values, graph, backend=backend, dropout=0.5, training=True, return_attention=True
    )
    torch.manual_seed(3)
    seed = draw_seed(torch.device("cpu"))
    kept = dropout_scale(torch.arange(7), 2, 0.5, seed, torch.float64) > 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(alpha > 0, kept)


@pytest.mark.parametrize("wanted", range(5))
@pytest.mark.parametrize("backend", backends())
def test_a_gradient_that_is_wanted_alone(backend, wanted):
    """By source features too, where nothing by destination is asked for."""
    everything = leaves(2)
    want = torch.autograd.grad(
        attention_of(*everything, backend=backend)[0].sin().sum(), everything
    )
    alone = [leaf.detach().requires_grad_(k == wanted) for k, leaf in enumerate(leaves(2))]
    attention_of(*alone, backend=backend)[0].sin().sum().backward()
    torch.testing.assert_close(alone[wanted].grad, want[wanted])
    assert all(leaf.grad is None for k, leaf in enumerate(alone) if k != wanted)


def layer_problem(edge_dim=None, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=rng, dtype=dtype)
    index = torch.randint(20, (2, 90), generator=rng)
    attr = None if edge_dim is None else torch.randn(90, edge_dim, generator=rng, dtype=dtype)
    return x, index, attr


@needs_fused
@pytest.mark.parametrize(
    "options",
    [{}, {"edge_dim": 3}, {"add_self_loops": False, "residual": True}, {"share_weights": True}],
    ids=["plain", "edge features", "no self-loops", "shared weights"],
)
def test_compile_fullgraph(options):
    x, index, attr = layer_problem(options.get("edge_dim"))
    conv = GATv2Conv(6, 4, heads=2, **options)
    want = conv(x, index, attr)
    want.square().sum().backward()
    grads = [parameter.grad.clone() for parameter in conv.parameters()]
    conv.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    got = compiled(x, index, attr)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    for parameter, grad in zip(conv.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@needs_fused
def test_compile_with_dropout_and_changing_sizes():
    torch._dynamo.reset()
    conv = GATv2Conv(6, 4, heads=2, dropout=0.5)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (90, 70, 50):
        x, index, _ = layer_problem()
        out = compiled(x, index[:, :count])
        out.sum().backward()
        assert out.shape == (20, 8)
        with torch.no_grad():
            torch.testing.assert_close(
                conv.eval()(x, index[:, :count]), compiled(x, index[:, :count])
            )
        conv.train()


@needs_fused
def test_compile_checks_indices_when_it_runs():
    torch._dynamo.reset()
    x, index, _ = layer_problem()
    compiled = torch.compile(GATv2Conv(6, 4), fullgraph=True, backend="aot_eager")
    compiled(x, index)
    index[0, 5] = 20
    with pytest.raises(ValueError, match="edge_index"):
        compiled(x, index)


@needs_fused
def test_compile_cuts_long_rows():
    torch._dynamo.reset()
    x = torch.randn(20, 6)
    index = torch.randint(20, (2, 3000), generator=torch.Generator().manual_seed(0))
    index[1, :1500] = 7
    conv = GATv2Conv(6, 4, heads=2)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, index), conv(x, index))


@needs_fused
def test_inductor():
    torch._dynamo.reset()
    x, index, _ = layer_problem()
    conv = GATv2Conv(6, 4, heads=2)
    compiled = torch.compile(conv, fullgraph=True)
    torch.testing.assert_close(compiled(x, index), conv(x, index))


@needs_fused
def test_export():
    x, index, attr = layer_problem(edge_dim=3)
    conv = GATv2Conv(6, 4, heads=2, edge_dim=3).eval()
    program = torch.export.export(conv, (x, index, attr))
    assert "gatv2_pyg.attention" in str(program.graph)
    torch.testing.assert_close(program.module()(x, index, attr), conv(x, index, attr))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("edge_dim", [None, 3])
def test_autocast(backend, edge_dim):
    x, index, attr = layer_problem(edge_dim)
    conv = GATv2Conv(6, 4, heads=2, edge_dim=edge_dim, backend=backend)
    theirs = PyGGATv2Conv(6, 4, heads=2, edge_dim=edge_dim)
    theirs.load_state_dict(conv.state_dict())
    exact = theirs.double()(x.double(), index, None if attr is None else attr.double())
    theirs.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, peer = conv(x, index, attr), theirs(x, index, attr)
    assert got.dtype == peer.dtype
    error, budget = ((value - exact).abs().max() for value in (got, peer))
    assert error <= 2 * budget
    got.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in conv.parameters())


@pytest.mark.parametrize("backend", backends())
def test_autocast_does_not_reach_into_the_mathematics(backend):
    plain, cast_ = ([leaf.detach().float().requires_grad_() for leaf in leaves(2)] for _ in "ab")
    want, _ = attention_of(*plain, backend=backend)
    want.square().sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = attention_of(*cast_, backend=backend)
    got.square().sum().backward()
    torch.testing.assert_close(got, want)
    for mine, theirs in zip(cast_, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("backend", backends())
def test_autocast_does_not_round_what_is_summed_in_float32(backend):
    x, index, _ = layer_problem()
    conv = GATv2Conv(6, 4, heads=2, bias=False, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, index)
    assert out.dtype == torch.float32
    assert (out != out.bfloat16().float()).float().mean() > 0.9


def test_func_transforms_take_a_path_torch_can_follow():
    x, index, _ = layer_problem(dtype=torch.float64)
    conv = GATv2Conv(6, 4).double()
    jacobian = torch.func.jacrev(lambda value: conv(value, index).sum(0))(x)
    want = torch.autograd.functional.jacobian(lambda value: conv(value, index).sum(0), x)
    torch.testing.assert_close(jacobian, want)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_draws_as_it_is_asked_to(randomness):
    x, index, _ = layer_problem(dtype=torch.float64)
    conv = GATv2Conv(6, 4, dropout=0.5).double()
    one, other = torch.func.vmap(lambda value: conv(value, index), randomness=randomness)(
        torch.stack([x, x])
    )
    assert torch.equal(one, other) == (randomness == "same")


def test_triton_kernels_compile_into_a_full_graph():
    reason = refusal("triton", torch.device("cpu"), torch.float32)
    if reason is not None:
        pytest.skip(reason)
    torch._dynamo.reset()
    x, index, _ = layer_problem()
    conv = GATv2Conv(6, 4, heads=2, backend="triton")
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    out = compiled(x, index)
    assert torch.equal(out, conv(x, index))
    out.square().sum().backward()
    got = conv.att.grad.clone()
    conv.zero_grad()
    conv(x, index).square().sum().backward()
    assert torch.equal(got, conv.att.grad)
