"""The measurements of ``speed`` on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.cost.problems import correctness, floor
from benchmarks.cost.problems.cases import Case, Problem, build
from benchmarks.cost.problems.runners import (
    Runner,
    make_layer,
    module_of,
    quiet_compiler,
    runner_of,
)
from benchmarks.harness.measuring import fresh
from benchmarks.harness.measuring.race import Raced, race
from benchmarks.layers.contestants import (
    COLD,
    COMPILED,
    DETERMINISTIC,
    GAT,
    OURS,
    OURS_COMPILED,
    PYG_GATV2,
    Contestant,
)

COMPILED_CASES = {
    "cpu": ("random-8x16", "random-1x128", "tolokers"),
    "cuda": ("large-8x16", "large-1x128", "tolokers"),
}
# How often outputs and gradients are compared.
RUNS = 20
DROPOUT = 0.6
TINY_CALLS = 20
# What `overhead` times: its name, whether the graph is new, the method of a runner.
OVERHEADS = (
    ("forward", False, "forward"),
    ("forward, new graph", True, "forward"),
    ("training step", False, "step"),
    ("training step, new graph", True, "step"),
)
# Settings of the C library's allocator under which it keeps the memory that is freed.
KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368"

# The errors of tensors by layer.
Errors = dict[str, dict[str, float]]


class Bench:
    """Measurements on one device; each public method returns JSON.

    Args:
        device, backend: of the layers.
        budget: seconds for each group of contestants, beyond ``min_rounds``.
        bandwidth: of a copy, in bytes a second; on CUDA the kernels' floor needs it.
    """

    def __init__(
        self,
        device: str,
        *,
        backend: str,
        budget: float,
        min_rounds: int,
        bandwidth: float | None = None,
    ) -> None:
        self.device = device
        self.backend = backend
        self.budget = budget
        self.min_rounds = min_rounds
        self.bandwidth = bandwidth

    def _race(self, calls: Mapping[str, Callable[[], Any]], **options: Any) -> Raced:
        options.setdefault("budget", self.budget)
        options.setdefault("min_rounds", self.min_rounds)
        return race(calls, device=self.device, **options)

    def _checked(
        self, contestant: Contestant, problem: Problem, truth: dict[str, Any], errors: Errors
    ) -> tuple[nn.Module | None, str | None]:
        """A contestant's layer, or why it gets no time; its errors go into ``errors``."""
        try:
            module = module_of(contestant, problem, self.backend)
            if contestant in (GAT, COLD, DETERMINISTIC):
                return module, None
            got = correctness.evaluate(module, problem, problem.dtype)
            errors[contestant.key] = correctness.errors(got, truth)
            own = contestant is OURS
            factor = 1.0 if own else correctness.PEER_FACTOR
            yardstick = errors[PYG_GATV2.key]
            why = correctness.failure(
                errors[contestant.key], yardstick, factor=factor, dtype=problem.result_dtype
            )
        except Exception as error:
            return None, f"can't run: {first_line(error)}"
        return (module, None) if why is None else (None, f"wrong: {why}")

    @quiet_compiler()
    def check(self, problem: Problem, contestants: list[Contestant]) -> dict[str, Any]:
        """Layers that pass, errors of all, and why the others are left out."""
        truth = correctness.truth(problem)
        if self.device != "cpu":
            torch.cuda.empty_cache()
        errors: Errors = {}
        modules, failures = {}, {}
        for contestant in sorted(contestants, key=lambda contestant: contestant is not PYG_GATV2):
            module, why = self._checked(contestant, problem, truth, errors)
            if why is not None:
                failures[contestant.key] = why
            else:
                modules[contestant.key] = module
        if OURS.key in failures:
            failures[COLD.key] = failures[OURS.key]
            modules.pop(COLD.key, None)
        return {"modules": modules, "errors": errors, "failures": failures}

    @quiet_compiler()
    def layers(self, problem: Problem, contestants: list[Contestant]) -> dict[str, Any]:
        """Whole layers, forward and step, those that pass the check."""
        required = problem.case.key in COMPILED_CASES[self.device.split(":")[0]]
        rounds = self.min_rounds if required else 2
        checked = self.check(problem, contestants)
        failures = checked["failures"]
        runners: dict[str, Runner] = {}
        for contestant in contestants:
            key = contestant.key
            if key not in checked["modules"]:
                continue
            runner = runner_of(contestant, checked["modules"][key], problem)
            if contestant in (COMPILED, OURS_COMPILED, DETERMINISTIC):
                try:
                    runner.forward(), runner.step()
                except Exception as error:
                    failures[key] = f"can't run: {first_line(error)}"
                    continue
            runners[key] = runner
        value: dict[str, Any] = {
            "label": problem.case.label,
            "edges": problem.num_edges,
            "stand_in": problem.stand_in,
            "errors": checked["errors"],
            "failures": failures,
        }
        for what in ("forward", "step"):
            calls = {key: getattr(runner, what) for key, runner in runners.items()}
            compiled = COMPILED.key, OURS_COMPILED.key
            raced = self._race(calls, compiled=compiled, min_rounds=rounds)
            value[what] = raced.summary(OURS.key)
        return value

    def case(self, problem: Problem, contestants: list[Contestant]) -> dict[str, Any]:
        """Whole layers, then the kernels alone (in float32, as their floor is)."""
        value = self.layers(problem, contestants)
        if OURS.key not in value["failures"] and problem.case.precision == "float32":
            value["kernels"] = self.kernels(problem)
        return value

    def kernels(self, problem: Problem) -> dict[str, Any]:
        """The attention alone, over the floor ``gather``, and the time to group the edges.

        ``backward`` is ``step`` without ``forward``.
        """
        kernels = floor.Kernels(problem, self.backend)
        calls: dict[str, Callable[[], Any]] = {
            "forward": kernels.forward,
            "step": kernels.step,
            "group": kernels.group,
            "group both": kernels.group_both,
        }
        if self.device == "cpu":
            calls["gather"] = kernels.gather()
        raced = self._race(calls, min_rounds=5, same_repeats=True)
        pairs = zip(raced.per_round("step"), raced.per_round("forward"), strict=True)
        raced = raced.beside("backward", [step - forward for step, forward in pairs])
        if self.bandwidth is not None:
            seconds = kernels.gather_bytes() / self.bandwidth
            raced = raced.beside("gather", [seconds] * len(raced.per_round("step")))
        return raced.summary("gather")

    def hubs(self, problems: dict[str, Problem]) -> dict[str, Any]:
        """This layer on graphs that differ in their degrees alone, over the first of them."""
        runners = {
            key: Runner(module_of(OURS, problem, self.backend), problem)
            for key, problem in problems.items()
        }
        found = {}
        for what in ("forward", "step"):
            calls = {key: getattr(runner, what) for key, runner in runners.items()}
            found[what] = self._race(calls, min_rounds=5).summary(next(iter(problems)))
        return found

    def dropout(self, problem: Problem) -> dict[str, Any]:
        """Training steps of this layer without and with attention dropout."""
        calls = {}
        for name, dropout in (("none", 0.0), ("dropout", DROPOUT)):
            module = make_layer(OURS, problem, backend=self.backend, dropout=dropout)
            calls[name] = Runner(module, problem).step
        return self._race(calls, min_rounds=5).summary("none")

    def overhead(self, problem: Problem) -> dict[str, Any]:
        """Calls on a tiny graph, where Python is all the time there is; seconds per call."""

        def often(call: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                for _ in range(TINY_CALLS):
                    call()

            return run

        failures = self.check(problem, [OURS, PYG_GATV2])["failures"]
        if failures:
            return {"failures": failures}
        value: dict[str, Any] = {}
        for what, new_graph, method in OVERHEADS:
            calls = {}
            for contestant in (OURS, PYG_GATV2, GAT):
                module = module_of(contestant, problem, self.backend)
                runner = Runner(module, problem, fresh=new_graph)
                calls[contestant.key] = often(getattr(runner, method))
            raced = self._race(calls, budget=self.budget / 4, min_rounds=10)
            value[what] = raced.divided(TINY_CALLS).summary(OURS.key)
        return value

    def repeatability(self, problem: Problem, *, peer: bool) -> dict[str, Any]:
        """How many of some runs give the very bits of the first.

        On CPU the threads vary, and the gradients of the maps' weights are not looked at.
        """
        value: dict[str, Any] = {"label": problem.case.label}
        threads = torch.get_num_threads()
        for contestant in (OURS, PYG_GATV2) if peer else (OURS,):
            runner = Runner(module_of(contestant, problem, self.backend), problem)
            products = self.device != "cpu"
            first = runner.results(products=products)
            equal = 0
            try:
                for number in range(RUNS):
                    if self.device == "cpu":
                        torch.set_num_threads((1, 2, threads)[number % 3])
                    again = runner.results(products=products)
                    equal += all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            finally:
                torch.set_num_threads(threads)
            value[contestant.key] = equal
        return value


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def layers_step(case: dict[str, Any], data: str | None, **settings: Any) -> fresh.Step:
    """:meth:`Bench.layers` of three layers on a case, for a process of its own on the CPU."""
    problem = build(Case(**case), "cpu", data, lambda line: None)
    bench = Bench("cpu", **settings)
    return fresh.Step(lambda: bench.layers(problem, [OURS, PYG_GATV2, GAT]))


def memory_kept(case: dict[str, Any], data: str | None, **settings: Any) -> dict[str, Any]:
    """:func:`layers_step` where the allocator keeps its memory: PyG's layers are faster there."""
    measured = fresh.measure(
        f"{__name__}:layers_step",
        {"case": case, "data": data, **settings},
        environment={"GLIBC_TUNABLES": KEEP_MEMORY},
    )
    if measured.failure is not None:
        return {"failure": measured.failure}
    return {**measured.value, "measured": "in a process of its own, after the other cases"}
