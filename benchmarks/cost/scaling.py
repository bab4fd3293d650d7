"""How time and memory of a training step grow: edges, channels, heads and hubs.

This project's GATv2Conv, PyG's and dense attention over all pairs of nodes, each point in a fresh
process under one memory limit: the peak over the loaded inputs, then the median time of further
steps (three to five; one where a step takes over 20 s). Whoever runs out of memory ends there: its
line stops, and the largest graph it can train on is searched for. Slopes are fitted in log-log,
through three points or more.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from typing import Any

import torch

from benchmarks.cost import scaling_report
from benchmarks.cost.problems.cases import IN_CHANNELS, SEED, Case, Problem, build
from benchmarks.cost.problems.runners import Runner, make_layer
from benchmarks.cost.scaling_report import LEAST_STEPS, TOO_LONG
from benchmarks.harness import options, quantities
from benchmarks.harness.environment import memory_available
from benchmarks.harness.measuring import fresh
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Bar, Session
from benchmarks.harness.store import Store
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import DENSE, OURS, PYG_GATV2, Contestant
from benchmarks.layers.dense import DenseGATv2Conv, dense_bias

CONTESTANTS = (OURS, PYG_GATV2, DENSE)
AXES = ("edges", "channels", "heads", "skew")
FULL: dict[str, tuple[float, ...]] = {
    "edges": (10**4, 31_600, 10**5, 316_000, 10**6, 3_160_000, 10**7),
    "channels": (8, 16, 32, 64),
    "heads": (1, 2, 4, 8, 16),
    "skew": (0.0, 0.5, 0.9, 1.3),
}
QUICK: dict[str, tuple[float, ...]] = {
    "edges": (10**4, 10**5, 10**6),
    "channels": (8, 64),
}
NODE_DEGREE = 20
# The graph that the other axes vary: small enough for dense attention.
NODES, EDGES = 1_000, 50_000
# The search for the largest graph ends when success and failure are this close.
CLOSE = 1.2
MOST_EDGES = 10**9
# More than the least number of steps as far as they fit in the seconds.
STEPS, SECONDS, TIMEOUT = 5, 2.0, 150.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(parser, "--axes", AXES, "axis", f"all; quick {', '.join(QUICK)}")
    parser.add_argument(
        "--max-edges",
        type=options.whole(10**4),
        metavar="N",
        help="last point of the axis of edges (default: 10,000,000, quick 1,000,000)",
    )
    parser.add_argument(
        "--memory-limit",
        type=options.real(0.5),
        metavar="GIB",
        help="memory a process may have (default: 8, quick 2, or 80 %% of what is free)",
    )
    parser.add_argument(
        "--no-search", action="store_true", help="do not search for the largest graph (quick)"
    )
    options.add_common(
        parser, quick="two axes of two or three points, no search, limit 2 GiB", data=False
    )


def case_of(axis: str, value: float) -> Case:
    """The case of a point: 20 edges a node along ``edges``, else a graph of 1k/50k."""
    if axis == "edges":
        edges = int(value)
        return Case("scaling", "random", nodes=max(edges // NODE_DEGREE, 1), edges=edges)
    graph: dict[str, Any] = {"graph": "random", "nodes": NODES, "edges": EDGES}
    if axis == "skew":
        graph |= {"graph": "power-law", "skew": value}
    else:
        graph[axis] = int(value)
    return Case("scaling", **graph)


class _DenseRunner(Runner):
    """Dense attention takes a bias for each pair of nodes where the others take edges."""

    def __init__(self, module: torch.nn.Module, problem: Problem) -> None:
        super().__init__(module, problem)
        self._bias = dense_bias(problem.edge_index, problem.num_dst)

    def _arguments(self) -> tuple[Any, ...]:
        return (self._bias,)


def _runner(contestant: str, problem: Problem, backend: str) -> Runner:
    case = problem.case
    if contestant == DENSE.key:
        module = DenseGATv2Conv(IN_CHANNELS, case.channels, heads=case.heads)
        return _DenseRunner(module.to(problem.device), problem)
    kind = OURS if contestant == OURS.key else PYG_GATV2
    return Runner(make_layer(kind, problem, backend=backend), problem)


def step(case: dict[str, Any], contestant: str, device: str, backend: str) -> fresh.Step:
    """Training steps of a contestant; their value is times and the largest number of edges of
    a node."""
    whole = Case(**case)
    tiny = dataclasses.replace(whole, nodes=50, edges=200)
    small = _runner(contestant, build(tiny, device), backend)
    problem = build(whole, device)
    runner = _runner(contestant, problem, backend)
    degree = int(problem.edge_index[1].bincount().max())

    def timed() -> float:
        start = time.perf_counter()
        runner.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def run() -> dict[str, Any]:
        first = timed()
        steps = max(LEAST_STEPS, min(STEPS, int(SECONDS / first))) if first < TOO_LONG else 1
        return {"seconds": [timed() for _ in range(steps)], "degree": degree}

    return fresh.Step(run, warm=small.step, device=device)


class Points:
    """Measures points, each once, and keeps them."""

    def __init__(self, store: Store, device: str, backend: str, limit_bytes: int) -> None:
        self.store = store
        self.device = device
        self.backend = backend
        self.limit_bytes = limit_bytes

    def measure(self, contestant: Contestant, case: Case) -> dict[str, Any]:
        """``seconds`` (median, ``fastest``, ``slowest`` and number of ``steps``), ``peak``,
        ``degree`` and ``failure`` of a point."""
        arguments = {
            "case": dataclasses.asdict(case),
            "contestant": contestant.key,
            "device": self.device,
            "backend": self.backend,
        }

        def compute() -> dict[str, Any]:
            found = fresh.measure(
                f"{__name__}:step", arguments, limit_bytes=self.limit_bytes, timeout=TIMEOUT
            )
            point: dict[str, Any] = {"failure": found.failure}
            if found.failure is None:
                seconds = found.value["seconds"]
                point["seconds"] = quantities.median(seconds)
                point["fastest"], point["slowest"] = min(seconds), max(seconds)
                point["steps"] = len(seconds)
                point["degree"] = found.value["degree"]
                point["peak"] = found.peak_bytes
            return point

        return self.store.unit(arguments | {"limit": self.limit_bytes}, compute)

    def line(self, contestant: Contestant, axis: str, values: list[float], bar: Bar) -> list[Any]:
        """The points along an axis, up to the first failure."""
        points: list[dict[str, Any]] = []
        for value in values:
            if not (points and points[-1]["failure"]):
                bar.say(f"{axis} {value:,g}: {contestant.label}")
                points.append({"x": value, **self.measure(contestant, case_of(axis, value))})
            bar.advance()
        return points

    def largest(self, contestant: Contestant, points: list[Any], bar: Bar) -> dict[str, Any]:
        """The largest number of edges that fits, and the smallest that does not."""
        fits = max((point["x"] for point in points if not point["failure"]), default=None)
        fails = next(((p["x"], p["failure"]) for p in points if p["failure"]), None)

        def attempt(edges: int) -> str | None:
            bar.say(f"largest graph: {contestant.label}, {edges:,} edges")
            return self.measure(contestant, case_of("edges", edges))["failure"]

        while fits and not fails and fits < MOST_EDGES:
            edges = int(fits * math.sqrt(10))
            why = attempt(edges)
            fits, fails = (edges, None) if why is None else (fits, (edges, why))
        while fits and fails and fails[0] > CLOSE * fits:
            edges = int(math.sqrt(fits * fails[0]))
            why = attempt(edges)
            fits, fails = (edges, fails) if why is None else (fits, (edges, why))
        bar.advance()
        return {
            "edges": fits,
            "fails_at": fails[0] if fails else None,
            "failure": fails[1] if fails else None,
        }


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    grid = session.choose(None, full=FULL, quick=QUICK)
    most = session.choose(args.max_edges, full=10**7, quick=10**6)
    limit = int(session.choose(args.memory_limit, full=8.0, quick=2.0) * 2**30)
    free = memory_available()
    if session.device == "cpu" and free is not None and limit > 0.8 * free:
        limit = int(0.8 * free / 2**28) * 2**28
        session.line(f"memory limit: {limit / 2**30:g} GiB, 80 % of what is free")
    axes = {
        axis: [value for value in grid.get(axis, FULL[axis]) if axis != "edges" or value <= most]
        for axis in session.choose(args.axes, full=list(AXES), quick=list(QUICK))
    }
    search = "edges" in axes and not (args.no_search or session.quick)
    backend = resolve_backend(args.backend, session.device)
    points = Points(session.store(), session.device, backend, limit)
    data: dict[str, Any] = {"device": session.device, "limit": limit, "axes": {}, "largest": {}}
    total = sum(map(len, axes.values())) * len(CONTESTANTS) + search * len(CONTESTANTS)
    with session.progress(session.stem, total) as bar:
        for axis, values in axes.items():
            data["axes"][axis] = {
                contestant.key: points.line(contestant, axis, values, bar)
                for contestant in CONTESTANTS
            }
        if search:
            for contestant in CONTESTANTS:
                line = data["axes"]["edges"][contestant.key]
                data["largest"][contestant.key] = points.largest(contestant, line, bar)
    settings = {
        "axes": list(axes),
        "memory limit": f"{limit / 2**30:g} GiB",
        "backend": backend,
        "max edges": most,
        "seed": SEED,
    }
    return scaling_report.result(data, settings, CONTESTANTS)
