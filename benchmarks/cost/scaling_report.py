"""Tables and pictures of ``scaling``, made from its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import stats

from benchmarks.cost.problems.cases import count
from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers.contestants import OURS, PYG_GATV2, Contestant

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
# Through fewer points a slope is no finding.
LEAST_POINTS = 3
# Steps that a point is timed over at least; one where a step takes longer than so many seconds.
LEAST_STEPS, TOO_LONG = 3, 20.0


def x_of(axis: str, point: Mapping[str, Any]) -> float | None:
    """Where a point stands on its axis: along ``skew`` at the degree of its largest node."""
    return point.get("degree") if axis == "skew" else point["x"]


def slope(axis: str, points: Points, what: str) -> float | None:
    """The exponent of the power law through three points or more, by least squares in log-log."""
    kept = [point for point in points if not point["failure"] and point[what] > 0]
    if axis == "edges" and sum(point["x"] >= FIT_FROM for point in kept) >= LEAST_POINTS:
        kept = [point for point in kept if point["x"] >= FIT_FROM]
    if len(kept) < LEAST_POINTS:
        return None
    xs = [math.log(x_of(axis, point) or 1) for point in kept]
    ys = [math.log(point[what]) for point in kept]
    return float(stats.linregress(xs, ys).slope) if len(set(xs)) > 1 else None


def _text(value: float | None, digits: int = 2) -> str:
    # Adding 0 turns -0.0 into 0.0.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _slopes(data: Data, contestants: Sequence[Contestant]) -> Table:
    rows = []
    for axis, lines in data["axes"].items():
        row = [TITLES[axis]]
        for what in WHAT:
            row += [_text(slope(axis, lines[c.key], what)) for c in contestants]
        rows.append(row)
    heads = [f"{what}, {c.short}" for what in ("time", "memory") for c in contestants]
    note = (
        "Exponent p of the power law x^p through the points (1: twice as much for twice as many), "
        f"where there are {LEAST_POINTS} or more; along edges from {FIT_FROM:,} on where "
        f"{LEAST_POINTS} of them are."
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
                steps = line[place]["steps"]
                few = f" ({quantities.count(steps, 'step')})" if steps < LEAST_STEPS else ""
                row.append(f"{quantities.duration(seconds)}{few}, {quantities.size(peak)}")
        rows.append(row)
    first = "exponent (largest degree)" if axis == "skew" else axis
    return Table(f"Against {TITLES[axis]}", [first, *[c.short for c in contestants]], rows)


def _draw(axes: Axes, data: Data, axis: str, what: str, contestants: Sequence[Contestant]) -> None:
    unit, scale = WHAT[what]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for contestant in contestants:
        points = data["axes"][axis][contestant.key]
        done = [p for p in points if not p["failure"] and p[what] > 0]
        xy = [(x_of(axis, p) or 1, p[what] / scale) for p in done]
        if xy:
            power = slope(axis, points, what)
            axes.errorbar(
                [x for x, _ in xy],
                [y for _, y in xy],
                yerr=_reach(done) if what == "seconds" else None,
                capsize=3,
                color=contestant.color,
                marker=plots.MARKERS.get(contestant.color, "o"),
                label=f"slope {_text(power)}",
            )
        failed = [point for point in points if point["failure"]]
        if failed and xy and axis != "skew":
            x, y = xy[-1]
            tip = (x, y) if len(xy) == 1 else _beyond(xy[-2], xy[-1], failed[0]["x"])
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
    axes.set_ylabel(unit)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4)
    axes.margins(y=0.2)
    if axis in ("channels", "heads"):
        ticks = sorted({p["x"] for line in data["axes"][axis].values() for p in line})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _reach(points: Points) -> list[list[float]]:
    """From the median down to the fastest and up to the slowest step."""
    return [
        [point["seconds"] - point["fastest"] for point in points],
        [point["slowest"] - point["seconds"] for point in points],
    ]


def _beyond(first: tuple[float, float], last: tuple[float, float], x: float) -> tuple[float, float]:
    """The point at ``x`` of the line through two points in log-log."""
    power = math.log(last[1] / first[1]) / math.log(last[0] / first[0])
    return x, last[1] * (x / last[0]) ** power


def _picture(data: Data, contestants: Sequence[Contestant]) -> Picture:
    names = list(data["axes"])
    with plots.style():
        figure, axes = plots.panels(len(WHAT), len(names), size=(5.2, 2.7))
        for row, axis in enumerate(names):
            for column, what in enumerate(WHAT):
                _draw(axes[row * len(WHAT) + column], data, axis, what, contestants)
            axes[row * len(WHAT)].set_title(TITLES[axis])
        handles = [
            Line2D([], [], color=c.color, marker=plots.MARKERS.get(c.color, "o"), label=c.label)
            for c in contestants
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return Picture(
        figure,
        "Time (left) and peak memory over the inputs (right) of a training step, log-log. Each "
        "point is the median of the steps of one fresh process, its bar from the fastest to the "
        f"slowest ({LEAST_STEPS} steps or more, one where a step takes over {TOO_LONG:.0f} s); "
        f"slopes are fitted through {LEAST_POINTS} points or more. A cross ends the line of a "
        f"layer that ran out of its {data['limit'] / 2**30:g} GiB, where its last two points lead "
        "(at the point itself where there is one).",
        "Lines of time and memory against edges, channels, heads and the largest degree",
    )


def _headline(data: Data) -> str:
    found = data["largest"]
    if found and found[OURS.key]["edges"] and found[PYG_GATV2.key]["edges"]:
        ours, pyg = found[OURS.key]["edges"], found[PYG_GATV2.key]["edges"]
        return (
            f"Within {data['limit'] / 2**30:g} GiB this layer trains on {int(ours):,} edges, PyG's "
            f"GATv2Conv on {int(pyg):,} ({quantities.ratio(ours / pyg)})."
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
        f"{quantities.duration(ours['seconds'])} and {quantities.size(ours['peak'])}, PyG's "
        f"GATv2Conv {quantities.duration(pyg['seconds'])} and {quantities.size(pyg['peak'])}."
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
