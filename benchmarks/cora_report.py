"""Tables and pictures of ``cora``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.datasets.data import shown_name
from benchmarks.harness import quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers.contestants import DENSE, GAT, NO_ATTENTION, OURS, PYG_GATV2, Contestant

Data = Mapping[str, Any]
SPARSE = (OURS, PYG_GATV2, GAT)
ALL = (*SPARSE, DENSE)


def _relative(value: float | None, ours: float | None) -> str:
    return quantities.ratio(value / ours) if value and ours else "–"


@dataclass(frozen=True)
class _Found:
    """The data of a run by layer: test accuracies, seconds of an epoch, peak bytes of a step."""

    contestants: list[Contestant]
    seeds: int
    test: dict[str, list[float]]
    epoch: dict[str, float]
    memory: dict[str, int | None]


def _table(found: _Found, graph: Data, note: str) -> Table:
    epoch, memory = found.epoch, found.memory
    rows = []
    for contestant in found.contestants:
        key = contestant.key
        test, seconds, peak = found.test[key], epoch.get(key), memory.get(key)
        rows.append(
            [
                contestant.label,
                quantities.percent(test) if test else "not trained",
                quantities.duration(seconds) if seconds else "disagrees, not timed",
                _relative(seconds, epoch.get(OURS.key)),
                quantities.size(peak) if peak is not None else "–",
                _relative(peak, memory.get(OURS.key)),
            ]
        )
    return Table(
        f"{graph['name']}: {graph['nodes']:,} nodes, {graph['edges']:,} edges",
        ["layer", "test accuracy (%)", "epoch", "to ours", "peak memory of a step", "to ours"],
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
        {key: quantities.median(seconds) for key, seconds in data["step_seconds"].items()},
        data["peak_bytes"],
    )
    label = shown_name(graph["name"], graph["stand_in"])
    return Result(
        title=f"{label} in the set-up of the GAT paper",
        headline=_headline(found, label),
        settings=settings,
        tables=[_table(found, graph, _note(found, data["agreement_float64"], settings))],
        pictures=[_picture(found, graph["name"])],
        data=dict(data),
        notes=[
            "Cora is small and its 1,433 features wide: with the attention left out, the same "
            f"network takes {quantities.duration(found.epoch[NO_ATTENTION.key])} an epoch for its "
            "dropout and linear maps alone. `speed` measures the attention itself.",
            *remarks,
        ],
        stand_in=graph["stand_in"],
    )


def _note(found: _Found, agreement: dict[str, float], settings: dict[str, Any]) -> str:
    worst = max(agreement.values())
    text = (
        f"Accuracy: mean ± standard deviation over {quantities.count(found.seeds, 'seed')}. "
        f"Epoch: median of {settings['timed steps']} training steps, the sparse layers in turn"
    )
    dense = f" ({settings['timed dense steps']} steps of dense attention)"
    text += dense if DENSE in found.contestants else ""
    text += (
        ". Memory: highest resident memory of a training step over its loaded inputs, in a fresh "
        f"process. With PyG's weights the GATv2 layers differ from it by at most {worst:.0e} in "
        "float64."
    )
    return text


def _headline(found: _Found, label: str) -> str:
    test, epoch = found.test, found.epoch
    parts = [
        f"{label}, {quantities.count(found.seeds, 'seed')}: test accuracy "
        f"{quantities.percent(test[OURS.key])} % with gatv2_pyg, "
        f"{quantities.percent(test[PYG_GATV2.key])} % with PyG's GATv2Conv, "
        f"{quantities.percent(test[GAT.key])} % with GAT."
    ]
    if OURS.key in epoch:
        against = epoch[PYG_GATV2.key] / epoch[OURS.key]
        parts.append(
            f"An epoch takes {quantities.duration(epoch[OURS.key])}; PyG's GATv2Conv takes "
            f"{quantities.ratio(against)} as long"
            + (
                f", dense attention {quantities.ratio(epoch[DENSE.key] / epoch[OURS.key])}."
                if DENSE.key in epoch
                else "."
            )
        )
    return " ".join(parts)


def _picture(found: _Found, name: str) -> Picture:
    test, epoch, memory = found.test, found.epoch, found.memory
    with plots.style():
        figure, (left, middle, right) = plots.panels(3, size=(4.6, 2.9))
        trained = [c for c in found.contestants if test[c.key]]
        _draw_accuracy(left, trained, test)
        left.set_title("Accuracy")
        timed = [c for c in found.contestants if c.key in epoch]
        plots.bars(
            middle,
            [c.label for c in timed],
            [1e3 * epoch[c.key] for c in timed],
            colors=[c.color for c in timed],
            texts=[quantities.duration(epoch[c.key]) for c in timed],
            unit="time (ms)",
        )
        middle.set_title("Training epoch")
        peaks = [c for c in found.contestants if memory.get(c.key)]
        plots.bars(
            right,
            [c.label for c in peaks],
            [(memory[c.key] or 0) / 2**20 for c in peaks],
            colors=[c.color for c in peaks],
            texts=[quantities.size(memory[c.key] or 0) for c in peaks],
            unit="memory (MiB)",
        )
        right.set_title("Peak memory of a step")
        for axes in (middle, right):
            axes.tick_params(labelleft=len(timed) != len(trained) or len(peaks) != len(timed))
    return Picture(
        figure,
        f"{name}: test accuracy (mean over {quantities.count(found.seeds, 'seed')}; "
        "error bars: standard deviation; the axis is cut), median time of a training "
        "epoch, and peak memory of a training step.",
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
