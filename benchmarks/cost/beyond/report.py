"""Tables of ``beyond``, made from its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.cost.beyond.calls import CONTESTANTS
from benchmarks.cost.problems.cases import count
from benchmarks.harness import quantities
from benchmarks.harness.measuring.race import ratio, seconds
from benchmarks.harness.reporting.result import Result, Table
from benchmarks.layers.requirements import Target, summary, table

Data = Mapping[str, Any]

TITLES = {
    "traffic": "A batch on one graph",
    "bias": "Biases of the edges",
    "dense": "Dense batches",
}
LABELS = {
    "batched": "gatv2_pyg GATv2Conv, batched",
    "repeated": "gatv2_pyg GATv2Conv, edges repeated",
    "pyg-repeated": "PyG GATv2Conv, edges repeated",
    "none": "without a bias",
    "edge": "`attn_bias` [E], given",
    "head": "`attn_bias` [E, H], given",
    "edge-trained": "`attn_bias` [E], with its gradient",
    "head-trained": "`attn_bias` [E, H], with its gradient",
    "dense-layer": "gatv2_pyg DenseGATv2Conv",
    "all-pairs": "dense attention over all pairs",
}


def _where(part: str, data: Data) -> str:
    size = data[part]["size"]
    graph = f"{count(size['nodes'])}/{count(size['edges'])}, {size['heads']}×{size['channels']}"
    return f"{graph}, batch {size['batch']}" if part == "traffic" else graph


def _times(data: Data, part: str, name: str) -> float | None:
    """The step of a contestant over the first one's."""
    raced = data[part]["step"]
    return ratio(raced, name, raced["over"])


def _peak(data: Data, part: str, name: str) -> int | None:
    found = data[part]["peaks"].get(name)
    return None if found is None else found["peak_bytes"]


def _memory(data: Data, part: str, name: str) -> float | None:
    """The memory of a contestant over the first one's."""
    own, other = _peak(data, part, data[part]["step"]["over"]), _peak(data, part, name)
    return other / own if own and other else None


def _targets(data: Data) -> Iterator[Target]:
    for part in data:
        where = _where(part, data)
        if part == "traffic":
            step = _times(data, part, "pyg-repeated")
            yield Target("training step, PyG on repeated edges over this", where, 5, step, True)
            peak = _memory(data, part, "pyg-repeated")
            yield Target("memory, PyG on repeated edges over this", where, 5, peak, True)
            step = _times(data, part, "repeated")
            yield Target("training step, this on repeated edges over this", where, 1, step, True)
        elif part == "bias":
            for name in CONTESTANTS["bias"][1:]:
                what = f"training step, {LABELS[name]}, over one without"
                yield Target(what, where, 1.05, _times(data, part, name))
        else:
            step, peak = (found(data, part, "all-pairs") for found in (_times, _memory))
            yield Target("training step, all pairs over the dense layer", where, 10, step, True)
            yield Target("memory, all pairs over the dense layer", where, 20, peak, True)


def _table(data: Data, part: str) -> Table:
    raced = data[part]["step"]
    rows = []
    for name in raced["seconds"]:
        times = 1.0 if name == raced["over"] else _times(data, part, name)
        row = [LABELS[name], quantities.duration(seconds(raced, name))]
        row.append("–" if times is None else f"{times:.2f}×")
        if data[part]["peaks"]:
            peak = _peak(data, part, name)
            row.append("–" if peak is None else quantities.size(peak))
        rows.append(row)
    memory = ["peak memory"] if data[part]["peaks"] else []
    return Table(
        f"{TITLES[part]} ({_where(part, data)})",
        ["", "training step", "over the first", *memory],
        rows,
        f"Medians of {quantities.count(raced['rounds'], 'round')}, in turn; ratios within rounds."
        + (" Memory over the loaded inputs, each in a fresh process." if memory else ""),
        highlight=LABELS[raced["over"]],
    )


def _headline(data: Data) -> str:
    parts = []
    if "traffic" in data and (times := _times(data, "traffic", "pyg-repeated")):
        parts.append(
            f"a batch of {data['traffic']['size']['batch']} on one graph takes PyG's GATv2Conv "
            f"{quantities.ratio(times)} as long, on repeated edges"
        )
    if "bias" in data and (times := _times(data, "bias", "edge-trained")):
        parts.append(f"a trained bias of each edge {100 * (times - 1):+.1f} % of the step")
    if "dense" in data and (times := _times(data, "dense", "all-pairs")):
        parts.append(f"attention over all pairs {quantities.ratio(times)} the dense layer")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def result(data: Data, settings: dict[str, Any]) -> Result:
    """The result of ``beyond`` from its raw data."""
    found = list(_targets(data))
    return Result(
        "Beyond PyG's layer: batches, biases, dense adjacency",
        _headline(data),
        settings,
        [table(found), *(_table(data, part) for part in data)],
        data=dict(data),
        notes=[
            "Graphs are random; features, edges and the layer are there before, repeated edges "
            "too.",
            "Every contestant was held to a plain statement of the same: output and gradients in "
            "float64, the output in float32.",
        ],
        verdict=f"{summary(found).capitalize()}.",
    )
