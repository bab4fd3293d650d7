"""Tables and pictures of ``cora``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.datasets.data import shown_name
from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers import requirements
from benchmarks.layers.contestants import DENSE, GAT, OURS, PYG_GATV2, Contestant

Data = Mapping[str, Any]
LIMITS = (2.2, 1.6)
"""How many times as long a sparse epoch must take with PyG's GATv2Conv and GATConv."""
SPARSE = (OURS, PYG_GATV2, GAT)
ALL = (*SPARSE, DENSE)
TIMED = {
    "sparse": "epoch, sparse features",
    "dense": "epoch, dense features",
    "attention": "attention alone",
}
"""Kinds of steps: a training epoch with the features as a matrix, or the two layers' attention."""


def _beside(text: str, value: float, ours: float | None) -> str:
    """A figure, with how many times that of this layer it is."""
    return f"{text} ({quantities.ratio(value / ours)})" if ours and value != ours else text


@dataclass(frozen=True)
class _Found:
    """The data of a run by layer: test accuracies, peak bytes of a step; seconds by kind too."""

    contestants: list[Contestant]
    seeds: int
    test: dict[str, list[float]]
    seconds: dict[str, dict[str, float]]
    memory: dict[str, int | None]

    def ratio(self, what: str, contestant: Contestant) -> str | None:
        """How many times as long as this layer another takes; None where one was not timed."""
        seconds = self.seconds[what]
        if OURS.key not in seconds or contestant.key not in seconds:
            return None
        return quantities.ratio(seconds[contestant.key] / seconds[OURS.key])


def _accuracy(test: list[float], seeds: int) -> str:
    if not test:
        return "not trained"
    few = f" ({quantities.count(len(test), 'seed')})" if len(test) < seeds else ""
    return quantities.percent(test) + few


def _table(found: _Found, graph: Data, note: str) -> Table:
    rows = []
    for contestant in found.contestants:
        key = contestant.key
        row = [contestant.label, _accuracy(found.test[key], found.seeds)]
        for seconds in found.seconds.values():
            taken = seconds.get(key)
            row.append(
                _beside(quantities.duration(taken), taken, seconds.get(OURS.key))
                if taken
                else "disagrees, not timed"
            )
        peak = found.memory.get(key)
        ours = found.memory.get(OURS.key)
        row.append("–" if peak is None else _beside(quantities.size(peak), peak, ours))
        rows.append(row)
    return Table(
        f"{graph['name']}: {graph['nodes']:,} nodes, {graph['edges']:,} edges",
        ["layer", "test accuracy (%)", *TIMED.values(), "peak memory of a step"],
        rows,
        note=note,
        highlight=OURS.label,
    )


def result(data: Data, settings: dict[str, Any], remarks: Sequence[str] = ()) -> Result:
    """The result of ``cora`` from its raw data; ``remarks`` are notes on what is missing."""
    graph = data["graph"]
    found = _Found(
        [contestant for contestant in ALL if contestant.key in data["training"]],
        len(settings["seeds"]),
        {key: [unit["test"] for unit in units] for key, units in data["training"].items()},
        {
            what: {key: quantities.median(times) for key, times in data["seconds"][what].items()}
            for what in TIMED
        },
        data["peak_bytes"],
    )
    label = shown_name(graph["name"], graph["stand_in"])
    ratios = requirements.over_ours(found.seconds["sparse"])
    required = list(requirements.over_peers(TIMED["sparse"], graph["name"], LIMITS, ratios))
    return Result(
        title=f"{label} in the set-up of the GAT paper",
        headline=_headline(found, label),
        settings=settings,
        tables=[
            _table(found, graph, _note(found, data["agreement_float64"], settings)),
            requirements.table(required, "Ratios of the medians."),
        ],
        pictures=[_picture(found, graph["name"])],
        data=dict(data),
        notes=[
            "Epoch: a training step of the network, its features (bags of words) a CSR matrix or "
            "a dense one. With dense features most of the time is torch's dropout of them, the "
            "same for all layers; with sparse ones it is that of the stored values. Attention "
            "alone: forward and backward of both layers, the outputs of their linear maps given.",
            *remarks,
        ],
        stand_in=graph["stand_in"],
        verdict=f"{requirements.summary(required).capitalize()}.",
    )


def _note(found: _Found, agreement: dict[str, float], settings: dict[str, Any]) -> str:
    worst = max(agreement.values())
    text = (
        f"Accuracy: mean ± standard deviation over {quantities.count(found.seeds, 'seed')}. "
        f"Times: medians of {settings['timed steps']} steps, the sparse layers in turn"
    )
    dense = f" ({settings['timed dense steps']} steps of dense attention)"
    text += dense if DENSE in found.contestants else ""
    text += (
        "; in brackets how many times that of this layer. Memory: highest resident memory of a "
        "training step with dense features over its loaded inputs, in a fresh process. With PyG's "
        f"weights the GATv2 layers differ from it by at most {worst:.0e} in float64."
    )
    return text


def _headline(found: _Found, label: str) -> str:
    test = found.test
    parts = [
        f"{label}, {quantities.count(found.seeds, 'seed')}: test accuracy "
        f"{quantities.percent(test[OURS.key])} % with gatv2_pyg, "
        f"{quantities.percent(test[PYG_GATV2.key])} % with PyG's GATv2Conv, "
        f"{quantities.percent(test[GAT.key])} % with GAT."
    ]
    epochs = [
        f"{quantities.duration(found.seconds[what][OURS.key])} with {what} features "
        f"({_longer(found, what)})"
        for what in ("sparse", "dense")
        if OURS.key in found.seconds[what]
    ]
    parts += [f"An epoch takes {' and '.join(epochs)}."] if epochs else []
    if OURS.key in found.seconds["attention"]:
        parts.append(
            "The attention alone, which is what the layer is answerable for, takes "
            f"{quantities.duration(found.seconds['attention'][OURS.key])} "
            f"({_longer(found, 'attention')})."
        )
    return " ".join(parts)


def _longer(found: _Found, what: str) -> str:
    """How many times as long the others take."""
    names = {PYG_GATV2: "PyG's GATv2Conv", GAT: "GAT", DENSE: "dense attention"}
    ratios = {name: found.ratio(what, contestant) for contestant, name in names.items()}
    return ", ".join(f"{name} {ratio}" for name, ratio in ratios.items() if ratio)


def _picture(found: _Found, name: str) -> Picture:
    with plots.style():
        figure, axes = plots.panels(3, 2, size=(5.2, 2.7))
        left, *timed, last, unused = axes
        unused.set_axis_off()
        _draw_accuracy(left, [c for c in found.contestants if found.test[c.key]], found.test)
        left.set_title("Accuracy")
        for panel, (what, title) in zip(timed, TIMED.items(), strict=True):
            seconds = found.seconds[what]
            shown = [c for c in found.contestants if c.key in seconds]
            plots.bars(
                panel,
                [c.label for c in shown],
                [1e3 * seconds[c.key] for c in shown],
                colors=[c.color for c in shown],
                texts=[quantities.duration(seconds[c.key]) for c in shown],
                unit="time (ms)",
            )
            panel.set_title(title[0].upper() + title[1:])
        peaks = [c for c in found.contestants if found.memory.get(c.key)]
        plots.bars(
            last,
            [c.label for c in peaks],
            [(found.memory[c.key] or 0) / 2**20 for c in peaks],
            colors=[c.color for c in peaks],
            texts=[quantities.size(found.memory[c.key] or 0) for c in peaks],
            unit="memory (MiB)",
        )
        last.set_title("Peak memory of a step")
    return Picture(
        figure,
        f"{name}: test accuracy (mean over {quantities.count(found.seeds, 'seed')}; "
        "error bars: standard deviation; the axis is cut), median time of a training "
        "epoch with sparse and with dense features and of the attention alone, and peak memory of "
        "a training step.",
        f"Accuracy, epoch time and memory of {len(found.contestants)} attention layers on {name}",
    )


def _draw_accuracy(axes: Any, contestants: list[Contestant], test: dict[str, list[float]]) -> None:
    """Means with their standard deviations, on an axis that does not start at zero."""
    places = range(len(contestants))[::-1]
    for place, contestant in zip(places, contestants, strict=True):
        mean, spread = (100 * of(test[contestant.key]) for of in (quantities.mean, quantities.std))
        axes.errorbar(mean, place, xerr=spread, fmt="o", color=contestant.color, ms=9, capsize=4)
        axes.annotate(
            quantities.percent(test[contestant.key]),
            (mean, place),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=10,
        )
    axes.set_yticks(places, [contestant.label for contestant in contestants])
    axes.set_ylim(-0.5, len(contestants) - 0.3)
    axes.margins(x=0.25)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("test accuracy (%), cut axis")
