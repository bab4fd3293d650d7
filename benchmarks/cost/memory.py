"""Peak memory of a training step over the loaded inputs, on CPU or CUDA.

Each layer takes one training step (forward and all gradients, that of the features included) in a
fresh process, where nothing has grown the memory before: the peak counts the graph that is
grouped in the step, the gradients, and all that is kept for backward. On CPU it is resident
memory, on CUDA that of torch's allocator.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

import torch

from benchmarks.cost import memory_report
from benchmarks.cost.problems.cases import CASES, GRAPHS, SEED, Case, build
from benchmarks.cost.problems.runners import Runner, module_of
from benchmarks.harness import options
from benchmarks.harness.measuring import fresh
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import COMPARED, GAT, OURS, PYG_GATV2, SCATTER

CONTESTANTS = (OURS, PYG_GATV2, GAT, SCATTER)
DEFAULT_CASES = {
    "cpu": ("random-8x16", "tolokers", "molecules"),
    "cuda": ("random-8x16", "tolokers", "molecules", "large-8x16"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = f"{', '.join(DEFAULT_CASES['cpu'])}, on CUDA large-8x16 too; quick random-8x16"
    options.add_names(parser, "--cases", tuple(CASES), "case", usual)
    options.add_scale(parser)
    options.add_common(parser, quick="one case")


def step(
    case: dict[str, Any], contestant: str, device: str, backend: str, data: str | None
) -> fresh.Step:
    """A training step of a contestant (a key of ``COMPARED``) on a case.

    Its value is ``{"edges": count}``. A step on a tiny graph goes before it.
    """
    whole = Case(**case)
    tiny = dataclasses.replace(
        whole,
        graph=whole.graph if whole.graph in GRAPHS else "random",
        nodes=100,
        edges=600,
    )
    runners = []
    for one in (tiny, whole):
        problem = build(one, device, data)
        runners.append(Runner(module_of(COMPARED[contestant], problem, backend), problem))

    def run() -> dict[str, int]:
        runners[1].step()
        return {"edges": problem.edge_index.size(1)}

    return fresh.Step(run, warm=runners[0].step, device=device)


def _peak_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(fresh.measure(f"{__name__}:step", arguments))


def _measure(
    session: Session, args: argparse.Namespace, cases: dict[str, Case]
) -> dict[str, dict[str, Any]]:
    store = session.store()
    found: dict[str, dict[str, Any]] = {}
    with session.progress(session.stem, len(cases) * len(CONTESTANTS)) as bar:
        for name, case in cases.items():
            found[name] = {"label": case.label, "layers": {}}
            for contestant in CONTESTANTS:
                bar.say(f"{case.label}: {contestant.label}")
                arguments = {
                    "case": dataclasses.asdict(case),
                    "contestant": contestant.key,
                    "device": session.device,
                    "backend": args.backend,
                }
                given = arguments | {"data": str(args.data) if args.data else None}
                compute = functools.partial(_peak_of, given)
                found[name]["layers"][contestant.key] = store.unit(arguments, compute)
                bar.advance()
    return found


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    kind = session.device.split(":")[0]
    names = session.choose(args.cases, full=list(DEFAULT_CASES[kind]), quick=["random-8x16"])
    cases = {name: CASES[name].scaled(args.scale) for name in names}
    settings = {
        "cases": list(cases),
        "backend": resolve_backend(args.backend, session.device),
        "scale": args.scale,
        "seed": SEED,
        "threads": torch.get_num_threads(),
    }
    data = _measure(session, args, cases)
    return memory_report.result(data, settings, session.device, CONTESTANTS)
