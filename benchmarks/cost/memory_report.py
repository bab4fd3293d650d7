"""Tables and pictures of ``memory``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers.contestants import COMPARED, OURS, PYG_GATV2, Contestant
from benchmarks.layers.requirements import Target, summary, table

Data = Mapping[str, Any]
REQUIRED = {"cpu": ("random-8x16",), "cuda": ("large-8x16", "tolokers")}
LIMIT = 12


def _peak(value: Data, key: str) -> int | None:
    return value["layers"][key]["peak_bytes"]


def _times_ours(value: Data, key: str) -> float | None:
    ours, other = _peak(value, OURS.key), _peak(value, key)
    return other / ours if ours and other else None


def _targets(data: Data, kind: str) -> list[Target]:
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


def _cell(value: Data, key: str) -> str:
    peak = _peak(value, key)
    if peak is None:
        why = value["layers"][key]["failure"]
        return "out of memory" if why == "memory" else "–"
    times = None if key == OURS.key else _times_ours(value, key)
    return quantities.size(peak) + (f", {quantities.ratio(times)}" if times else "")


def _picture(data: Data, contestants: Sequence[Contestant]) -> Picture:
    log = any(
        plots.wide([peak for c in contestants if (peak := _peak(value, c.key))])
        for value in data.values()
    )
    with plots.style():
        figure, axes = plots.panels(len(data), size=(4.9, 2.4))
        for axis, value in zip(axes, data.values(), strict=True):
            shown = [c for c in contestants if _peak(value, c.key)]
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


def _headline(data: Data) -> str:
    first = next(iter(data.values()))
    text = f"A training step on {first['label']} needs {_cell(first, OURS.key)} over its inputs"
    times = _times_ours(first, PYG_GATV2.key)
    return (
        f"{text}; PyG's GATv2Conv needs {quantities.ratio(times)} as much." if times else f"{text}."
    )


def result(
    data: Data, settings: dict[str, Any], device: str, contestants: Sequence[Contestant]
) -> Result:
    """The result of ``memory`` from its raw data."""
    kind = device.split(":")[0]
    found = _targets(data, kind)
    tables = [
        Table(
            "Peak memory of a training step",
            ["nodes/edges, H×C", *[c.short for c in contestants]],
            [
                [value["label"], *[_cell(value, c.key) for c in contestants]]
                for value in data.values()
            ],
            "Over the loaded inputs; then how many times as much as this layer.",
        )
    ]
    if found:
        tables.insert(0, table(found))
        tables[0].note = "The ratio of two steps, each in a fresh process."
    notes = [
        f"{COMPARED[key].label} has no figure on {value['label']}: {layer['failure']}."
        for value in data.values()
        for key, layer in value["layers"].items()
        if layer["failure"]
    ]
    notes.append("The features, the edges and the layer are loaded before; the graph is not.")
    return Result(
        f"Memory of a training step on {'CUDA' if kind == 'cuda' else 'CPU'}",
        _headline(data),
        settings,
        tables,
        [_picture(data, contestants)],
        data=dict(data),
        notes=notes,
        verdict=f"{summary(found).capitalize()}." if found else "",
    )
