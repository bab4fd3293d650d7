"""What the layer must reach, and whether it does: every verdict is computed from the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.cost.bench import RUNS
from benchmarks.cost.problems.floor import gathers
from benchmarks.harness import quantities
from benchmarks.harness.measuring.race import ratio
from benchmarks.layers.contestants import COMPILED, GAT, OURS, PYG_GATV2
from benchmarks.layers.requirements import Target, over_peers

Data = Mapping[str, Any]

CPU_FLOOR = {"random-8x16": 2.2, "random-1x128": 1.8, "tolokers": 2.5}
# A training step against PyG's GATv2Conv and GATConv, then the share of PyG's time on 30 nodes.
CPU_STEPS = {"random-6x24": (22, 10), "cora": (3, 2.2), "molecules": (3.5, 2.7)}
CPU_SHARES = {"forward": 0.35, "training step": 0.5, "forward, new graph": 1}
# Of every degree up to eight: where heads fill vectors, and where they do not.
SHORT_ROWS = {"8×16": 3.5, "4×32": 3.5, "1×128": 3.5, "8×8": 6, "1×7": 6, "3×20": 6, "8×5": 6}
SHORT_DEGREES = (2, 4, 8)
CUDA_CASES = ("large-8x16", "tolokers")
CUDA_FLOOR_CASES = ("large-8x16", "large-1x128")


def over_floor(value: Data, what: str, device: str) -> list[float] | None:
    """Kernel time over the floor, the :func:`gathers` of ``what``: quantiles of the rounds."""
    ratios = value.get("kernels", {}).get("ratios", {}).get(what)
    return None if ratios is None else [ratio / gathers(device)[what] for ratio in ratios]


def _floor(value: Data, what: str, device: str) -> float | None:
    found = over_floor(value, what, device)
    return None if found is None else found[quantities.MEDIAN]


def _faster(value: Data, what: str, peer: str) -> float | None:
    return ratio(value.get(what), peer, OURS.key)


def _cpu(data: Data) -> Iterator[Target]:
    for key, limit in CPU_FLOOR.items():
        if key not in data["cases"]:
            continue
        value = data["cases"][key]
        where = value["label"]
        step = {peer: _faster(value, "step", peer.key) for peer in (PYG_GATV2, COMPILED, GAT)}
        forward = _faster(value, "forward", PYG_GATV2.key)
        yield Target("forward, PyG GATv2Conv over this layer", where, 30, forward, True)
        yield Target("training step, PyG GATv2Conv", where, 18, step[PYG_GATV2], True)
        if COMPILED.key in value["step"]["seconds"] or COMPILED.key in value["failures"]:
            yield Target("training step, PyG under torch.compile", where, 9, step[COMPILED], True)
        yield Target("training step, PyG GATConv", where, 10, step[GAT], True)
        kernel = _floor(value, "forward", data["device"])
        yield Target("forward kernel over the floor", where, limit, kernel)
        yield Target("forward kernel over the floor", where, 1.5, kernel, goal=True)
        kernel = _floor(value, "step", data["device"])
        yield Target("step kernels over the floor", where, 2, kernel, goal=True)
    for key, limits in CPU_STEPS.items():
        if key in data["cases"]:
            value = data["cases"][key]
            found = [_faster(value, "step", peer.key) for peer in (PYG_GATV2, GAT)]
            yield from over_peers("training step", value["label"], limits, found)
    yield from _hubs(data, 1.5)
    for key, raced in data["dropout"].items():
        measured = ratio(raced, "dropout", "none")
        where = data["cases"][key]["label"]
        yield Target("training step, with dropout over without", where, 1.15, measured)
    for what, limit in CPU_SHARES.items():
        measured = ratio(data["overhead"].get(what), OURS.key, PYG_GATV2.key)
        yield Target(f"{what}, this layer over PyG GATv2Conv", "30 nodes", limit, measured)
    yield from _repeatable(data)


def short_rows(by_shape: Mapping[str, Mapping[int, Data]], device: str) -> Iterator[Target]:
    """On CPU the highest over the floor of short degrees, of each shape that has them all."""
    for shape, limit in SHORT_ROWS.items():
        by_degree = by_shape.get(shape, {})
        if device != "cpu" or not set(SHORT_DEGREES) <= set(by_degree):
            continue
        for what, kernels in (("forward", "forward kernel"), ("step", "step kernels")):
            found = [_floor(by_degree[degree], what, device) for degree in SHORT_DEGREES]
            measured = None if None in found else max(filter(None, found))
            yield Target(f"{kernels} over the floor, degrees 2 to 8", shape, limit, measured)


def _cuda(data: Data) -> Iterator[Target]:
    for key in CUDA_CASES:
        if key in data["cases"]:
            value = data["cases"][key]
            step = [_faster(value, "step", peer.key) for peer in (PYG_GATV2, COMPILED)]
            where = value["label"]
            yield Target("training step, PyG GATv2Conv over this layer", where, 10, step[0], True)
            yield Target("training step, PyG under torch.compile", where, 4, step[1], True)
    for key in CUDA_FLOOR_CASES:
        if key in data["cases"]:
            value = data["cases"][key]
            for what in ("forward", "backward"):
                measured = _floor(value, what, data["device"])
                yield Target(f"{what} kernels over the floor", value["label"], 3, measured)
    yield from _hubs(data, 2)
    yield from _repeatable(data)


def _hubs(data: Data, limit: float) -> Iterator[Target]:
    for what, raced in data.get("hubs", {}).items():
        for key in ("star", "reversed-star"):
            if key in raced["seconds"]:
                measured = ratio(raced, key, "random-8x16")
                where = data["cases"][key]["label"]
                name = "training step" if what == "step" else what
                yield Target(f"{name}, over the random graph", where, limit, measured)


def _repeatable(data: Data) -> Iterator[Target]:
    for value in data["repeatability"].values():
        equal = value[OURS.key]
        yield Target(
            f"runs of {RUNS} with the same bits", value["label"], RUNS, equal, True, runs=True
        )


def targets(data: Data) -> list[Target]:
    """The requirements on the cases that were measured."""
    return list(_cpu(data) if data["device"] == "cpu" else _cuda(data))
