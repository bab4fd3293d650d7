"""Tables and pictures of ``speed``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cost import targets
from benchmarks.cost.bench import KEEP_MEMORY
from benchmarks.cost.problems.floor import gathers
from benchmarks.harness import quantities
from benchmarks.harness.measuring.race import Summary, ratio, seconds
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.palette import BLUE, SKY
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers import requirements
from benchmarks.layers.contestants import (
    COLD,
    COMPARED,
    COMPILED,
    DETERMINISTIC,
    GAT,
    OURS,
    PYG_GATV2,
    SCATTER,
    Contestant,
)

Data = Mapping[str, Any]
_STEP = {"forward": "forward", "step": "training step"}
_NONE = "–"


def _spread(ratios: Sequence[float]) -> str:
    """A median ratio with its 10 % and 90 % quantiles."""
    low, middle, high = ratios
    return f"{quantities.ratio(middle)} ({low:.3g}–{high:.3g})"


def _time(raced: Summary, name: str) -> str:
    return quantities.duration(seconds(raced, name))


def _cell(value: Data, what: str, key: str) -> str:
    raced = value[what]
    if key in raced["seconds"]:
        text = _time(raced, key)
        if key != COLD.key and key in raced["ratios"]:
            text += f", {_spread(raced['ratios'][key])}"
        return text
    return value["failures"].get(key, _NONE)


def _layers(data: Data, what: str) -> Table:
    keys = [key for key in COMPARED if _appears(data, what, key)]
    rows = [
        [value["label"], *[_cell(value, what, key) for key in keys]]
        for value in data["cases"].values()
    ]
    columns = ["nodes/edges, H×C", *[COMPARED[key].short for key in keys]]
    note = (
        "Median time of a call; then how many times as long as this layer (10 % to 90 % quantile)."
    )
    return Table(f"Whole layer, {_STEP[what]}", columns, rows, note)


def _appears(data: Data, what: str, key: str) -> bool:
    """Whether a contestant was timed, or failed in another way than by not being installed."""
    return any(
        key in value[what]["seconds"] or value["failures"].get(key, "").startswith("wrong")
        for value in data["cases"].values()
    )


def _kernels(data: Data) -> Table:
    rows = []
    for value in data["cases"].values():
        raced = value.get("kernels")
        if raced is None:
            rows.append([value["label"], *[_NONE] * 7])
            continue
        row = [value["label"], _time(raced, "gather")]
        for what in ("forward", "step"):
            found = targets.over_floor(value, what, data["device"])
            row += [_time(raced, what), _spread(found) if found else _NONE]
        rows.append([*row, _time(raced, "group"), _time(raced, "group both")])
    floor = (
        "embedding_bag (sum) over the same CSR structure"
        if data["device"] == "cpu"
        else f"the bytes of one gathered row an edge at {data['bandwidth'] / 1e12:.2f} TB/s, "
        "the measured bandwidth of a copy"
    )
    record = (
        " The record of an edge that backward keeps and reads is not counted in it."
        if data["device"] == "cpu"
        else ""
    )
    return Table(
        "Attention kernels alone, against the floor",
        [
            "nodes/edges, H×C",
            "floor",
            "forward",
            "÷ floor",
            "step",
            f"÷ {gathers(data['device'])['step']} floors",
            "graph, forward",
            "graph, step",
        ],
        rows,
        f"Floor: {floor}.{record} The two last columns: grouping the edges, once per graph.",
    )


def _memory_kept(data: Data) -> list[Table]:
    """The first case where the allocator keeps its memory, if it was measured."""
    kept = data.get("memory kept") or {}
    if "label" not in kept:
        return []
    who = (OURS, PYG_GATV2, GAT)
    rows = [[name, *[_cell(kept, what, c.key) for c in who]] for what, name in _STEP.items()]
    return [
        Table(
            f"Where the allocator keeps memory: {kept['label']}",
            ["whole layer", *[c.short for c in who]],
            rows,
            f"GLIBC_TUNABLES={KEEP_MEMORY}; measured {kept['measured']}.",
        )
    ]


def _hubs(data: Data) -> Table:
    hubs = data["hubs"]
    rows = []
    for key in hubs["forward"]["seconds"]:
        row = [data["cases"][key]["label"]]
        for what in ("forward", "step"):
            over = hubs[what]["ratios"].get(key)
            row += [_time(hubs[what], key), _spread(over) if over else _NONE]
        rows.append(row)
    return Table(
        "Hubs: this layer on graphs of as many edges",
        ["graph", "forward", "÷ random", "training step", "÷ random"],
        rows,
        "A star has all its edges at one node.",
    )


def _dropout(data: Data) -> Table:
    rows = [
        [
            data["cases"][key]["label"],
            _time(raced, "none"),
            _time(raced, "dropout"),
            _spread(raced["ratios"]["dropout"]),
        ]
        for key, raced in data["dropout"].items()
    ]
    columns = ["case", "without", "with dropout 0.6", "with ÷ without"]
    return Table("Attention dropout, training step of this layer", columns, rows)


def _overhead(data: Data) -> Table:
    who = (OURS, PYG_GATV2, GAT)
    rows = []
    for what, raced in data["overhead"].items():
        times = [_time(raced, contestant.key) for contestant in who]
        rows.append([what, *times, _spread(raced["ratios"][PYG_GATV2.key])])
    columns = ["30 nodes, 90 edges, 8×16", *[c.short for c in who], "PyG ÷ ours"]
    return Table("Overhead of a call", columns, rows)


def _errors(data: Data) -> Table:
    rows = []
    for value in data["cases"].values():
        ours, yardstick = (value["errors"].get(c.key) for c in (OURS, PYG_GATV2))
        verdict = value["failures"].get(OURS.key, "passed")
        if ours is None or yardstick is None:
            rows.append([value["label"], *[_NONE] * 5, verdict])
            continue
        worst = max((name for name in ours if name != "out"), key=lambda name: ours[name])
        rows.append(
            [
                value["label"],
                *[f"{found['out']:.1e}" for found in (ours, yardstick)],
                worst.removeprefix("grad "),
                *[f"{found[worst]:.1e}" for found in (ours, yardstick)],
                verdict,
            ]
        )
    return Table(
        "Errors against float64, before anything is timed",
        ["case", "output", "PyG's", "worst gradient", "error", "PyG's", "check"],
        rows,
        "Largest deviation over the largest value of the tensor; float32, where no other precision "
        "is named.",
    )


def _repeatability(data: Data) -> Table:
    who = [c for c in (OURS, PYG_GATV2) if any(c.key in v for v in data["repeatability"].values())]
    rows = [
        [value["label"], *[f"{value[c.key]} of {targets.RUNS}" for c in who]]
        for value in data["repeatability"].values()
    ]
    note = "Output and all gradients compared with those of a first run."
    if data["device"] == "cpu":
        note = (
            "Output and gradients compared with those of a first run, under 1, 2 and all threads; "
            "without the gradients of the maps' weights, products by torch whose bits may depend "
            "on the threads."
        )
    return Table("Runs with the same bits", ["case", *[c.short for c in who]], rows, note)


def _times_picture(data: Data) -> Picture:
    names = list(data["cases"])
    with plots.style():
        height = 1.4 + 0.42 * len(names)
        figure, axes = plots.panels(2, size=(5.6, height), sharey=True)
        for axis, what in zip(axes, _STEP, strict=True):
            for key, contestant in COMPARED.items():
                points = [
                    (1e3 * seconds(value[what], key), len(names) - place)
                    for place, value in enumerate(data["cases"].values())
                    if key in value[what]["seconds"]
                ]
                if points:
                    axis.plot(
                        *zip(*points, strict=True),
                        linestyle="none",
                        marker=plots.MARKERS.get(contestant.color, "*"),
                        color=contestant.color,
                        label=contestant.label,
                        markersize=8 if key == OURS.key else 6.5,
                        alpha=0.95,
                    )
            axis.set_xscale("log")
            axis.set_xlabel("time of a call (ms)")
            axis.set_title(_STEP[what])
        axes[0].set_yticks(
            range(len(names), 0, -1), [value["label"] for value in data["cases"].values()]
        )
        axes[0].set_ylim(0.4, len(names) + 0.6)
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return Picture(
        figure,
        "Time of the whole layer on each case, median of the rounds (log scale; nodes/edges, H×C).",
        "Dots of the time of each layer on each case, forward and training step",
    )


def _floor_picture(data: Data) -> Picture | None:
    found = {
        value["label"]: [targets.over_floor(value, what, data["device"]) for what in _STEP]
        for value in data["cases"].values()
        if "kernels" in value
    }
    if not found:
        return None
    with plots.style():
        figure, axes = plots.panels(2, size=(5.6, 1.2 + 0.36 * len(found)), sharey=True)
        for place, (axis, what) in enumerate(zip(axes, _STEP, strict=True)):
            medians = [(pair[place] or [0.0] * 3)[quantities.MEDIAN] for pair in found.values()]
            rows = gathers(data["device"])[what]
            plots.bars(
                axis,
                list(found),
                medians,
                colors=[(BLUE, SKY)[place]] * len(found),
                texts=[quantities.ratio(value) for value in medians],
                unit=f"time ÷ {quantities.count(rows, 'gather')}",
            )
            axis.axvline(1.0, color="#222222", linewidth=1.2, linestyle="--")
            axis.set_title(f"{_STEP[what]}, kernels alone")
    return Picture(
        figure,
        "Time of the attention kernels over the floor (dashed), the time to gather one row of "
        f"features for each edge: once for forward, {gathers(data['device'])['step']} times for a "
        "training step. "
        "Medians of ratios within rounds.",
        "Bars of kernel time over the floor for each case",
        suffix="floor",
    )


def _faster(value: Data, what: str, peer: Contestant) -> str | None:
    """How many times as fast as a peer this layer is."""
    found = ratio(value[what], peer.key, OURS.key)
    return None if found is None else quantities.ratio(found)


def _headline(data: Data) -> str:
    for value in data["cases"].values():
        faster = _faster(value, "step", PYG_GATV2)
        if faster is None:
            continue
        ours = _time(value["step"], OURS.key)
        text = f"On {value['label']} a training step takes {ours}, {faster} faster than PyG's"
        text += f" GATv2Conv{_where_kept(data, value, 'step', ' where the allocator keeps memory')}"
        for peer, name in ((COMPILED, "PyG under torch.compile"), (GAT, "PyG's GATConv")):
            other = _faster(value, "step", peer)
            kept = _where_kept(data, value, "step", peer=peer)
            text += f", {other} than {name}{kept}" if other else ""
        forward = _faster(value, "forward", PYG_GATV2)
        return f"{text}; forward {forward}{_where_kept(data, value, 'forward')}."
    failed = next(iter(data["cases"].values()))["failures"].get(OURS.key, "no case was timed")
    return f"No speed: {failed}."


def _where_kept(
    data: Data, value: Data, what: str, words: str = "", peer: Contestant = PYG_GATV2
) -> str:
    """The ratio to a peer on the same case where the allocator keeps its memory, if measured."""
    kept = data.get("memory kept") or {}
    if kept.get("label") != value["label"]:
        return ""
    faster = _faster(kept, what, peer)
    return f" ({faster}{words})" if faster else ""


def _notes(data: Data) -> list[str]:
    notes = [
        "Contestants take turns within one run. A contestant much shorter than the slowest is "
        "called several times in a row, the kernels and their floor equally often; calls on the "
        "tiny graph are timed in batches.",
        "Training step: forward, then the gradients of the features and of all parameters.",
        f"{COLD.label}: edge_index is a new tensor every call, so the graph is grouped anew.",
    ]
    if data["device"] == "cpu":
        notes.append(
            "Page faults take much of the time of layers with tensors of [E, H, C]: the C library "
            "gives memory of that size back to the system after each use. Where it keeps it "
            f"(GLIBC_TUNABLES={KEEP_MEMORY}) these layers are much faster, and the ratios that "
            "much smaller."
        )
    if (data.get("memory kept") or {}).get("failure"):
        notes.append(f"Not measured with memory kept: {data['memory kept']['failure']}.")
    reasons: dict[str, list[str]] = {}
    for value in data["cases"].values():
        for key, why in value["failures"].items():
            reasons.setdefault(f"{COMPARED[key].label}: {why}", []).append(value["label"])
    notes += [f"{why} ({'; '.join(where)})." for why, where in reasons.items()]
    if any(SCATTER.key in value["step"]["seconds"] for value in data["cases"].values()):
        notes.append(f"{SCATTER.label} runs the CSR segment operations of torch_scatter.")
    if _appears(data, "step", DETERMINISTIC.key):
        notes.append(f"{DETERMINISTIC.label}: under torch.use_deterministic_algorithms(True).")
    return notes


def result(data: Data, settings: dict[str, Any]) -> Result:
    """The result of ``speed`` from its raw data."""
    found = targets.targets(data)
    scaled = settings["scale"] != 1
    tables = [requirements.table(found)]
    if scaled:
        tables[0].note += " The limits are meant for graphs of full size; these are scaled down."
    tables += [_layers(data, "forward"), _layers(data, "step"), *_memory_kept(data), _kernels(data)]
    tables += [_hubs(data)] if "hubs" in data else []
    tables += [_dropout(data)] if data["dropout"] else []
    if "failures" not in data["overhead"]:
        tables.append(_overhead(data))
    tables += [_repeatability(data)] if data["repeatability"] else []
    tables.append(_errors(data))
    pictures = [_times_picture(data), _floor_picture(data)]
    stand_ins = [v["stand_in"] for v in data["cases"].values() if v["stand_in"]]
    device = "CUDA" if data["device"].startswith("cuda") else "CPU"
    return Result(
        f"Speed on {device}",
        _headline(data),
        settings,
        tables,
        [picture for picture in pictures if picture is not None],
        data=dict(data),
        notes=_notes(data),
        stand_in=stand_ins[0] if stand_ins else None,
        verdict=f"{requirements.summary(found).capitalize()}.",
    )
