"""Tables and pictures of ``scaling``, made from its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from . import plots, statistics
from .cases import count
from .contestants import OURS, PYG_GATV2, Contestant
from .results import Picture, Result, Table

Data = Mapping[str, Any]
Points = Sequence[Mapping[str, Any]]

TITLES = {
    "edges": "edges (20 a node, 8×16)",
    "channels": "channels (8 heads)",
    "heads": "heads (16 channels)",
    "skew": "hubs (power-law graphs, 8×16)",
}
LABELS = {
    "edges": "edges",
    "channels": "channels C",
    "heads": "heads H",
    "skew": "edges of the largest node",
}
WHAT = {"seconds": ("time of a training step (s)", 1.0), "peak": ("peak memory (MiB)", 2**20)}
# Below this many edges, time and memory are overhead: not fitted where there are larger graphs.
FIT_FROM = 10**5


def x_of(axis: str, point: Mapping[str, Any]) -> float | None:
    """Where a point stands on its axis: along ``skew`` at the degree of its largest node."""
    return point.get("degree") if axis == "skew" else point["x"]


def slope(axis: str, points: Points, what: str) -> float | None:
    """The exponent of the power law through the points, by least squares in log-log."""
    kept = [point for point in points if not point["failure"] and point[what] > 0]
    if axis == "edges" and sum(point["x"] >= FIT_FROM for point in kept) > 1:
        kept = [point for point in kept if point["x"] >= FIT_FROM]
    if len(kept) < 2:
        return None
    xs = [math.log(x_of(axis, point) or 1) for point in kept]
    ys = [math.log(point[what]) for point in kept]
    centre, middle = statistics.mean(xs), statistics.mean(ys)
    spread = sum((x - centre) ** 2 for x in xs)
    if spread == 0:
        return None
    return sum((x - centre) * (y - middle) for x, y in zip(xs, ys, strict=True)) / spread


def _text(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _slopes(data: Data, contestants: Sequence[Contestant]) -> Table:
    rows = []
    for axis, lines in data["axes"].items():
        row = [TITLES[axis]]
        for what in WHAT:
            row += [_text(slope(axis, lines[c.key], what)) for c in contestants]
        rows.append(row)
    heads = [f"{what}, {c.short}" for what in ("time", "memory") for c in contestants]
    note = (
        "Exponent p of the power law x^p through the points (1: twice as much for twice as many); "
        f"along edges from {FIT_FROM:,} on where there are such points."
    )
    return Table("Slopes in log-log", ["against", *heads], rows, note)


def _largest(data: Data, contestants: Sequence[Contestant]) -> Table:
    rows = []
    for contestant in contestants:
        found = data["largest"][contestant.key]
        fits, fails = found["edges"], found["fails_at"]
        why = "out of memory" if found["failure"] == "memory" else found["failure"]
        rows.append(
            [
                contestant.label,
                f"{int(fits):,}" if fits else "–",
                f"{int(fails):,}" if fails else "–",
                why or "–",
            ]
        )
    limit = f"{data['limit'] / 2**30:g} GiB"
    return Table(
        f"Largest graph that one process of {limit} can train on (8×16, 20 edges a node)",
        ["layer", "edges that fit", "edges that fail", "failure"],
        rows,
        "One layer with its inputs and all gradients.",
        highlight=OURS.label,
    )


def _points(data: Data, axis: str, contestants: Sequence[Contestant]) -> Table:
    lines = data["axes"][axis]
    rows = []
    longest = max(lines.values(), key=len)
    for place, point in enumerate(longest):
        x = point["x"]
        row = [count(int(x)) if axis != "skew" else f"{x:g} ({point.get('degree', '–')})"]
        for contestant in contestants:
            line = lines[contestant.key]
            if place >= len(line):
                row.append("–")
            elif line[place]["failure"]:
                why = line[place]["failure"]
                row.append("out of memory" if why == "memory" else why)
            else:
                seconds, peak = line[place]["seconds"], line[place]["peak"]
                row.append(f"{statistics.duration(seconds)}, {statistics.size(peak)}")
        rows.append(row)
    first = "exponent (largest degree)" if axis == "skew" else axis
    return Table(f"Against {TITLES[axis]}", [first, *[c.short for c in contestants]], rows)


def _draw(axes: Axes, data: Data, axis: str, what: str, contestants: Sequence[Contestant]) -> None:
    unit, scale = WHAT[what]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for contestant in contestants:
        points = data["axes"][axis][contestant.key]
        xy = [(x_of(axis, p) or 1, p[what] / scale) for p in points if not p["failure"]]
        style = {"color": contestant.color, "marker": plots.MARKERS.get(contestant.color, "o")}
        if xy:
            axes.plot(*zip(*xy, strict=True), label=contestant.label, **style)
        failed = [point for point in points if point["failure"]]
        if failed and xy and axis != "skew":
            power = slope(axis, points, what)
            (x, y), end = xy[-1], failed[0]["x"]
            tip = (x, y) if power is None else (end, y * (end / x) ** power)
            axes.plot(*zip((x, y), tip, strict=True), color=contestant.color, linestyle=":")
            axes.plot(*tip, color=contestant.color, marker="x", markersize=9, markeredgewidth=2.5)
            axes.annotate(
                "out of memory" if failed[0]["failure"] == "memory" else "too slow",
                tip,
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=contestant.color,
            )
    axes.set_xlabel(LABELS[axis])
    axes.tick_params(labelleft=True)
    axes.set_ylabel(unit)
    axes.margins(y=0.14)
    if axis in ("channels", "heads"):
        ticks = sorted({p["x"] for line in data["axes"][axis].values() for p in line})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _picture(data: Data, contestants: Sequence[Contestant]) -> Picture:
    names = list(data["axes"])
    with plots.style():
        figure, axes = plots.panels(len(names), 2, size=(4.3, 3.4), sharey="row")
        for column, axis in enumerate(names):
            for row, what in enumerate(WHAT):
                _draw(axes[row * len(names) + column], data, axis, what, contestants)
            axes[column].set_title(TITLES[axis])
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return Picture(
        figure,
        "Time (above) and peak memory over the inputs (below) of a training step, log-log. Each "
        "point is the median of the steps of one fresh process; a cross ends the line of a layer "
        f"that ran out of its {data['limit'] / 2**30:g} GiB, where its "
        "fitted slope would lead (at its only point where there is no slope).",
        "Lines of time and memory against edges, channels, heads and the largest degree",
    )


def _headline(data: Data) -> str:
    found = data["largest"]
    if found and found[OURS.key]["edges"] and found[PYG_GATV2.key]["edges"]:
        ours, pyg = found[OURS.key]["edges"], found[PYG_GATV2.key]["edges"]
        return (
            f"Within {data['limit'] / 2**30:g} GiB this layer trains on {int(ours):,} edges, PyG's "
            f"GATv2Conv on {int(pyg):,} ({statistics.ratio(ours / pyg)})."
        )
    axis = next(iter(data["axes"]))
    lines = data["axes"][axis]
    both = [
        (ours, pyg)
        for ours, pyg in zip(lines[OURS.key], lines[PYG_GATV2.key], strict=False)
        if not ours["failure"] and not pyg["failure"]
    ]
    if not both:
        return f"No point along {axis} was measured for both layers."
    ours, pyg = both[-1]
    return (
        f"At {LABELS[axis]} = {ours['x']:,g} a training step takes this layer "
        f"{statistics.duration(ours['seconds'])} and {statistics.size(ours['peak'])}, PyG's "
        f"GATv2Conv {statistics.duration(pyg['seconds'])} and {statistics.size(pyg['peak'])}."
    )


def result(data: Data, settings: dict[str, Any], contestants: Sequence[Contestant]) -> Result:
    """The result of ``scaling`` from its raw data."""
    tables = [_slopes(data, contestants)]
    tables += [_largest(data, contestants)] if data["largest"] else []
    tables += [_points(data, axis, contestants) for axis in data["axes"]]
    device = "CUDA" if data["device"].startswith("cuda") else "CPU"
    return Result(
        f"Scaling on {device}",
        _headline(data),
        settings,
        tables,
        [_picture(data, contestants)],
        data=dict(data),
        notes=[
            "Layers are timed in processes of their own here, not in turn; `speed` has the ratios.",
            "The memory limit holds for the whole process, libraries and inputs included; peaks "
            "are counted over the inputs.",
        ],
    )
