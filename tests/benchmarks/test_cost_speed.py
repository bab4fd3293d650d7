"""The benchmarks speed, memory, scaling and gpu, on tiny graphs."""

import json
import sys
import time
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from benchmarks.cli import main
from benchmarks.cost import gpu, memory, scaling, scaling_report, speed, targets
from benchmarks.cost.problems import correctness, floor
from benchmarks.cost.problems.cases import CASES, GRAPHS, Case, build, count
from benchmarks.cost.problems.runners import Runner, make_layer, module_of
from benchmarks.harness.measuring import fresh, race
from benchmarks.harness.store import Store
from benchmarks.layers.contestants import COMPARED, DENSE, OURS, PYG_GATV2
from gatv2_pyg import GATv2Conv

SMALL = Case("small", "random", nodes=40, edges=300, heads=2, channels=8)
GENERATED = [case for case in CASES.values() if case.graph in GRAPHS]


@pytest.fixture(autouse=True)
def _one_thread():
    """Parallel regions of a few microseconds crawl where other processes keep the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class _Bar:
    def say(self, note):
        pass

    def advance(self, count=1):
        pass


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


def test_race_calls_short_contestants_more_often():
    calls = {"slow": lambda: _spin(0.02), "fast": lambda: _spin(0.0005)}
    raced = race.race(calls, device="cpu", budget=0.1, min_rounds=3)
    assert raced["repeats"]["slow"] == 1
    assert 1 < raced["repeats"]["fast"] <= race.MAX_REPEATS
    rounds = len(raced["seconds"]["slow"])
    assert rounds >= 3
    assert len(raced["seconds"]["fast"]) == rounds * raced["repeats"]["fast"]
    assert race.ratio(raced, "slow", "fast") > 4
    assert race.ratio(raced, "slow", "absent") is None
    same = race.race(calls, device="cpu", budget=0.1, min_rounds=1, same_repeats=True)["repeats"]
    assert same == {"slow": race.MAX_REPEATS, "fast": race.MAX_REPEATS}


def _spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_ratios_are_taken_within_rounds():
    raced = {
        "seconds": {"a": [2.0, 9.0], "b": [1.0, 1.0, 8.0, 3.0, 3.0, 3.0]},
        "repeats": {"a": 1, "b": 3},
    }
    assert race.per_round(raced, "b") == [1.0, 3.0]
    assert race.ratios(raced, "a", "b") == [2.0, 3.0]


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


def _raced(**seconds):
    return {
        "seconds": {key: [value] for key, value in seconds.items()},
        "repeats": dict.fromkeys(seconds, 1),
    }


def test_verdicts_are_computed_from_the_data():
    value = {
        "label": "random",
        "failures": {},
        "forward": _raced(**{"ours": 1.0, "pyg-gatv2": 31.0}),
        "step": _raced(**{"ours": 1.0, "pyg-gatv2": 17.0, "gat": 10.0}),
        "kernels": _raced(gather=1.0, forward=2.0, step=12.0),
    }
    data = {
        "device": "cpu",
        "cases": {"random-8x16": value, "star": {"label": "star"}},
        "hubs": {"forward": _raced(**{"random-8x16": 1.0, "star": 1.6})},
        "dropout": {"random-8x16": _raced(none=1.0, dropout=1.1)},
        "overhead": {"forward": _raced(**{"ours": 1.0, "pyg-gatv2": 2.0})},
        "repeatability": {"random-8x16": {"label": "random", "ours": 19}},
    }
    found = {
        (target.what, target.where, target.goal): target.met for target in targets.targets(data)
    }
    assert found == {
        ("forward, PyG GATv2Conv over this layer", "random", False): True,
        ("training step, PyG GATv2Conv", "random", False): False,
        ("training step, PyG GATConv", "random", False): True,
        ("forward kernel over the floor", "random", False): True,
        ("forward kernel over the floor", "random", True): False,
        ("step kernels over the floor", "random", True): False,
        ("forward, over the random graph", "star", False): False,
        ("training step, with dropout over without", "random", False): True,
        ("forward, this layer over PyG GATv2Conv", "30 nodes", False): True,
        ("forward, new graph, this layer over PyG GATv2Conv", "30 nodes", False): None,
        (f"runs of {targets.RUNS} with the same bits", "random", False): False,
    }
    assert targets.summary(targets.targets(data)) == "5 of 9 requirements met"
    verdicts = [row[-1] for row in targets.table(targets.targets(data)).rows]
    assert "goal not met" in verdicts
    assert "not measured" in verdicts


def test_cuda_requirements_use_the_bandwidth_floor():
    value = {
        "label": "large",
        "failures": {},
        "step": _raced(**{"ours": 1.0, "pyg-gatv2": 12.0, "compiled": 3.0}),
        "kernels": _raced(forward=2.0, step=14.0) | {"gather bytes": 100},
    }
    data = {"device": "cuda", "cases": {"large-8x16": value}, "bandwidth": 100.0}
    data |= {"repeatability": {}}
    assert [(t.measured, t.met) for t in targets.targets(data)] == [
        (12.0, True),
        (3.0, False),
        (2.0, True),
        (4.0, False),
    ]


def _speed(out, *more):
    arguments = ["--device", "cpu", "--out", str(out), "--scale", "0.002", "--budget", "0.02"]
    return main(["speed", *arguments, "--no-compile", *more])


def test_speed_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "RUNS", 2)
    monkeypatch.setattr(speed, "TINY_CALLS", 2)
    assert _speed(tmp_path, "--cases", "random-8x16,star,blocks") == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert set(result["data"]["cases"]) == {"random-8x16", "star", "blocks"}
    for value in result["data"]["cases"].values():
        assert value["failures"].get("ours") is None
        for what in ("forward", "step"):
            assert min(value[what]["seconds"]["ours"]) > 0
            assert {"cold", "pyg-gatv2", "gat"} <= set(value[what]["seconds"])
    assert result["data"]["repeatability"]["random-8x16"]["ours"] == 2
    titles = [table["title"] for table in result["tables"]]
    assert titles[0] == "Must reach"
    assert {"Overhead of a call", "Hubs: this layer on graphs of as many edges"} <= set(titles)
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert "faster than PyG" in result["headline"]


def test_a_wrong_layer_gets_no_speed(tmp_path, monkeypatch):
    right = speed.module_of

    def wrong(contestant, problem, backend="auto"):
        module = right(contestant, problem, backend)
        if isinstance(module, GATv2Conv):
            module.negative_slope = 0.3
        return module

    monkeypatch.setattr(speed, "module_of", wrong)
    monkeypatch.setattr(speed, "TINY_CALLS", 2)
    assert _speed(tmp_path, "--cases", "random-3x20") == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    (value,) = result["data"]["cases"].values()
    assert value["failures"]["ours"].startswith("wrong: out errs by")
    assert "kernels" not in value
    assert not {"ours", "cold"} & (set(value["forward"]["seconds"]) | set(value["step"]["seconds"]))
    assert "pyg-gatv2" in value["step"]["seconds"]
    (forward,) = [t for t in result["tables"] if t["title"] == "Whole layer, forward"]
    assert forward["rows"][0][1].startswith("wrong")
    assert result["headline"].startswith("No speed")


def test_an_unknown_case_is_one_line(capsys):
    assert main(["speed", "--cases", "moon"]) == 2
    assert "unknown case 'moon'" in capsys.readouterr().err


def test_compiled_peer_is_checked_and_quiet(recwarn):
    problem = build(SMALL)
    bench = speed.Bench("cpu", backend="auto", budget=0.01, min_rounds=2)
    checked = bench.check(problem, [OURS, PYG_GATV2, COMPARED["compiled"]])
    assert checked["errors"]["compiled"]["out"] < 1e-5
    assert not recwarn.list


def test_memory_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CONTESTANTS", (OURS, PYG_GATV2))
    arguments = ["--device", "cpu", "--out", str(tmp_path), "--cases", "random-8x16"]
    assert main(["memory", *arguments, "--scale", "0.2"]) == 0
    result = json.loads((tmp_path / "memory.json").read_text())
    layers = result["data"]["random-8x16"]["layers"]
    assert layers["ours"]["failure"] is None
    assert layers["ours"]["value"]["edges"] == 200_000
    # PyG keeps several [E, H, C] tensors, of 100 MB each.
    assert layers["pyg-gatv2"]["peak_bytes"] > 3e8
    assert result["tables"][0]["title"] == "Must reach"


@pytest.mark.parametrize("key", [c.key for c in scaling.CONTESTANTS])
def test_a_scaling_point_of_every_contestant(key, monkeypatch):
    monkeypatch.setattr(scaling, "SECONDS", 0.01)
    case = scaling.case_of("edges", 2_000)
    step = scaling.step(asdict(case), key, "cpu", "auto")
    step.warm()
    value = step.run()
    assert value["degree"] > 20
    assert 3 <= len(value["seconds"]) <= scaling.STEPS
    assert min(value["seconds"]) > 0


def test_a_step_that_takes_too_long_is_timed_once(monkeypatch):
    monkeypatch.setattr(scaling, "TOO_LONG", 0.0)
    step = scaling.step(asdict(scaling.case_of("edges", 200)), "pyg-gatv2", "cpu", "auto")
    assert len(step.run()["seconds"]) == 1
    point = {"failure": None, "seconds": 21.0, "peak": 2**20, "steps": 1, "x": 200}
    lines = {contestant.key: [point] for contestant in scaling.CONTESTANTS}
    table = scaling_report._points({"axes": {"edges": lines}}, "edges", scaling.CONTESTANTS)
    assert table.rows[0][1] == "21.0 s (1 step), 1.00 MiB"


def test_two_points_have_no_slope():
    points = [{"failure": None, "seconds": x / 1e6, "peak": x, "x": x} for x in (8, 64, 512)]
    assert scaling_report.slope("channels", points, "seconds") == pytest.approx(1)
    assert scaling_report.slope("channels", points[:2], "seconds") is None


def test_dense_attention_takes_the_same_step():
    problem = build(SMALL)
    dense = scaling._runner(DENSE.key, problem, "auto")
    sparse = make_layer(PYG_GATV2, problem)
    dense.module.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(dense.forward(), Runner(sparse, problem).forward())


class _Points(scaling.Points):
    """Memory runs out beyond ``fits`` edges; time grows as E ** 1.5, memory as E."""

    def __init__(self, store, fits):
        super().__init__(store, "cpu", "auto", 2**30)
        self.fits, self.asked = fits, []

    def measure(self, contestant, case):
        self.asked.append(case.edges)
        if case.edges > self.fits:
            return {"failure": "memory"}
        return {
            "failure": None,
            "seconds": 1e-9 * case.edges**1.5,
            "fastest": 0.9e-9 * case.edges**1.5,
            "slowest": 1.2e-9 * case.edges**1.5,
            "steps": 3,
            "peak": 1000 * case.edges,
            "degree": case.edges // 10,
        }


@pytest.mark.parametrize("fits", [10**5 + 1, 345_678, 50_000_000])
def test_a_line_ends_at_the_first_failure_and_the_largest_graph_is_found(tmp_path, fits):
    points = _Points(Store(tmp_path / "units.jsonl", {}), fits)
    grid = [10**4, 31_600, 10**5, 10**6, 10**7]
    line = points.line(OURS, "edges", grid, _Bar())
    assert sum(bool(point["failure"]) for point in line) == (fits < 10**7)
    assert points.asked == [point["x"] for point in line]
    largest = points.largest(OURS, line, _Bar())
    assert largest["edges"] <= fits < largest["fails_at"]
    assert largest["fails_at"] <= scaling.CLOSE * largest["edges"]
    assert largest["failure"] == "memory"
    assert scaling_report.slope("edges", line, "seconds") == pytest.approx(1.5)
    assert scaling_report.slope("edges", line, "peak") == pytest.approx(1.0)


def test_scaling_is_reported_with_the_ends_of_its_lines(tmp_path, monkeypatch):
    limits = {"ours": 10**9, "pyg-gatv2": 300_000, "dense": 20_000}

    def measure(self, contestant, case):
        return _Points(self.store, limits[contestant.key]).measure(contestant, case)

    monkeypatch.setattr(scaling.Points, "measure", measure)
    arguments = ["--device", "cpu", "--out", str(tmp_path), "--memory-limit", "1"]
    assert main(["scaling", *arguments]) == 0
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert result["data"]["largest"]["pyg-gatv2"]["edges"] <= 300_000
    assert "Within 1 GiB this layer trains on" in result["headline"]
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    cells = [cell for table in result["tables"] for row in table["rows"] for cell in row]
    assert "out of memory" in cells


def test_running_out_of_memory_is_caught_in_its_own_process():
    arguments = asdict(scaling.case_of("edges", 3_000_000))
    found = fresh.measure(
        "benchmarks.cost.scaling:step",
        {"case": arguments, "contestant": "pyg-gatv2", "device": "cpu", "backend": "auto"},
        limit_bytes=3 * 2**29,
    )
    assert found.out_of_memory, found.failure


def test_a_gpu_stage_that_fails_or_hangs_loses_nothing_else(tmp_path, monkeypatch):
    python = [sys.executable, "-c"]
    write = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'speed.json').write_text("
    write += """'{"headline": "fast", "tables": []}'); print('done')"""
    made = [
        gpu.Stage("tests", [*python, "print('one failed'); raise SystemExit(1)"], 0.9),
        gpu.Stage("hangs", [*python, "import time; time.sleep(60)"], 0.1),
        gpu.Stage("missing", ["no-such-program"], 0.5),
        gpu.Stage("speed", [*python, write], 1.0, "speed"),
    ]
    monkeypatch.setattr(gpu, "stages", lambda session, args: made)
    monkeypatch.setattr(gpu, "_LEAST", 0.5)
    assert main(["gpu", "--device", "cpu", "--out", str(tmp_path), "--minutes", "0.5"]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    outcomes = {name: report["status"] for name, report in result["data"].items()}
    assert outcomes["tests"] == "failed (exit code 1)"
    assert outcomes["hangs"].startswith("stopped after")
    assert outcomes["missing"].startswith("can't run")
    assert outcomes["speed"] == "passed"
    assert result["data"]["speed"]["result"]["headline"] == "fast"
    assert "one failed" in result["data"]["tests"]["output"]
    assert result["headline"] == "1 of 4 stages passed."
