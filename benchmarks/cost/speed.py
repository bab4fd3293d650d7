"""Speed of the layer against PyG's and against the floor, on CPU or CUDA.

Whole layers with their linear maps (64 input channels, float32), forward and training step
(forward and all gradients, that of the features included): this project's GATv2Conv, the same
with a new graph every call ("cold"), PyG's GATv2Conv eager and under torch.compile, PyG's
GATConv, this project's scatter backend. Then the attention kernels alone against the floor, the
gather of one row of features for each edge (a training step: four).

Every case is checked against float64 before it is timed; a layer that errs more than PyG's gets
no time. Contestants take turns within one run; times are medians, ratios are taken within rounds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.cost import speed_report
from benchmarks.cost.problems import correctness, floor
from benchmarks.cost.problems.cases import CASES, CUDA_ONLY, SEED, Case, Problem, build
from benchmarks.cost.problems.runners import (
    Runner,
    make_layer,
    module_of,
    quiet_compiler,
    runner_of,
)
from benchmarks.cost.targets import RUNS
from benchmarks.harness import options
from benchmarks.harness.errors import UsageError
from benchmarks.harness.measuring.race import race
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import (
    COLD,
    COMPILED,
    DETERMINISTIC,
    GAT,
    OURS,
    PYG_GATV2,
    SCATTER,
    Contestant,
)

QUICK_CASES = ("random-8x16", "cora", "molecules")
COMPILED_CASES = {
    "cpu": ("random-8x16", "random-1x128", "tolokers"),
    "cuda": ("large-8x16", "large-1x128", "tolokers"),
}
HUBS = ("random-8x16", "power-law", "star", "reversed-star")
DROPOUT_CASES = ("random-8x16", "random-1x128")
REPEATED_CASES = ("random-8x16", "star", "tolokers", "molecules", "large-8x16")
DROPOUT = 0.6
TINY = Case("tiny", "random", nodes=30, edges=90)
TINY_CALLS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases",
        type=options.names(tuple(CASES), "case"),
        metavar="NAME,...",
        help=f"any of {', '.join(CASES)} (default: all that suit the device, "
        f"quick {', '.join(QUICK_CASES)})",
    )
    parser.add_argument(
        "--budget",
        type=options.real(0.01),
        metavar="SECONDS",
        help="time for each group of contestants, beyond its smallest number of rounds "
        "(default: 8, quick 4)",
    )
    parser.add_argument(
        "--scale",
        type=options.real(0.001, 1),
        default=1.0,
        metavar="FACTOR",
        help="shrink the generated graphs (default: 1)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (quick leaves it out)"
    )
    options.add_quick(parser, "three cases, fewer rounds, no torch.compile")
    options.add_run(parser)
    options.add_data(parser)
    options.add_backend(parser)


class Bench:
    """Measurements on one device; each method returns JSON."""

    def __init__(self, device: str, *, backend: str, budget: float, min_rounds: int) -> None:
        self.device = device
        self.backend = backend
        self.budget = budget
        self.min_rounds = min_rounds

    def race(self, calls: Mapping[str, Callable[[], Any]], **options: Any) -> dict[str, Any]:
        options.setdefault("budget", self.budget)
        options.setdefault("min_rounds", self.min_rounds)
        return race(calls, device=self.device, **options)

    @quiet_compiler()
    def check(self, problem: Problem, contestants: list[Contestant]) -> dict[str, Any]:
        """Layers that pass, errors of all, and why the others are left out."""
        truth = correctness.truth(problem)
        if self.device != "cpu":
            torch.cuda.empty_cache()
        errors: dict[str, dict[str, float]] = {}
        modules, failures = {}, {}
        order = sorted(contestants, key=lambda contestant: contestant is not PYG_GATV2)
        for contestant in order:
            key = contestant.key
            try:
                module = module_of(contestant, problem, self.backend)
                if contestant not in (GAT, COLD, DETERMINISTIC):
                    got = correctness.evaluate(module, problem, torch.float32)
                    errors[key] = correctness.errors(got, truth)
                    factor = 1.0 if contestant is OURS else correctness.PEER_FACTOR
                    why = correctness.failure(errors[key], errors[PYG_GATV2.key], factor=factor)
                    if why is not None:
                        failures[key] = f"wrong: {why}"
                        continue
            except Exception as error:
                failures[key] = f"can't run: {first_line(error)}"
                continue
            modules[key] = module
        if OURS.key in failures:
            failures[COLD.key] = failures[OURS.key]
            modules.pop(COLD.key, None)
        return {"modules": modules, "errors": errors, "failures": failures}

    @quiet_compiler()
    def case(self, problem: Problem, contestants: list[Contestant]) -> dict[str, Any]:
        """Whole layers, forward and step, then the kernels alone."""
        required = problem.case.key in COMPILED_CASES[self.device.split(":")[0]]
        rounds = self.min_rounds if required else 2
        checked = self.check(problem, contestants)
        runners: dict[str, Runner] = {}
        for contestant in contestants:
            if contestant.key in checked["modules"]:
                module = checked["modules"][contestant.key]
                runners[contestant.key] = runner_of(contestant, module, problem)
        failures = checked["failures"]
        for key, runner in list(runners.items()):
            if key in (COMPILED.key, DETERMINISTIC.key):
                try:
                    runner.forward(), runner.step()
                except Exception as error:
                    failures[key] = f"can't run: {first_line(error)}"
                    del runners[key]
        value: dict[str, Any] = {
            "label": problem.case.label,
            "edges": problem.num_edges,
            "stand_in": problem.stand_in,
            "errors": checked["errors"],
            "failures": failures,
        }
        for what in ("forward", "step"):
            calls = {key: getattr(runner, what) for key, runner in runners.items()}
            value[what] = self.race(calls, compiled=(COMPILED.key,), min_rounds=rounds)
        del runners, checked
        if OURS.key not in failures:
            value["kernels"] = self.kernels(problem)
        return value

    def kernels(self, problem: Problem) -> dict[str, Any]:
        """The attention alone, the floor, and the time to group the edges."""
        kernels = floor.Kernels(problem, self.backend)
        calls: dict[str, Callable[[], Any]] = {
            "forward": kernels.forward,
            "step": kernels.step,
            "group": kernels.group,
            "group both": kernels.group_both,
        }
        if self.device == "cpu":
            calls["gather"] = kernels.gather()
        value = self.race(calls, budget=self.budget, min_rounds=5, same_repeats=True)
        if self.device != "cpu":
            value["gather bytes"] = kernels.gather_bytes()
        return value

    def hubs(self, problems: dict[str, Problem]) -> dict[str, Any]:
        """This layer on graphs of as many edges that differ in their degrees alone."""
        runners = {
            key: Runner(module_of(OURS, problem, self.backend), problem)
            for key, problem in problems.items()
        }
        return {
            what: self.race({key: getattr(run, what) for key, run in runners.items()}, min_rounds=5)
            for what in ("forward", "step")
        }

    def dropout(self, problem: Problem) -> dict[str, Any]:
        """Training steps of this layer without and with attention dropout."""
        calls = {}
        for name, dropout in (("none", 0.0), ("dropout", DROPOUT)):
            module = make_layer(OURS, problem, backend=self.backend, dropout=dropout)
            calls[name] = Runner(module, problem).step
        return self.race(calls, min_rounds=5)

    def overhead(self, problem: Problem) -> dict[str, Any]:
        """Calls on a tiny graph, where Python is all the time there is; seconds per call."""
        value: dict[str, Any] = {}

        def often(call: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                for _ in range(TINY_CALLS):
                    call()

            return run

        failures = self.check(problem, [OURS, PYG_GATV2])["failures"]
        if failures:
            return {"failures": failures}
        for what, fresh, method in (
            ("forward", False, "forward"),
            ("forward, new graph", True, "forward"),
            ("training step", False, "step"),
            ("training step, new graph", True, "step"),
        ):
            calls = {}
            for contestant in (OURS, PYG_GATV2, GAT):
                runner = Runner(module_of(contestant, problem, self.backend), problem, fresh=fresh)
                calls[contestant.key] = often(getattr(runner, method))
            raced = self.race(calls, budget=self.budget / 4, min_rounds=10)
            raced["seconds"] = {
                key: [second / TINY_CALLS for second in seconds]
                for key, seconds in raced["seconds"].items()
            }
            value[what] = raced
        return value

    def repeatability(self, problem: Problem, *, peer: bool) -> dict[str, Any]:
        """How many of some runs give the very bits of the first; on CPU the threads vary."""
        value: dict[str, Any] = {"label": problem.case.label}
        threads = torch.get_num_threads()
        for contestant in (OURS, PYG_GATV2) if peer else (OURS,):
            runner = Runner(module_of(contestant, problem, self.backend), problem)
            first = (runner.forward(), *runner.step())
            equal = 0
            try:
                for number in range(RUNS):
                    if self.device == "cpu":
                        torch.set_num_threads((1, 2, threads)[number % 3])
                    again = (runner.forward(), *runner.step())
                    equal += all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            finally:
                torch.set_num_threads(threads)
            value[contestant.key] = equal
        return value


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def contestants_for(case: Case, device: str, *, compile: bool) -> list[Contestant]:
    """Who is timed on a case."""
    kind = device.split(":")[0]
    chosen = [OURS, COLD, PYG_GATV2]
    if compile and case.key in COMPILED_CASES[kind]:
        chosen.append(COMPILED)
    if kind == "cuda":
        chosen.append(DETERMINISTIC)
    return [*chosen, GAT, SCATTER]


def default_cases(device: str) -> list[str]:
    """All cases that suit a device; on CUDA those with requirements come first."""
    if not device.startswith("cuda"):
        return [key for key in CASES if key not in CUDA_ONLY]
    return list(dict.fromkeys((*COMPILED_CASES["cuda"], *HUBS, *CASES)))


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    cuda = session.device.startswith("cuda")
    if cuda:
        # cuBLAS needs it to be deterministic, and reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    names = session.choose(args.cases, full=default_cases(session.device), quick=list(QUICK_CASES))
    cases = {name: CASES[name].scaled(args.scale) for name in names}
    if any(case.graph == "molecules" and case.nodes < 23 for case in cases.values()):
        raise UsageError(f"--scale {args.scale:g}: too small for the case molecules")
    settings = {
        "budget": session.choose(args.budget, full=8.0, quick=4.0),
        "backend": resolve_backend(args.backend, session.device),
        "scale": args.scale,
        "compile": not (args.no_compile or session.quick),
    }
    bench = Bench(
        session.device,
        backend=args.backend,
        budget=settings["budget"],
        min_rounds=2 if session.quick else 3,
    )
    store = session.store()
    data: dict[str, Any] = {"device": session.device, "cases": {}}

    def problem_of(case: Case) -> Problem:
        return build(case, session.device, args.data, session.line)

    with session.progress(session.stem, len(cases) + 1) as bar:

        def unit(what: str, of: dict[str, Case], compute: Callable[..., Any]) -> Any:
            """A measurement on some cases, whose problems ``compute`` is given."""
            bar.say(" ".join([what, *of]))
            key = {"what": what, "cases": [asdict(case) for case in of.values()], **settings}
            value = store.unit(key, lambda: compute(*map(problem_of, of.values())))
            if cuda:
                torch.cuda.empty_cache()
            return value

        for name, case in cases.items():
            who = contestants_for(case, session.device, compile=settings["compile"])
            data["cases"][name] = unit("case", {name: case}, lambda p, who=who: bench.case(p, who))
            bar.advance()
        right = {
            name: case
            for name, case in cases.items()
            if OURS.key not in data["cases"][name]["failures"]
        }
        hubs = {name: right[name] for name in HUBS if name in right}
        if HUBS[0] in hubs and len(hubs) > 1:
            data["hubs"] = unit(
                "hubs", hubs, lambda *p: bench.hubs(dict(zip(hubs, p, strict=True)))
            )
        data["dropout"] = {
            name: unit("dropout", {name: right[name]}, bench.dropout)
            for name in DROPOUT_CASES
            if name in right
        }
        data["repeatability"] = {
            name: unit(
                "repeated runs", {name: right[name]}, lambda p: bench.repeatability(p, peer=cuda)
            )
            for name in REPEATED_CASES
            if name in right
        }
        data["overhead"] = unit("overhead", {"tiny": TINY}, bench.overhead)
        if cuda:
            data["bandwidth"] = unit("bandwidth", {}, lambda: floor.copy_bandwidth(session.device))
        bar.advance()
    return speed_report.result(data, settings | {"cases": list(cases), "seed": SEED})
