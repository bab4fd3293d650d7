"""What PyG's layer does not take: batched features, biases of edges, dense batches.

Traffic: a batch on one graph of 207 nodes, against repeating its edges for each element, with
PyG's layer and with this project's. Bias: a training step with biases against one without. Dense:
DenseGATv2Conv against dense attention over all pairs of nodes. Each is checked before it is timed:
output and gradients in float64, the output in float32 too.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

import torch

from benchmarks.cost.beyond import calls, report
from benchmarks.harness import options
from benchmarks.harness.errors import UsageError
from benchmarks.harness.measuring import fresh, race
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend

SIZES = {
    "traffic": calls.Size(nodes=207, edges=1_722, heads=8, channels=16, batch=64 * 12),
    "bias": calls.Size(nodes=50_000, edges=1_000_000, heads=8, channels=16),
    "dense": calls.Size(nodes=2_708, edges=10_556, heads=8, channels=8),
}
QUICK = {
    "traffic": dataclasses.replace(SIZES["traffic"], batch=48),
    "bias": dataclasses.replace(SIZES["bias"], nodes=2_500, edges=50_000),
    "dense": dataclasses.replace(SIZES["dense"], nodes=300, edges=1_200),
}
TINY = calls.Size(nodes=20, edges=80, heads=8, channels=16, batch=2)
# Of these the memory is measured too.
IN_MEMORY = ("traffic", "dense")
BUDGET = 20.0
# What outputs may err by, of the largest value.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(parser, "--parts", tuple(SIZES), "part", "all")
    parser.add_argument(
        "--budget",
        type=options.real(0.0),
        default=BUDGET,
        metavar="SECONDS",
        help=f"how long each part is timed (default: {BUDGET:g})",
    )
    options.add_common(parser, quick="smaller graphs and batches", data=False)


def step(part: str, contestant: str, size: dict[str, Any], device: str, backend: str) -> fresh.Step:
    """A training step of a contestant, after one on a tiny graph."""
    full = calls.Size(**size)
    small = dataclasses.replace(TINY, batch=min(TINY.batch, full.batch))
    tiny = calls.make(part, contestant, small, device, backend)
    whole = calls.make(part, contestant, full, device, backend)

    def run() -> None:
        whole.step()

    return fresh.Step(run, warm=tiny.step, device=device)


def check(part: str, size: calls.Size, device: str, backend: str) -> None:
    """Holds every contestant of a part against its plain statement.

    Raises:
        UsageError: one is wrong.
    """
    small = dataclasses.replace(
        size, nodes=min(size.nodes, 207), edges=min(size.edges, 1_722), batch=min(size.batch, 3)
    )
    for contestant in calls.CONTESTANTS[part]:
        for dtype, tolerance in TOLERANCE.items():
            call = calls.make(part, contestant, small, device, backend, dtype)
            truth = calls.make(part, contestant, small, device, backend, torch.float64).statement()
            if dtype == torch.float64:
                found = call.results()
            else:
                found = {"out": call.out().detach().reshape(call.grad.shape)}
            for name, value in found.items():
                error = float((value.double() - truth[name]).abs().max())
                if not error <= tolerance * float(truth[name].abs().max()):
                    raise UsageError(
                        f"{part}, {contestant}: {name} errs by {error:.3g} in {dtype}; nothing "
                        "was timed"
                    )


def _time(part: str, size: calls.Size, device: str, backend: str, budget: float) -> Any:
    check(part, size, device, backend)
    steps = {
        contestant: calls.make(part, contestant, size, device, backend).step
        for contestant in calls.CONTESTANTS[part]
    }
    # PyG's step on repeated edges takes ten seconds.
    raced = race.race(steps, device=device, budget=budget, min_rounds=2)
    return raced.summary(over=calls.FIRST[part])


def _peak_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(fresh.measure(f"{__name__}:step", arguments))


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    sizes = session.choose(None, full=SIZES, quick=QUICK)
    parts = args.parts or list(SIZES)
    backend = resolve_backend(args.backend, session.device)
    store = session.store()
    peaks = sum(len(calls.CONTESTANTS[part]) for part in parts if part in IN_MEMORY)
    data: dict[str, Any] = {}

    def own(part: str) -> dict[str, Any]:
        size = dataclasses.asdict(sizes[part])
        return {"part": part, "size": size, "device": session.device, "backend": args.backend}

    with session.progress(session.stem, len(parts) + peaks) as bar:
        for part in parts:
            bar.say(f"{part}: time")
            compute = functools.partial(
                _time, part, sizes[part], session.device, args.backend, args.budget
            )
            times = store.unit(own(part) | {"budget": args.budget}, compute)
            data[part] = {"size": dataclasses.asdict(sizes[part]), "step": times, "peaks": {}}
            bar.advance()
        for part in filter(IN_MEMORY.__contains__, parts):
            for contestant in calls.CONTESTANTS[part]:
                bar.say(f"{part}: memory of {contestant}")
                given = own(part) | {"contestant": contestant}
                data[part]["peaks"][contestant] = store.unit(
                    given, functools.partial(_peak_of, given)
                )
                bar.advance()
    settings = {
        "parts": parts,
        "backend": backend,
        "budget": args.budget,
        "seed": calls.SEED,
        "threads": torch.get_num_threads(),
    }
    return report.result(data, settings)
