"""Speed of the layer against PyG's and against the floor, on CPU or CUDA.

Whole layers with their linear maps (64 input channels), forward and training step
(forward and all gradients, that of the features included): this project's GATv2Conv, the same
with a new graph every call ("cold"), PyG's GATv2Conv, both under torch.compile, PyG's GATConv, this
project's scatter backend. Some cases are in bfloat16, or under autocast to it. Then the attention
kernels alone, in float32, against the floor, the gather of one row of features for each edge (a
training step: three; on CUDA four).

Every case is checked against float64 before it is timed; a layer that errs more than PyG's gets
no time. Contestants take turns within one run; times are medians, ratios are taken within rounds.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.cost import speed_report
from benchmarks.cost.bench import COMPILED_CASES, KEEP_MEMORY, Bench, memory_kept
from benchmarks.cost.problems import floor
from benchmarks.cost.problems.cases import CASES, CUDA_ONLY, SEED, Case, Problem, build
from benchmarks.harness import options
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Bar, Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import (
    COLD,
    COMPILED,
    DETERMINISTIC,
    GAT,
    OURS,
    OURS_COMPILED,
    PYG_GATV2,
    SCATTER,
    Contestant,
)

QUICK_CASES = ("random-8x16", "cora", "molecules")
HUBS = ("random-8x16", "power-law", "star", "reversed-star")
DROPOUT_CASES = ("random-8x16", "random-1x128")
REPEATED_CASES = ("random-8x16", "star", "tolokers", "molecules", "large-8x16")
TINY = Case("tiny", "random", nodes=30, edges=90)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = f"all that suit the device, quick {', '.join(QUICK_CASES)}"
    options.add_names(parser, "--cases", tuple(CASES), "case", usual)
    parser.add_argument(
        "--budget",
        type=options.real(0.01),
        metavar="SECONDS",
        help="time for each group of contestants, beyond its smallest number of rounds "
        "(default: 8, quick 4)",
    )
    options.add_scale(parser)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (quick leaves it out)"
    )
    options.add_common(parser, quick="three cases, fewer rounds, no torch.compile")


def contestants_for(case: Case, device: str, *, compile: bool) -> list[Contestant]:
    """Who is timed on a case."""
    kind = device.split(":")[0]
    chosen = [OURS, COLD, PYG_GATV2]
    if compile and case.key in COMPILED_CASES[kind]:
        chosen += [COMPILED, OURS_COMPILED]
    if kind == "cuda":
        chosen.append(DETERMINISTIC)
    return [*chosen, GAT, SCATTER]


def default_cases(device: str) -> list[str]:
    """All cases that suit a device; on CUDA those with requirements come first."""
    if not device.startswith("cuda"):
        return [key for key in CASES if key not in CUDA_ONLY]
    return list(dict.fromkeys((*COMPILED_CASES["cuda"], *HUBS, *CASES)))


class _Job:
    """The units of one run, each kept as it is finished."""

    def __init__(
        self,
        session: Session,
        args: argparse.Namespace,
        settings: dict[str, Any],
        bar: Bar,
    ) -> None:
        self.session, self.args, self.settings, self.bar = session, args, settings, bar
        self.store = session.store()
        self.cuda = session.device.startswith("cuda")
        self.data: dict[str, Any] = {"device": session.device, "cases": {}}
        if self.cuda:
            measure = functools.partial(floor.copy_bandwidth, session.device)
            self.data["bandwidth"] = self.unit("bandwidth", {}, measure)
        self.bench = Bench(
            session.device,
            backend=args.backend,
            budget=settings["budget"],
            min_rounds=2 if session.quick else 3,
            bandwidth=self.data.get("bandwidth"),
        )

    def _problem(self, case: Case) -> Problem:
        return build(case, self.session.device, self.args.data, self.session.line)

    def unit(self, what: str, of: dict[str, Case], compute: Callable[..., Any]) -> Any:
        """A measurement on some cases, whose problems ``compute`` is given."""
        return self._kept(what, of, lambda: compute(*map(self._problem, of.values())))

    def _kept(self, what: str, of: dict[str, Case], compute: Callable[[], Any]) -> Any:
        self.bar.say(" ".join([what, *of]))
        key = {"what": what, "cases": [asdict(case) for case in of.values()], **self.settings}
        value = self.store.unit(key, compute)
        if self.cuda:
            torch.cuda.empty_cache()
        return value

    def cases(self, cases: dict[str, Case]) -> None:
        """Every case, and the first one where the allocator keeps its memory."""
        for name, case in cases.items():
            who = contestants_for(case, self.session.device, compile=self.settings["compile"])
            compute = functools.partial(self.bench.case, contestants=who)
            self.data["cases"][name] = self.unit("case", {name: case}, compute)
            self.bar.advance()
        if allocator_gives_back(self.session.device):
            name, case = next(iter(cases.items()))
            compute = functools.partial(
                memory_kept,
                asdict(case),
                str(self.args.data) if self.args.data else None,
                backend=self.args.backend,
                budget=self.settings["budget"],
                min_rounds=self.bench.min_rounds,
            )
            self.data["memory kept"] = self._kept("memory kept", {name: case}, compute)
        self.bar.advance()

    def rest(self, cases: dict[str, Case]) -> None:
        """What is measured on some cases only, where this layer is right."""
        found = self.data["cases"]
        right = {
            name: case for name, case in cases.items() if OURS.key not in found[name]["failures"]
        }
        hubs = {name: right[name] for name in HUBS if name in right}
        if HUBS[0] in hubs and len(hubs) > 1:
            self.data["hubs"] = self.unit(
                "hubs", hubs, lambda *p: self.bench.hubs(dict(zip(hubs, p, strict=True)))
            )
        self.data["dropout"] = {
            name: self.unit("dropout", {name: right[name]}, self.bench.dropout)
            for name in DROPOUT_CASES
            if name in right
        }
        repeated = functools.partial(self.bench.repeatability, peer=self.cuda)
        self.data["repeatability"] = {
            name: self.unit("repeated runs", {name: right[name]}, repeated)
            for name in REPEATED_CASES
            if name in right
        }
        self.data["overhead"] = self.unit("overhead", {"tiny": TINY}, self.bench.overhead)
        self.bar.advance()


def allocator_gives_back(device: str) -> bool:
    """Whether the C library gives large blocks back to the system, and can be told not to."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return device == "cpu" and platform.libc_ver()[0] == "glibc" and KEEP_MEMORY not in tunables


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    if session.device.startswith("cuda"):
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
    with session.progress(session.stem, len(cases) + 2) as bar:
        job = _Job(session, args, settings, bar)
        job.cases(cases)
        job.rest(cases)
    return speed_report.result(job.data, settings | {"cases": list(cases), "seed": SEED})
