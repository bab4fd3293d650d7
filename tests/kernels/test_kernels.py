"""One suite over all kernels: outputs and gradients against the float64 reference."""

from __future__ import annotations

import itertools

import pytest
import torch

from gatv2_pyg.kernels.contract import Needs
from gatv2_pyg.kernels.validity import PIECE
from gatv2_pyg.ops import reference
from tests.kernels.cases import Case, assert_within_budget, build, cast, run

SHAPES = list(itertools.product((1, 3, 8), (1, 7, 16, 20, 64, 130)))
OPTIONS = [
    Case(),
    Case(self_loops=True),
    Case(index_dtype=torch.int64),
    Case(num_src=23, num_dst=61),
    Case(num_src=61, num_dst=23, self_loops=True),
    Case(edge_dim=1),
    Case(edge_dim=5, self_loops=True),
    Case(edge_dim=16, grad_alpha=True),
    Case(edge_dim=37, heads=3, channels=5),
    Case(dropout=0.4),
    Case(dropout=0.6, heads=5, edge_dim=3, self_loops=True, grad_alpha=True),
    Case(dropout=1.0, grad_alpha=True),
    Case(grad_alpha=True),
    Case(negative_slope=0.0),
    Case(negative_slope=1.7),
    Case(negative_slope=-0.5),
    Case(hub=3000, num_edges=300),
    Case(hub=1300, num_edges=300, heads=3, channels=7, edge_dim=5, dropout=0.3, grad_alpha=True),
    Case(num_edges=0),
    Case(num_edges=0, edge_dim=4, self_loops=True),
    Case(num_edges=0, num_src=0, num_dst=0),
    Case(num_edges=0, num_src=0, num_dst=7, edge_dim=2, grad_alpha=True),
    Case(num_edges=0, num_src=7, num_dst=0),
    Case(num_src=1, num_dst=1, num_edges=5),
    Case(bias="edge"),
    Case(bias="head", heads=3, channels=7, self_loops=True, dropout=0.3, grad_alpha=True),
    Case(bias="head", heads=8, edge_dim=5),
    Case(bias="edge", heads=20, channels=3, index_dtype=torch.int64),
    Case(bias="edge", hub=3000, num_edges=300),
    Case(bias="head", hub=1300, num_edges=300, edge_dim=3, dropout=0.3, grad_alpha=True),
    Case(bias="head", num_edges=0, self_loops=True),
    Case(batch=3),
    Case(batch=5, heads=3, channels=7, edge_dim=5, self_loops=True, dropout=0.4, grad_alpha=True),
    Case(batch=2, hub=1300, num_edges=300, bias="head", edge_dim=2, dropout=0.3, grad_alpha=True),
    Case(batch=3, bias="edge", num_src=61, num_dst=23, blocks=3),
    Case(batch=0, bias="head", edge_dim=2, grad_alpha=True),
    Case(batch=2, num_edges=0, num_src=0, num_dst=0),
]


@pytest.fixture(params=["reference", "cpu", "triton"])
def kernels(request):
    if request.param == "reference":
        return reference
    module = pytest.importorskip(f"gatv2_pyg.kernels.{request.param}")
    reason = module.unavailable()
    if reason is not None:
        pytest.skip(reason)
    return module


def device_of(kernels) -> str:
    return "cuda" if "triton" in kernels.__name__ and torch.cuda.is_available() else "cpu"


def dtypes_of(kernels) -> list[torch.dtype]:
    half = [torch.float32, torch.bfloat16, torch.float16]
    return half if "triton" in kernels.__name__ else [torch.float64, *half]


def check(kernels, case: Case, dtype: torch.dtype) -> None:
    problem = cast(build(case), dtype, device_of(kernels))
    assert_within_budget(problem, run(kernels, problem))


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options(kernels, case):
    check(kernels, case, torch.float32)


@pytest.mark.parametrize(("heads", "channels"), SHAPES)
def test_shapes(kernels, heads, channels):
    case = Case(heads=heads, channels=channels, num_edges=100, edge_dim=3, dropout=0.25)
    check(kernels, case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "case",
    [
        Case(heads=3, channels=20),
        Case(edge_dim=5, dropout=0.3, grad_alpha=True),
        Case(edge_dim=5, bias="head", batch=3, hub=700),
    ],
    ids=str,
)
def test_dtypes(kernels, case, dtype):
    if dtype not in dtypes_of(kernels):
        pytest.skip(f"these kernels have no {dtype}")
    check(kernels, case, dtype)


@pytest.mark.parametrize("degree", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_rows_about_as_long_as_a_piece(kernels, degree):
    case = Case(1, 4, num_src=9, num_dst=1, num_edges=degree)
    check(kernels, case, torch.float32)


@pytest.mark.parametrize("scale", [1e-4, 30.0, 1e4])
def test_extreme_logits(kernels, scale):
    check(kernels, Case(scale=scale), torch.float32)


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("wanted", range(len(Needs._fields)))
def test_single_gradients(kernels, wanted, batch):
    """A gradient asked for alone is the one that comes with all the others."""
    case = Case(edge_dim=5, dropout=0.3, bias="head", batch=batch)
    p = cast(build(case), torch.float32, device_of(kernels))
    outputs = p.forward(kernels)
    assert outputs.alpha is None
    needs = Needs(*(index == wanted for index in range(len(Needs._fields))))
    p = p if needs.x_src else p._replace(by_src=None)
    grads = p.backward(kernels, outputs, needs)
    assert [grad is not None for grad in grads] == list(needs)
    p = cast(build(case), torch.float32, device_of(kernels))
    name = Needs._fields[wanted]
    torch.testing.assert_close(grads[wanted], run(kernels, p)[f"grad {name}"])


def test_gradient_of_attention_alone(kernels):
    p = cast(build(Case(grad_alpha=True, dropout=0.3)), torch.float32, device_of(kernels))
    zero = run(kernels, p._replace(grad_out=torch.zeros_like(p.grad_out)))
    grads = p._replace(grad_out=None).backward(kernels, p.forward(kernels))
    for name in ("x_src", "x_dst", "att"):
        torch.testing.assert_close(getattr(grads, name), zero[f"grad {name}"])


@pytest.mark.parametrize("case", [OPTIONS[0], OPTIONS[10], OPTIONS[17], OPTIONS[-4]], ids=str)
def test_runs_are_bitwise_equal(kernels, case):
    if kernels is reference:
        pytest.skip("the reference makes no such promise")
    problem = cast(build(case), torch.float32, device_of(kernels))
    first = run(kernels, problem)
    for _ in range(2):
        for name, value in run(kernels, problem).items():
            assert torch.equal(value, first[name]), name


def test_the_dropout_mask_is_the_reference_mask(kernels):
    """Returned coefficients are zero exactly where the reference drops them."""
    case = Case(heads=6, dropout=0.5, grad_alpha=True, num_edges=500)
    problem = build(case)
    mine = run(kernels, cast(problem, torch.float32, device_of(kernels)))["alpha"].cpu()
    want = run(reference, problem)["alpha"]
    assert torch.equal(mine == 0, want == 0)
    assert 0.4 < (want == 0).double().mean() < 0.6


@pytest.mark.parametrize("case", OPTIONS[:20], ids=str)
def test_reference_backward_is_the_gradient_of_its_forward(case):
    p = build(case)
    leaves = [None if value is None else value.requires_grad_() for value in p.inputs]
    out, _, alpha = p.forward(reference)
    loss = (out * p.grad_out).sum()
    if alpha is not None:
        loss = loss + (alpha * p.grad_alpha).sum()
    wanted = [leaf for leaf in leaves if leaf is not None]
    want = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        got = [value for name, value in run(reference, p).items() if name.startswith("grad")]
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
