"""What cost is measured on: graphs, runners, the check against float64, the floor."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.cost import bench
from benchmarks.cost.bench import Bench
from benchmarks.cost.problems import correctness, floor
from benchmarks.cost.problems.cases import CASES, GRAPHS, Case, build, count
from benchmarks.cost.problems.runners import Runner, make_layer, module_of, runner_of
from benchmarks.harness.measuring.race import Raced
from benchmarks.layers.contestants import COLD, COMPARED, OURS, PYG_GATV2
from gatv2_pyg import Graph
from gatv2_pyg.graph.structure import Rows

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
    if case.graph == "random" and case.edge_dim is not None:
        assert problem.edge_attr.shape == (src.numel(), case.edge_dim)
    if case.graph == "blocks":
        assert torch.equal(dst.bincount(), torch.full((problem.num_dst,), 15))


def test_cases_have_labels_of_their_own():
    labels = [case.label for case in CASES.values()]
    assert len(set(labels)) == len(labels)
    assert CASES["edges-128"].label == "random 12.5k/250k, 8×16, 128 edge features"
    assert CASES["autocast"].label == "random 50k/1M, 8×16, autocast"
    assert CASES["molecules"].label == "molecules 5.89k/12.3k, 8×16"


def test_a_regular_graph_has_one_degree():
    problem = build(Case("regular", "regular", nodes=50, edges=200, self_loops=False))
    assert torch.equal(problem.edge_index[1].bincount(), torch.full((50,), 4))
    assert problem.edge_index[0].unique().numel() > 25


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
@pytest.mark.parametrize("key", ["ours", "pyg-gatv2"])
def test_half_precision_is_held_to_float64(precision, key):
    problem = build(dataclasses.replace(SMALL, precision=precision))
    got = correctness.evaluate(module_of(COMPARED[key], problem), problem, problem.dtype)
    found = correctness.errors(got, correctness.truth(problem))
    assert 1e-4 < max(found.values()) < 0.1
    assert got["out"].dtype == torch.bfloat16 if precision == "bfloat16" else torch.float32
    runner = Runner(module_of(COMPARED[key], problem), problem)
    assert runner.forward().dtype == got["out"].dtype
    assert [grad.dtype for grad in runner.step()] == [problem.dtype] * len(runner._leaves)


def test_what_is_gathered_by_device():
    assert floor.gathers("cpu") == {"forward": 1, "backward": 2, "step": 3}
    assert floor.gathers("cuda:0") == {"forward": 1, "backward": 3, "step": 4}


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


def test_a_copy_reads_and_writes(monkeypatch):
    monkeypatch.setattr(floor, "_COPY_BYTES", 600)
    monkeypatch.setattr(floor.timing, "alternate", lambda calls, **_: {"copy": [3.0, 2.0, 0.5]})
    assert floor.copy_bandwidth("cpu") == 600


def test_repeated_runs_are_under_one_two_and_all_threads(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    of = Bench("cpu", backend="auto", budget=0.01, min_rounds=2)
    assert of.repeatability(build(SMALL), peer=False)["ours"] == bench.RUNS
    assert asked[:6] == [1, 2, 7, 1, 2, 7]
    assert asked[bench.RUNS :] == [7], "what was set before"


def test_compiled_peer_is_checked_and_quiet(recwarn):
    problem = build(SMALL)
    of = Bench("cpu", backend="auto", budget=0.01, min_rounds=2)
    checked = of.check(problem, [OURS, PYG_GATV2, COMPARED["compiled"]])
    assert checked["errors"]["compiled"]["out"] < 1e-5
    assert not recwarn.list


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of edges of every graph that is made."""
    found: list[int] = []
    from_edge_index, of_grouped = Graph.from_edge_index.__func__, Graph._of_grouped.__func__

    def grouped_here(cls: type[Graph], edge_index: torch.Tensor, *args: Any, **kwargs: Any):
        found.append(edge_index.size(1))
        return from_edge_index(cls, edge_index, *args, **kwargs)

    def grouped_elsewhere(cls: type[Graph], by_dst: Rows, by_src: Rows | None, num_ids: int):
        found.append(num_ids)
        return of_grouped(cls, by_dst, by_src, num_ids)

    monkeypatch.setattr(Graph, "from_edge_index", classmethod(grouped_here))
    monkeypatch.setattr(Graph, "_of_grouped", classmethod(grouped_elsewhere))
    return found


@pytest.mark.parametrize("method", ["forward", "step"])
def test_a_new_graph_is_grouped_every_call_and_no_other(method: str, grouped: list[int]) -> None:
    problem = build(SMALL)
    for contestant, calls in ((COLD, 4), (OURS, 1)):
        runner = runner_of(contestant, module_of(contestant, problem), problem)
        grouped.clear()
        for _ in range(4):
            getattr(runner, method)()
        assert len(grouped) == calls


def test_rows_of_new_graphs_are_those_of_new_graphs(
    grouped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the rows of `overhead`: calls after the first group the edges, or do not."""
    groupings = []

    def race(calls: Any, **options: Any) -> Raced:
        calls["ours"]()
        grouped.clear()
        calls["ours"]()
        groupings.append(len(grouped))
        return Raced({name: [1.0] for name in calls}, dict.fromkeys(calls, 1))

    monkeypatch.setattr(bench, "race", race)
    monkeypatch.setattr(bench, "TINY_CALLS", 3)
    found = Bench("cpu", backend="auto", budget=1, min_rounds=1).overhead(build(SMALL))
    assert dict(zip(found, groupings, strict=True)) == {
        "forward": 0,
        "forward, new graph": 3,
        "training step": 0,
        "training step, new graph": 3,
    }
    # A race of 1 s, in calls of which each holds three.
    assert found["forward"]["seconds"]["ours"][1] == pytest.approx(1 / 3, abs=1e-5)


def test_kernels_group_what_their_columns_say(
    grouped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_source: list[int] = []
    real = Graph.by_src

    def by_src(self: Graph) -> Any:
        by_source.append(self.num_ids)
        return real.__get__(self)

    monkeypatch.setattr(Graph, "by_src", property(by_src))
    kernels = floor.Kernels(build(SMALL))
    grouped.clear()
    assert kernels.forward().isfinite().all()
    kernels.step()
    assert grouped == []
    by_source.clear()
    kernels.group()
    assert (grouped, by_source) == ([300], [])
    kernels.group_both()
    assert (grouped, by_source) == ([300, 300], [340])
    (out, *grads) = (kernels._attend(kernels.leaves), *kernels.step())
    torch.testing.assert_close(kernels.forward(), out.detach())
    expected = torch.autograd.grad(out, kernels.leaves, kernels.grad)
    for grad, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, want)


def test_kernels_are_summarised_over_their_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        "forward": [3.0, 6.0],
        "step": [20.0, 30.0],
        "group": [1.0, 1.0],
        "gather": [1.0, 2.0],
    }
    seconds["group both"] = [2.0, 2.0]
    raced = Raced(seconds, dict.fromkeys(seconds, 1))
    monkeypatch.setattr(bench, "race", lambda calls, **options: raced)
    found = Bench("cpu", backend="auto", budget=1, min_rounds=1).kernels(build(SMALL))
    assert found["ratios"]["forward"] == [3.0, 3.0, 3.0]
    assert found["ratios"]["backward"][1] == (17 + 12) / 2
    assert found["ratios"]["step"][1] == (20 + 15) / 2
    del seconds["gather"]
    bandwidth = 0.5 * floor.Kernels(build(SMALL)).gather_bytes()
    on_gpu = Bench("cpu", backend="auto", budget=1, min_rounds=1, bandwidth=bandwidth)
    assert on_gpu.kernels(build(SMALL))["ratios"]["step"][1] == (20 + 30) / 2 / 2


def test_ratios_are_over_what_the_tables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a race takes 1 s, each further one a second more."""

    def race(calls: Any, **options: Any) -> Raced:
        seconds = {name: [1.0 + place] for place, name in enumerate(calls)}
        return Raced(seconds, dict.fromkeys(calls, 1))

    monkeypatch.setattr(bench, "race", race)
    of = Bench("cpu", backend="auto", budget=1, min_rounds=1)
    problem = build(SMALL)
    dropout = of.dropout(problem)
    assert (dropout["over"], dropout["ratios"]) == ("none", {"dropout": [2.0] * 3})
    for raced in of.hubs({"random-8x16": problem, "star": problem}).values():
        assert (raced["over"], raced["ratios"]) == ("random-8x16", {"star": [2.0] * 3})
    found = of.layers(problem, [OURS, PYG_GATV2])
    for what in ("forward", "step"):
        assert (found[what]["over"], found[what]["ratios"]) == ("ours", {"pyg-gatv2": [2.0] * 3})
