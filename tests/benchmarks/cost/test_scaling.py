"""The benchmark scaling, on tiny graphs and on made-up points."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks.cli import main
from benchmarks.cost import scaling, scaling_report
from benchmarks.cost.problems.cases import Case, build
from benchmarks.cost.problems.runners import Runner, make_layer
from benchmarks.harness.measuring import fresh
from benchmarks.harness.store import Store
from benchmarks.layers.contestants import DENSE, OURS, PYG_GATV2

SMALL = Case("small", "random", nodes=40, edges=300, heads=2, channels=8)


class _Bar:
    def say(self, note):
        pass

    def advance(self, count=1):
        pass


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


def test_slopes_along_edges_leave_out_what_is_overhead():
    """Below 10^5 edges a step takes the same time whatever it does."""
    sizes = (10**3, 10**4, 10**5, 10**6, 10**7)
    points = [{"failure": None, "seconds": max(x, 10**5) / 1e6, "peak": x, "x": x} for x in sizes]
    assert scaling_report.slope("edges", points, "seconds") == pytest.approx(1)
    assert scaling_report.slope("channels", points, "seconds") < 0.6
    # Three points at least, those of overhead if there are no others.
    assert scaling_report.slope("edges", points[:4], "seconds") < 0.5


def test_bars_reach_from_the_fastest_to_the_slowest_step():
    points = [{"seconds": 2.0, "fastest": 1.5, "slowest": 4.0}]
    assert scaling_report._reach(points) == [[0.5], [2.0]]


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
