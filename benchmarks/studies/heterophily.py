"""ROC AUC on Tolokers and Minesweeper over their ten given splits, GAT against GATv2.

Graphs whose neighbours are unlike (Platonov et al., 2023): two attention layers of 8 heads of 8
channels with layer normalisation and skip connections, Adam with learning rate 0.003, full batch,
checkpoint chosen on validation. GAT trains on this project's kernels (the same function, see
`fused_gat.py`). Tolokers has a million edges: training steps are timed too, PyG's GATConv,
gatv2_pyg's GATv2Conv and PyG's in turn.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from benchmarks.datasets.data import HETEROPHILOUS, Dataset, load
from benchmarks.harness import options, quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import FUSED_GAT_NOTE
from benchmarks.studies.node_classification import (
    FUSED_GAT_VARIANT,
    GAT_VARIANT,
    GATV2_VARIANT,
    PYG_VARIANT,
    recipe,
    time_steps,
    train,
)

VARIANTS = (FUSED_GAT_VARIANT, GATV2_VARIANT)
TIMED = (GATV2_VARIANT, PYG_VARIANT, GAT_VARIANT)
SPLITS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(parser, "--datasets", HETEROPHILOUS, "data set", "both, quick Minesweeper")
    options.add_training(
        parser, seeds="10, quick 2; seed i is given split i", epochs="300, quick 60"
    )
    options.add_rounds(parser, "5")
    options.add_common(parser, quick="Minesweeper, 2 splits, 60 epochs")


Found = dict[tuple[str, str], list[dict[str, Any]]]
Times = dict[str, dict[str, list[float]]]


def run(session: Session, args: argparse.Namespace) -> Result:
    names = session.choose(args.datasets, full=list(HETEROPHILOUS), quick=["Minesweeper"])
    seeds = min(session.choose(args.seeds, full=SPLITS, quick=2), SPLITS)
    epochs = session.choose(args.epochs, full=300, quick=60)
    rounds = session.choose(args.rounds, full=5, quick=5)
    datasets = [load(name, args.data) for name in names]
    backend = resolve_backend(args.backend, session.device)
    store = session.store()
    found: Found = {}
    times: Times = {}
    units = [(d, s, v) for d in datasets for s in range(seeds) for v in VARIANTS]
    with session.progress("heterophily", len(units) + len(datasets)) as bar:
        common: dict[str, Any] = {"device": session.device, "backend": backend}
        for dataset in datasets:
            bar.say(f"timing {dataset.name}")
            times[dataset.name] = store.unit(
                {"what": "times", "data": dataset.name, "rounds": rounds, "backend": backend},
                functools.partial(time_steps, list(TIMED), dataset, rounds=rounds, **common),
            )
            bar.advance()
        for dataset, seed, variant in units:
            bar.say(f"{dataset.name}, {variant.label}, split {seed}")
            settings = {"seed": seed, "split": seed, "epochs": epochs}
            key = settings | {"data": dataset.name, "model": variant.key, "backend": backend}
            work = functools.partial(train, variant, dataset, **settings, **common)
            found.setdefault((dataset.name, variant.key), []).append(store.unit(key, work))
            bar.advance()
    how = recipe(names[0])
    settings = {
        "data": names,
        "splits": list(range(seeds)),
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "evaluated every": f"{how.evaluate_every} epochs",
        "learning rate": how.lr,
        "timed steps": rounds,
        "backend": backend,
        "device": session.device,
    }
    return result(datasets, found, times, settings)


def result(
    datasets: Sequence[Dataset], found: Found, times: Times, settings: dict[str, Any]
) -> Result:
    """The result of ``heterophily`` from its raw data, by data set and variant."""
    seeds, rounds = len(settings["splits"]), settings["timed steps"]
    return Result(
        title="Heterophilous graphs: GAT and GATv2 on the given splits",
        headline=_headline(datasets, found, times, seeds),
        settings=settings,
        tables=[_table(dataset, found, times, seeds, rounds) for dataset in datasets],
        pictures=[_picture(datasets, found, times, seeds, rounds)],
        data={
            "scores": [{"data": d, "model": m, "splits": units} for (d, m), units in found.items()],
            "step_seconds": times,
            "graphs": {
                d.name: {"nodes": d.data.num_nodes, "edges": d.data.num_edges} for d in datasets
            },
        },
        notes=[FUSED_GAT_NOTE],
    )


def _table(dataset: Dataset, found: Found, times: Times, seeds: int, rounds: int) -> Table:
    seconds = {key: quantities.median(v) for key, v in times[dataset.name].items()}
    rows = []
    for variant in (GATV2_VARIANT, GAT_VARIANT, PYG_VARIANT):
        tests = [unit["test"] for unit in found.get((dataset.name, variant.key), [])]
        epoch = seconds[variant.key]
        rows.append(
            [
                f"{variant.label} (gatv2_pyg)" if variant is GATV2_VARIANT else variant.label,
                quantities.percent(tests) if tests else "only timed",
                quantities.duration(epoch),
                quantities.ratio(epoch / seconds[GATV2_VARIANT.key]),
            ]
        )
    return Table(
        f"{dataset.name}: {dataset.data.num_nodes:,} nodes, {dataset.data.num_edges:,} edges",
        ["layer", "test ROC AUC (%)", "training epoch", "to ours"],
        rows,
        note=f"Mean ± standard deviation over {quantities.count(seeds, 'given split')}. "
        f"Epoch: median of {quantities.count(rounds, 'training step')}, the layers in turn.",
        highlight=rows[0][0],
    )


def _headline(datasets: Sequence[Dataset], found: Found, times: Times, seeds: int) -> str:
    parts = []
    for dataset in datasets:
        gat, gatv2 = (
            [unit["test"] for unit in found[dataset.name, variant.key]] for variant in VARIANTS
        )
        seconds = {key: quantities.median(v) for key, v in times[dataset.name].items()}
        faster = seconds[GAT_VARIANT.key] / seconds[GATV2_VARIANT.key]
        parts.append(
            f"{dataset.name}: ROC AUC {quantities.percent(gatv2)} % with GATv2, "
            f"{quantities.percent(gat)} % with GAT, whose epoch takes "
            f"{quantities.ratio(faster)} the time of gatv2_pyg's GATv2"
        )
    return f"{'; '.join(parts)} ({quantities.count(seeds, 'split')})."


def _picture(
    datasets: Sequence[Dataset], found: Found, times: Times, seeds: int, rounds: int
) -> Picture:
    with plots.style():
        figure, panels = plots.panels(2, len(datasets), size=(5.6, 2.5))
        for row, dataset in enumerate(datasets):
            scores, clock = panels[2 * row : 2 * row + 2]
            _draw_scores(scores, dataset, found)
            order = (GATV2_VARIANT, GAT_VARIANT, PYG_VARIANT)
            medians = [quantities.median(times[dataset.name][v.key]) for v in order]
            plots.bars(
                clock,
                ["GATv2 (gatv2_pyg)", *(v.label for v in order[1:])],
                medians,
                colors=[v.color for v in order],
                texts=[quantities.duration(value) for value in medians],
                unit="training epoch (s)",
            )
            clock.set_title(f"{dataset.name}: time")
    return Picture(
        figure,
        f"Left: test ROC AUC of GAT and GATv2 on each of {quantities.count(seeds, 'given split')}, "
        f"a line per split; bars are means. Right: median of "
        f"{quantities.count(rounds, 'training step')}.",
        "ROC AUC and epoch time of GAT and GATv2 per data set",
    )


def _draw_scores(axes: Any, dataset: Dataset, found: Found) -> None:
    """A line from GAT to GATv2 for each split."""
    pairs = [[100 * unit["test"] for unit in found[dataset.name, v.key]] for v in VARIANTS]
    for ends in zip(*pairs, strict=True):
        axes.plot([0, 1], ends, color="#BBBBBB", linewidth=1, zorder=1)
    for place, (variant, values) in enumerate(zip(VARIANTS, pairs, strict=True)):
        axes.plot([place] * len(values), values, "o", color=variant.color, alpha=0.7)
        mean = quantities.mean(values)
        axes.plot([place - 0.15, place + 0.15], [mean, mean], color=variant.color, linewidth=4)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.annotate(f"{mean:.1f}", (place + 0.19, mean), va="center", fontsize=10, bbox=box)
    axes.set_xlim(-0.5, 1.6)
    axes.set_xticks([0, 1], [variant.label for variant in VARIANTS])
    axes.set_ylabel("test ROC AUC (%)")
    axes.set_title(f"{dataset.name}: each split")
