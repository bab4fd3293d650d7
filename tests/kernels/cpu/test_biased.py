"""A layer's biases in the CPU kernels: rows that get them, and sums of gradients over rows."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

from gatv2_pyg.kernels.contract import Needs
from gatv2_pyg.ops import reference
from tests.kernels.cases import Case, Problem, build, cast

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None, reason=f"the kernels are not available: {cpu.unavailable()}"
)

CASES = [
    Case(heads=8, num_edges=4000),  # interleaved
    Case(heads=3, channels=5, num_edges=4000),  # interleaved, padded
    Case(heads=8, num_edges=90),
    Case(heads=3, channels=20, num_edges=400, dropout=0.3),
    Case(heads=8, channels=5, num_edges=300, dropout=0.3, edge_dim=5, blocks=3),
    Case(heads=4, channels=32, hub=3000, num_edges=300, edge_dim=3),
    Case(heads=3, channels=21, hub=3000, num_edges=300, dropout=0.3, blocks=3),
    Case(heads=1, channels=130, num_src=5, num_dst=90, num_edges=400, hub=3000, blocks=4),
    Case(heads=2, num_edges=300, bias="head", self_loops=True),
    Case(num_src=9, num_dst=7, num_edges=0),
    Case(num_src=9, num_dst=0, num_edges=0),
    Case(num_src=0, num_dst=9, num_edges=0),
    Case(heads=4, num_edges=300, hub=700, batch=3, dropout=0.3, blocks=2),
    Case(heads=4, num_edges=300, batch=0),
    Case(num_edges=2000, hub=700, blocks=2, index_dtype=torch.int64),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ALL = (True, True, True)


def biases(problem: Problem) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    return [torch.randn(problem.att.numel(), generator=rng).to(problem.att.dtype) for _ in "do"]


def run(problem: Problem, dst_bias=None, out_bias=None, wanted=ALL):
    """Biased rows, outputs, gradients and sums."""
    call = problem.inputs, problem.edges, problem.options
    biased, outputs = cpu.forward_biased(*call, dst_bias, out_bias, True)
    needs = Needs(*(value is not None for value in problem.inputs))
    found, sums = cpu.backward_summed(
        problem.grads, problem.inputs, outputs, *call[1:], needs, dst_bias, wanted
    )
    return biased, outputs, found, sums


def assert_sum(got: torch.Tensor, rows: torch.Tensor) -> None:
    """Half precision is that of the rows, which were rounded after they were added up."""
    limits = torch.finfo(rows.dtype)
    rows = rows.double().reshape(-1, got.numel())
    allowed = limits.eps * (4 * rows.abs().sum(0) + len(rows) * limits.smallest_normal)
    assert ((got.double() - rows.sum(0)).abs() <= allowed).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_biases_are_those_of_rows(case, dtype):
    problem = cast(build(case), dtype)
    dst_bias, out_bias = biases(problem)
    biased, outputs, found, _ = run(problem, dst_bias, out_bias)
    exact = cast(problem, torch.float64)
    exact = exact._replace(x_dst=exact.x_dst + dst_bias.double().view_as(problem.att))
    want = exact.forward(reference)
    want_grads = exact.backward(reference, want)
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-5}.get(dtype, 8 * torch.finfo(dtype).eps)
    torch.testing.assert_close(outputs.out.double(), want.out, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(outputs.lse.double(), want.lse, rtol=tolerance, atol=tolerance)
    for got, grad in zip(found, want_grads, strict=True):
        if grad is not None:
            scale = max(float(grad.abs().max()), 1.0) if grad.numel() else 1.0
            torch.testing.assert_close(got.double(), grad, rtol=0, atol=tolerance * scale)
    assert torch.equal(biased, outputs.out + out_bias.view_as(problem.att))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_are_those_of_all_rows(case, dtype):
    problem = cast(build(case), dtype)
    *_, found, sums = run(problem, biases(problem)[0])
    for got, rows in zip(sums, (problem.grad_out, found.x_src, found.x_dst), strict=True):
        assert got.dtype == problem.att.dtype
        assert_sum(got, rows)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_threads_nor_on_what_else_is_wanted(case, threads):
    problem = cast(build(case), torch.float32)
    dst_bias, out_bias = biases(problem)
    threads(1)
    first = run(problem, dst_bias, out_bias)
    for count in (2, 3):
        threads(count)
        again = run(problem, dst_bias, out_bias)
        for got, want in zip(
            [again[0], *again[2], *again[3]], [first[0], *first[2], *first[3]], strict=True
        ):
            assert (got is None and want is None) or torch.equal(got, want)
    call = problem.inputs, problem.edges, problem.options
    assert torch.equal(cpu.forward_biased(*call, dst_bias, out_bias, False)[0], first[0])
    for wanted in itertools.product((True, False), repeat=3):
        *_, found, sums = run(problem, dst_bias, out_bias, wanted)
        for got, want, is_wanted in zip(sums, first[3], wanted, strict=True):
            assert torch.equal(got, want) if is_wanted else got is None
        for got, want in zip(found, first[2], strict=True):
            assert (got is None and want is None) or torch.equal(got, want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_biases_all_is_as_without_sums(case):
    problem = cast(build(case), torch.float32)
    out, outputs, found, _ = run(problem)
    plain = problem.forward(cpu)
    assert out is outputs.out
    assert torch.equal(out, plain.out)
    assert torch.equal(outputs.lse, plain.lse)
    for got, want in zip(found, problem.backward(cpu, plain), strict=True):
        assert (got is None and want is None) or torch.equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(heads=8, num_edges=4000, bias="edge"),
        Case(heads=3, num_edges=300, bias="edge", self_loops=True, dropout=0.3, blocks=2),
        Case(heads=1, hub=1500, bias="edge", edge_dim=3, index_dtype=torch.int64),
        Case(num_src=9, num_dst=0, num_edges=0, bias="edge"),
    ],
    ids=str,
)
def test_biases_of_edges_are_brought_into_order_once(case, dtype):
    problem = cast(build(case), dtype)
    inputs, edges, options = problem.inputs, problem.edges, problem.options
    ordered = cpu.ordered_bias(inputs, edges)
    out, outputs = cpu.forward_biased(inputs, edges, options, None, None, True, ordered)
    needs = Needs(*(value is not None for value in inputs))
    nothing = None, (False, False, False)
    without, _ = cpu.backward_summed(
        problem.grads, inputs, outputs, edges, options, needs, *nothing
    )
    inputs.attn_bias.fill_(torch.nan)  # not read again
    found, _ = cpu.backward_summed(
        problem.grads, inputs, outputs, edges, options, needs, *nothing, ordered
    )
    assert torch.equal(out, cast(build(case), dtype).forward(cpu).out)
    for got, want in zip(found, without, strict=True):
        assert (got is None and want is None) or torch.equal(got, want)


def test_biases_by_head_and_of_batches_are_not_kept_in_order():
    for case in (Case(), Case(bias="head"), Case(bias="edge", batch=2)):
        problem = cast(build(case), torch.float32)
        assert cpu.ordered_bias(problem.inputs, problem.edges) is None


@pytest.mark.parametrize(("heads", "channels"), [(8, 16), (1, 129)])
def test_results_larger_than_the_caches(heads, channels, threads):
    nodes = 17_000  # 8.7 MB
    case = Case(heads, channels, num_src=nodes, num_dst=nodes, num_edges=3 * nodes, blocks=2)
    problem = cast(build(case), torch.float32)
    threads(2)
    biased, outputs, found, sums = run(problem, *biases(problem))
    assert torch.equal(biased, outputs.out + biases(problem)[1].view_as(problem.att))
    for got, rows in zip(sums, (problem.grad_out, found.x_src, found.x_dst), strict=True):
        assert_sum(got, rows)
    threads(1)
    again = run(problem, *biases(problem))
    assert torch.equal(again[0], biased)
    assert all(map(torch.equal, again[3], sums))
