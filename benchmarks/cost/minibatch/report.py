"""Tables and pictures of ``minibatch``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers.contestants import GAT, OURS, PYG_GATV2, Contestant

Data = Mapping[str, Any]
TOLERANCE = 1e-9
TIMED = (OURS, PYG_GATV2, GAT)
KINDS = {"step": "training step", "attention": "attention alone"}


def _seconds(entry: Data, what: str, contestant: Contestant) -> float | None:
    times = entry["seconds"][what].get(contestant.key)
    return None if times is None else quantities.median(times)


def _ratio(entry: Data, what: str, contestant: Contestant) -> str:
    taken, ours = (_seconds(entry, what, c) for c in (contestant, OURS))
    return quantities.ratio(taken / ours) if taken and ours else "–"


def _table(entry: Data, settings: Data) -> Table:
    rows = []
    for contestant in TIMED:
        step, alone = (_seconds(entry, what, contestant) for what in KINDS)
        if step is None or alone is None:
            rows.append([contestant.label, *["disagrees, not timed"] * 2, "–", "–", "–", "–"])
            continue
        rows.append(
            [
                contestant.label,
                f"{1 / step:.1f}",
                quantities.duration(step),
                _ratio(entry, "step", contestant),
                quantities.duration(alone),
                _ratio(entry, "attention", contestant),
                f"{100 * alone / step:.0f} %",
            ]
        )
    return Table(
        f"{entry['graph']}: batches of {entry['nodes']:,.0f} nodes and {entry['edges']:,.0f} edges",
        ["layer", "steps a second", "step", "to ours", "attention alone", "to ours", "share"],
        rows,
        note=f"Medians of {quantities.count(settings['rounds'], 'round')} over "
        f"{settings['batches']} sampled batches, the layers in turn, the graph new in each step; "
        "sampling is not in it. Share: attention alone, of a step. With PyG's weights loss and "
        f"gradients differ from its by at most {entry['agreement_float64']:.0e} in float64.",
        highlight=OURS.label,
    )


def _headline(data: Sequence[Data]) -> str:
    parts = []
    for entry in data:
        step = _seconds(entry, "step", OURS)
        if step is None:
            parts.append(f"{entry['graph']}: this layer disagrees and was not timed")
            continue
        parts.append(
            f"{entry['graph']}: {1 / step:.1f} training steps a second on sampled batches of "
            f"{entry['edges']:,.0f} edges, {_ratio(entry, 'step', PYG_GATV2)} as many as with "
            f"PyG's GATv2Conv, {_ratio(entry, 'step', GAT)} as many as with GATConv"
        )
    return f"{'; '.join(parts)}."


def _picture(data: Sequence[Data]) -> Picture:
    with plots.style():
        figure, axes = plots.panels(2, len(data), size=(5.2, 2.5))
        for row, entry in enumerate(data):
            for panel, (what, title) in zip(axes[2 * row :], KINDS.items(), strict=False):
                shown = [(c, _seconds(entry, what, c)) for c in TIMED]
                timed = [(c, seconds) for c, seconds in shown if seconds is not None]
                plots.bars(
                    panel,
                    [c.label for c, _ in timed],
                    [1e3 * seconds for _, seconds in timed],
                    colors=[c.color for c, _ in timed],
                    texts=[quantities.duration(seconds) for _, seconds in timed],
                    unit="time (ms)",
                )
                panel.set_title(f"{entry['graph']}: {title}")
    return Picture(
        figure,
        "Median time of a training step on a sampled batch, and of its attention alone.",
        "Bars of the time of a step on sampled neighbourhoods for each layer",
    )


def result(data: Sequence[Data], settings: dict[str, Any], notes: Sequence[str] = ()) -> Result:
    """The result of ``minibatch`` from its raw data; ``notes`` say what is missing."""
    return Result(
        title="Mini-batches of sampled neighbourhoods",
        headline=_headline(data),
        settings=settings,
        tables=[_table(entry, settings) for entry in data],
        pictures=[_picture(data)],
        data=list(data),
        notes=list(notes),
    )
