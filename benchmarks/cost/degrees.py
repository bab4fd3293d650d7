"""The attention kernels over their floor by degree and shape, on small random graphs.

Graphs of as many edges, each node with the same number of incoming edges from random nodes. Forward
and training step of the attention alone, float32, over the floor of `speed`: the gather of one row
of features for each edge (a training step: three; on CUDA four). What a row of few edges costs
beyond its edges shows here. Every case is checked against float64 before it is timed.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cost import targets
from benchmarks.cost.bench import Bench
from benchmarks.cost.problems.cases import SEED, Case, build
from benchmarks.cost.problems.floor import copy_bandwidth, gathers
from benchmarks.cost.targets import over_floor
from benchmarks.harness import options, quantities
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Session
from benchmarks.layers import requirements
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import OURS, PYG_GATV2

Data = Mapping[str, Any]
SHAPES = ("8x16", "4x32", "1x128", "8x8", "1x7", "3x20", "8x5")
DEGREES = (2, 4, 8, 64)
EDGES = 64_000
WHAT = {"forward": "forward", "step": "training step"}
COLORS = (BLUE, SKY, GREEN, VERMILION, ORANGE, PURPLE, BLACK, GREY)


def _degrees(text: str) -> list[int]:
    return sorted({options.whole()(part) for part in text.split(",")})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(parser, "--shapes", SHAPES, "shape", "all, quick 8x16, 8x8")
    parser.add_argument(
        "--degrees",
        type=_degrees,
        metavar="D,D,...",
        help=f"incoming edges of a node (default: {','.join(map(str, DEGREES))}, quick 2,8)",
    )
    parser.add_argument(
        "--edges",
        type=options.whole(2),
        default=EDGES,
        metavar="N",
        help=f"edges of each graph (default: {EDGES})",
    )
    parser.add_argument(
        "--budget",
        type=options.real(0.01),
        metavar="SECONDS",
        help="time for each case, beyond its smallest number of rounds (default: 2, quick 1)",
    )
    options.add_common(parser, quick="two shapes, two degrees", data=False)


def case_of(shape: str, degree: int, edges: int) -> Case:
    """The case of a shape such as ``8x16``."""
    heads, channels = map(int, shape.split("x"))
    return Case(
        f"{shape}-{degree}",
        "regular",
        nodes=edges // degree,
        edges=edges // degree * degree,
        heads=heads,
        channels=channels,
        self_loops=False,
    )


def _measure(bench: Bench, case: Case, device: str) -> dict[str, Any]:
    problem = build(case, device)
    failure = bench.check(problem, [OURS, PYG_GATV2])["failures"].get(OURS.key)
    found: dict[str, Any] = {"shape": case.shape, "degree": case.edges // case.nodes}
    if failure is not None:
        return found | {"failure": failure}
    kept = ("forward", "step", "gather")
    raced = bench.kernels(problem)
    raced["seconds"] = {what: raced["seconds"][what] for what in kept}
    raced["ratios"] = {what: raced["ratios"][what] for what in kept if what in raced["ratios"]}
    return found | {"kernels": raced}


def run(session: Session, args: argparse.Namespace) -> Result:
    session.separate_devices()
    shapes = session.choose(args.shapes, full=list(SHAPES), quick=["8x16", "8x8"])
    degrees = session.choose(args.degrees, full=list(DEGREES), quick=[2, 8])
    if max(degrees) > args.edges:
        raise UsageError(f"--degrees: expected at most {args.edges} (--edges), got {max(degrees)}")
    settings: dict[str, Any] = {
        "seed": SEED,
        "edges": args.edges,
        "degrees": degrees,
        "budget": session.choose(args.budget, full=2.0, quick=1.0),
        "backend": resolve_backend(args.backend, session.device),
        "device": session.device,
    }
    bandwidth = None
    if session.device.startswith("cuda"):
        bandwidth = copy_bandwidth(session.device)
    bench = Bench(
        session.device,
        backend=args.backend,
        budget=settings["budget"],
        min_rounds=5,
        bandwidth=bandwidth,
    )
    store = session.store()
    cases = [case_of(shape, degree, args.edges) for shape in shapes for degree in degrees]
    data: dict[str, Any] = {"device": session.device, "cases": []}
    with session.progress(session.stem, len(cases)) as bar:
        for case in cases:
            bar.say(f"{case.shape}, degree {case.edges // case.nodes}")
            key = {"case": case.key, "edges": case.edges} | settings
            work = functools.partial(_measure, bench, case, session.device)
            data["cases"].append(store.unit(key, work))
            bar.advance()
    return result(data, settings)


def _cell(entry: Data, device: str) -> str:
    pair = [over_floor(entry, what, device) for what in WHAT]
    if None in pair:
        return str(entry["failure"])
    return " / ".join(f"{found[quantities.MEDIAN]:.1f}" for found in pair if found is not None)


def _by_shape(data: Data) -> dict[str, dict[int, Data]]:
    found: dict[str, dict[int, Data]] = {}
    for entry in data["cases"]:
        found.setdefault(entry["shape"], {})[entry["degree"]] = entry
    return found


def _headline(data: Data, degrees: Sequence[int]) -> str:
    parts = []
    for degree in degrees:
        row = [by_degree[degree] for by_degree in _by_shape(data).values()]
        ranges = []
        for what, name in WHAT.items():
            found = [over_floor(entry, what, data["device"]) for entry in row]
            medians = [ratios[quantities.MEDIAN] for ratios in found if ratios is not None]
            if medians:
                ranges.append(f"{name} {min(medians):.1f} to {max(medians):.1f}")
        parts.append(f"degree {degree}: {', '.join(ranges) or 'not timed'}")
    return f"Kernels over the gather of their rows. {'; '.join(parts)}."


def _picture(data: Data) -> Picture:
    with plots.style():
        figure, axes = plots.panels(2, size=(5.2, 3.6), sharey=True)
        for axis, (what, title) in zip(axes, WHAT.items(), strict=True):
            for color, (shape, by_degree) in zip(COLORS, _by_shape(data).items(), strict=False):
                found = {d: over_floor(e, what, data["device"]) for d, e in by_degree.items()}
                points = {d: r[quantities.MEDIAN] for d, r in found.items() if r is not None}
                marker = plots.MARKERS.get(color, "*")
                axis.plot(
                    list(points), list(points.values()), color=color, marker=marker, label=shape
                )
            axis.set_xscale("log", base=2)
            degrees = sorted({entry["degree"] for entry in data["cases"]})
            axis.set_xticks(degrees, [str(degree) for degree in degrees])
            axis.set_xlabel("incoming edges of a node")
            axis.set_title(title)
        axes[0].set_ylim(bottom=0)  # shared: a limit ends its scaling, so it comes last
        rows = gathers(data["device"])["step"]
        axes[0].set_ylabel(f"time ÷ gathers (step: {rows})")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", title="H×C")
    return Picture(
        figure,
        "Time of the attention kernels over the time to gather one row of features for each edge "
        f"(a training step: {rows} rows), by degree and shape. Medians of ratios within rounds.",
        "Lines of kernel time over the floor against the degree, one for each shape",
    )


def result(data: Data, settings: dict[str, Any]) -> Result:
    """The result of ``degrees`` from its raw data."""
    degrees = settings["degrees"]
    rows = [
        [shape, *(_cell(by_degree[degree], data["device"]) for degree in degrees)]
        for shape, by_degree in _by_shape(data).items()
    ]
    found = []
    if settings["edges"] == EDGES:
        found = list(targets.short_rows(_by_shape(data), data["device"]))
    return Result(
        title="Kernels by degree",
        headline=_headline(data, degrees),
        settings=settings,
        tables=[
            Table(
                f"Attention kernels over the floor, {settings['edges']:,} edges",
                ["H×C", *(f"degree {degree}: forward / step" for degree in degrees)],
                rows,
                note="Times over those of the gather of one row an edge; a training step over "
                f"{gathers(data['device'])['step']} of it. Medians of ratios within rounds.",
            ),
            *([requirements.table(found)] if found else []),
        ],
        pictures=[_picture(data)],
        data=dict(data),
        verdict=f"{requirements.summary(found).capitalize()}." if found else "",
    )
