"""What cost is measured on: graphs, runners, the check against float64, the floor."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cost.bench import Bench
from benchmarks.cost.problems import correctness, floor
from benchmarks.cost.problems.cases import CASES, GRAPHS, Case, build, count
from benchmarks.cost.problems.runners import Runner, make_layer, module_of
from benchmarks.layers.contestants import COMPARED, OURS, PYG_GATV2

SMALL = Case("small", "random", nodes=40, edges=300, heads=2, channels=8)


GENERATED = [case for case in CASES.values() if case.graph in GRAPHS]


@pytest.mark.parametrize("case", GENERATED, ids=lambda case: case.key)
def test_every_generated_graph_is_in_range_and_the_same_every_time(case):
    case = case.scaled(0.005)
    problem, again = build(case), build(case)
    assert torch.equal(problem.edge_index, again.edge_index)
    assert torch.equal(problem.grad, again.grad)
    src, dst = problem.edge_index
    for end, size in ((src, problem.num_src), (dst, problem.num_dst)):
        assert int(end.min()) >= 0
        assert int(end.max()) < size
    assert problem.grad.shape == (problem.num_dst, case.heads * case.channels)
    if case.graph == "star":
        assert int(dst.max()) == 0
    if case.graph == "reversed-star":
        assert int(src.max()) == 0
    if case.graph == "power-law":
        assert int(dst.bincount().max()) > 5 * dst.numel() / problem.num_dst
    if case.graph == "molecules":
        pairs = set(map(tuple, problem.edge_index.t().tolist()))
        assert all((b, a) in pairs for a, b in pairs)
        assert problem.edge_attr.shape == (src.numel(), 12)
    if case.graph == "blocks":
        assert torch.equal(dst.bincount(), torch.full((problem.num_dst,), 15))


def test_number_of_edges_counts_self_loops_once():
    problem = build(SMALL)
    loops = int((problem.edge_index[0] == problem.edge_index[1]).sum())
    assert loops > 0
    graph = floor.Kernels(problem).graph
    assert problem.num_edges == 300 - loops + 40 == graph.num_edges


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (50_000, "50k"), (1_000_000, "1M"), (1_500_000, "1.5M")]
)
def test_count(number, text):
    assert count(number) == text


def test_runner_gives_the_gradients_of_a_training_step():
    problem = build(SMALL)
    module = make_layer(PYG_GATV2, problem)
    names = [name for name, _ in module.named_parameters()]
    truth = correctness.evaluate(module, problem, torch.float32)
    runner = Runner(module, problem)
    torch.testing.assert_close(runner.forward(), truth["out"])
    for name, grad in zip(["x", *names], runner.step(), strict=True):
        torch.testing.assert_close(grad, truth[f"grad {name}"])


def test_a_fresh_runner_passes_a_new_tensor_every_call():
    problem = build(SMALL)
    seen = []
    module = make_layer(PYG_GATV2, problem)
    module.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    for fresh_edges in (True, False):
        runner = Runner(module, problem, fresh=fresh_edges)
        runner.forward()
        runner.forward()
    assert seen[0] is not seen[1]
    assert seen[2] is seen[3] is problem.edge_index


@pytest.mark.parametrize("edge_dim", [None, 5])
@pytest.mark.parametrize("key", ["ours", "pyg-gatv2"])
def test_all_gatv2_layers_compute_the_same_function(key, edge_dim):
    case = Case("case", "molecules", nodes=60, edge_dim=edge_dim, heads=3, channels=5)
    problem = build(case)
    truth = correctness.truth(problem)
    found = correctness.errors(
        correctness.evaluate(module_of(COMPARED[key], problem), problem, torch.float32), truth
    )
    assert ("grad edge_attr" in found) == (edge_dim is not None)
    assert max(found.values()) < 1e-5


def test_the_truth_is_the_layer_in_float64():
    problem = build(SMALL)
    exact = correctness.evaluate(make_layer(PYG_GATV2, problem).double(), problem, torch.float64)
    for name, value in correctness.truth(problem).items():
        torch.testing.assert_close(value, exact[name], rtol=1e-5, atol=1e-4)
        assert value.dtype == torch.float64


def test_the_truth_has_the_kinks_of_float32(monkeypatch):
    def opposed(contestant, problem):
        layer = make_layer(contestant, problem)
        layer.lin_r.weight.data = -layer.lin_l.weight.data
        layer.lin_r.bias.data = -layer.lin_l.bias.data
        return layer

    monkeypatch.setattr(correctness, "make_layer", opposed)
    problem = build(SMALL)
    # From these nodes to their near copies the input of LeakyReLU is rounding alone.
    rng = torch.Generator().manual_seed(0)
    noise = 1e-7 * torch.randn(20, problem.x.size(1), generator=rng)
    problem.x[20:] = problem.x[:20] * (1 + noise)
    node = torch.arange(20)
    problem.edge_index = torch.cat([problem.edge_index, torch.stack([node, node + 20])], dim=1)
    got = correctness.evaluate(opposed(PYG_GATV2, problem), problem, torch.float32)
    exact = correctness.evaluate(opposed(PYG_GATV2, problem).double(), problem, torch.float64)
    assert correctness.errors(got, exact)["grad x"] > 1e-3
    assert max(correctness.errors(got, correctness.truth(problem)).values()) < 5e-6


def test_failure_names_the_tensor_that_errs_more_than_the_yardstick():
    yardstick = {"out": 1e-5, "grad x": 1e-5}
    assert correctness.failure({"out": 1e-5, "grad x": 1e-9}, yardstick) is None
    assert "grad x errs by" in correctness.failure({"out": 0.0, "grad x": 2e-5}, yardstick)
    assert correctness.failure({"out": 0.0, "grad x": 2e-5}, yardstick, factor=3) is None
    assert correctness.failure({"out": 5e-7, "grad x": 0.0}, {"out": 0.0, "grad x": 0.0}) is None
    nan = {"out": torch.tensor([float("nan")])}
    found = correctness.errors(nan, {"out": torch.ones(1)})
    assert correctness.failure(found, {"out": 1.0}) is not None


def test_the_floor_gathers_the_rows_of_every_edge():
    kernels = floor.Kernels(build(SMALL))
    ptr, idx = kernels.graph.by_dst.ptr.long(), kernels.graph.by_dst.idx.long()
    rows = kernels.plain[0].flatten(1)
    row = torch.repeat_interleave(torch.arange(40), ptr.diff())
    want = torch.zeros(40, 16).index_add(0, row, rows[idx[: int(ptr[-1])]])
    torch.testing.assert_close(kernels.gather()(), want)
    assert kernels.gather_bytes() == kernels.graph.num_edges * 16 * 4
    assert kernels.forward().shape == (40, 2, 8)
    assert [grad.shape for grad in kernels.step()] == [leaf.shape for leaf in kernels.leaves]


def test_compiled_peer_is_checked_and_quiet(recwarn):
    problem = build(SMALL)
    bench = Bench("cpu", backend="auto", budget=0.01, min_rounds=2)
    checked = bench.check(problem, [OURS, PYG_GATV2, COMPARED["compiled"]])
    assert checked["errors"]["compiled"]["out"] < 1e-5
    assert not recwarn.list
