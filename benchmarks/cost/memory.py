"""Peak memory of a training step over the loaded inputs, on CPU or CUDA.

Each layer takes one training step (forward and all gradients, that of the features included) in a
fresh process, where nothing has grown the memory before: the peak counts the graph that is
grouped in the step, the gradients, and all that is kept for backward. On CPU it is resident
memory, on CUDA that of torch's allocator.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch

from benchmarks.cost.problems.cases import CASES, GRAPHS, SEED, Case, build
from benchmarks.cost.problems.runners import Runner, module_of
from benchmarks.cost.targets import Target, summary, table
from benchmarks.harness import options, quantities
from benchmarks.harness.measuring import fresh
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import COMPARED, GAT, OURS, PYG_GATV2, SCATTER

CONTESTANTS = (OURS, PYG_GATV2, GAT, SCATTER)
DEFAULT_CASES = {
    "cpu": ("random-8x16", "tolokers", "molecules"),
    "cuda": ("random-8x16", "tolokers", "molecules", "large-8x16"),
}
REQUIRED = {"cpu": ("random-8x16",), "cuda": ("large-8x16", "tolokers")}
LIMIT = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases",
        type=options.names(tuple(CASES), "case"),
        metavar="NAME,...",
        help=f"any of {', '.join(CASES)} (default: {', '.join(DEFAULT_CASES['cpu'])}, on CUDA "
        "large-8x16 too; quick random-8x16)",
    )
    parser.add_argument(
        "--scale",
        type=options.real(0.001, 1),
        default=1.0,
        metavar="FACTOR",
        help="shrink the generated graphs (default: 1)",
    )
    options.add_quick(parser, "one case")
    options.add_run(parser)
    options.add_data(parser)
    options.add_backend(parser)


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
                value = store.unit(
                    arguments,
                    lambda arguments=arguments: dataclasses.asdict(
                        fresh.measure(
                            f"{__name__}:step",
                            arguments | {"data": str(args.data) if args.data else None},
                        )
                    ),
                )
                found[name]["layers"][contestant.key] = value
                bar.advance()
    return found


def _peak(value: dict[str, Any], key: str) -> int | None:
    return value["layers"][key]["peak_bytes"]


def _times_ours(value: dict[str, Any], key: str) -> float | None:
    ours, other = _peak(value, OURS.key), _peak(value, key)
    return other / ours if ours and other else None


def _targets(data: dict[str, Any], device: str) -> list[Target]:
    kind = device.split(":")[0]
    return [
        Target(
            "extra memory of a training step, PyG GATv2Conv over this layer",
            data[name]["label"],
            LIMIT,
            _times_ours(data[name], PYG_GATV2.key),
            at_least=True,
        )
        for name in REQUIRED[kind]
        if name in data
    ]


def _cell(value: dict[str, Any], key: str) -> str:
    peak = _peak(value, key)
    if peak is None:
        why = value["layers"][key]["failure"]
        return "out of memory" if why == "memory" else "–"
    times = None if key == OURS.key else _times_ours(value, key)
    return quantities.size(peak) + (f", {quantities.ratio(times)}" if times else "")


def _picture(data: dict[str, Any]) -> Picture:
    log = any(
        plots.wide([peak for c in CONTESTANTS if (peak := _peak(value, c.key))])
        for value in data.values()
    )
    with plots.style():
        figure, axes = plots.panels(len(data), size=(4.9, 2.4))
        for axis, value in zip(axes, data.values(), strict=True):
            shown = [c for c in CONTESTANTS if _peak(value, c.key)]
            peaks = [(_peak(value, c.key) or 0) / 2**20 for c in shown]
            plots.bars(
                axis,
                [c.label.removeprefix("gatv2_pyg, ") for c in shown],
                peaks,
                colors=[c.color for c in shown],
                texts=[quantities.size(peak * 2**20) for peak in peaks],
                unit="peak memory (MiB)",
                log=log,
            )
            axis.set_title(value["label"])
    return Picture(
        figure,
        "Peak memory of one training step over the loaded inputs, each in a fresh process "
        "(nodes/edges, H×C).",
        "The memory of a training step for each layer and case",
    )


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    kind = session.device.split(":")[0]
    names = session.choose(args.cases, full=list(DEFAULT_CASES[kind]), quick=["random-8x16"])
    cases = {name: CASES[name].scaled(args.scale) for name in names}
    data = _measure(session, args, cases)
    found = _targets(data, session.device)
    notes = [
        f"{COMPARED[key].label} has no figure on {value['label']}: {layer['failure']}."
        for value in data.values()
        for key, layer in value["layers"].items()
        if layer["failure"]
    ]
    notes.append("The features, the edges and the layer are loaded before; the graph is not.")
    first = next(iter(data.values()))
    headline = f"A training step on {first['label']} needs {_cell(first, OURS.key)} over its inputs"
    times = _times_ours(first, PYG_GATV2.key)
    headline += f"; PyG's GATv2Conv needs {quantities.ratio(times)} as much." if times else "."
    rows = [
        [value["label"], *[_cell(value, c.key) for c in CONTESTANTS]] for value in data.values()
    ]
    tables = [
        Table(
            "Peak memory of a training step",
            ["nodes/edges, H×C", *[c.short for c in CONTESTANTS]],
            rows,
            "Over the loaded inputs; then how many times as much as this layer.",
        )
    ]
    if found:
        tables.insert(0, table(found))
        tables[0].note = "The ratio of two steps, each in a fresh process."
        headline += f" {summary(found).capitalize()}."
    settings = {
        "cases": list(cases),
        "backend": resolve_backend(args.backend, session.device),
        "scale": args.scale,
        "seed": SEED,
        "threads": torch.get_num_threads(),
    }
    device = "CUDA" if kind == "cuda" else "CPU"
    return Result(
        f"Memory of a training step on {device}",
        headline,
        settings,
        tables,
        [_picture(data)],
        data=data,
        notes=notes,
    )
