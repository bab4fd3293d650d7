"""Test accuracy on Cora, CiteSeer and PubMed over many seeds, GAT against GATv2.

The networks and training of the GAT paper on the public split, checkpoint chosen on validation,
for GAT (PyG's GATConv), GATv2 (gatv2_pyg) with separate and with shared weights, and PyG's
GATv2Conv in the same loop, with the published figures beside. These graphs hardly need dynamic
attention: expect little between GAT and GATv2.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from benchmarks.datasets.data import PLANETOID, Dataset, at_hand, load, load_or_stand_in
from benchmarks.harness import options, quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.palette import GREY
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.studies.node_classification import (
    GAT_VARIANT,
    GATV2_VARIANT,
    PYG_VARIANT,
    SHARED_VARIANT,
    Variant,
    recipe,
    train,
)

VARIANTS = (GAT_VARIANT, GATV2_VARIANT, SHARED_VARIANT, PYG_VARIANT)

# Published test accuracies (%): Veličković et al. (2018), table 2; a known reproduction of GATv2.
PUBLISHED: dict[tuple[str, str], tuple[float, float | None, str]] = {
    ("Cora", "gat"): (83.0, 0.7, "GAT paper"),
    ("CiteSeer", "gat"): (72.5, 0.7, "GAT paper"),
    ("PubMed", "gat"): (79.0, 0.3, "GAT paper"),
    ("Cora", "gatv2"): (82.1, None, "reproduction"),
}

# Trainings by data set and variant.
Found = dict[tuple[str, str], list[dict[str, Any]]]

# Points of accuracy; an interval of the difference that stays within them is a tie.
TIE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(
        parser, "--datasets", PLANETOID, "data set", "all that can be had, quick Cora"
    )
    options.add_training(parser, seeds="20, quick 2", epochs="200, quick 100")
    options.add_common(parser, quick="Cora, 2 seeds, 100 epochs")


def _datasets(session: Session, args: argparse.Namespace, notes: list[str]) -> list[Dataset]:
    """The data sets asked for (a missing one is an error), or those that can be had."""
    if args.datasets:
        return [load(name, args.data) for name in args.datasets]
    found = [load_or_stand_in("Cora", args.data, session.line)]
    names = () if session.quick else PLANETOID[1:]
    load_one = functools.partial(load, root=args.data)
    return found + at_hand({name: name for name in names}, load_one, session.line, notes)


def run(session: Session, args: argparse.Namespace) -> Result:
    notes: list[str] = []
    datasets = _datasets(session, args, notes)
    seeds = session.choose(args.seeds, full=20, quick=2)
    epochs = session.choose(args.epochs, full=200, quick=100)
    backend = resolve_backend(args.backend, session.device)
    store = session.store()
    found: Found = {}
    units = [(d, s, v) for d in datasets for s in range(seeds) for v in VARIANTS]
    with session.progress("citation", len(units)) as bar:
        for dataset, seed, variant in units:
            bar.say(f"{dataset.label}, {variant.label}, seed {seed}")
            settings = {"seed": seed, "epochs": epochs, "backend": backend}
            key = settings | {"data": dataset.label, "model": variant.key}
            work = functools.partial(train, variant, dataset, device=session.device, **settings)
            found.setdefault((dataset.name, variant.key), []).append(store.unit(key, work))
            bar.advance()
    settings = {
        "data": [dataset.label for dataset in datasets],
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "learning rate": [recipe(dataset.name).lr for dataset in datasets],
        "weight decay": [recipe(dataset.name).weight_decay for dataset in datasets],
        "backend": backend,
        "device": session.device,
    }
    return result(datasets, found, settings, notes)


def result(
    datasets: Sequence[Dataset], found: Found, settings: dict[str, Any], notes: Sequence[str]
) -> Result:
    """The result of ``citation`` from its raw data, by data set and variant."""
    seeds = len(settings["seeds"])
    return Result(
        title="Citation graphs: GAT and GATv2 over many seeds",
        headline=_headline(datasets, found, seeds),
        settings=settings,
        tables=[_table(datasets, found, seeds)],
        pictures=[_picture(datasets, found, seeds)],
        data=[{"data": d, "model": m, "seeds": units} for (d, m), units in found.items()],
        notes=list(notes),
        stand_in=next((d.stand_in for d in datasets if d.stand_in), None),
    )


def _tests(units: list[dict[str, Any]]) -> list[float]:
    return [unit["test"] for unit in units]


def _published(dataset: Dataset, variant: Variant) -> str:
    value, spread, source = PUBLISHED.get((dataset.name, variant.key), (None, None, ""))
    if value is None or dataset.stand_in:
        return "–"
    return f"{value:.1f}{f' ± {spread:.1f}' if spread is not None else ''} ({source})"


def _table(datasets: Sequence[Dataset], found: Found, seeds: int) -> Table:
    rows = []
    for variant in VARIANTS:
        row = [variant.label]
        for dataset in datasets:
            units = found[dataset.name, variant.key]
            row += [quantities.percent(_tests(units)), _published(dataset, variant)]
        rows.append(row)
    columns = ["", *(c for d in datasets for c in (f"{d.name} (%)", "published"))]
    return Table(
        "Test accuracy on the public split",
        columns,
        rows,
        note=f"Mean ± standard deviation over {quantities.count(seeds, 'seed')}. Headline: GATv2 "
        "less GAT, with Welch's interval.",
    )


def _headline(datasets: Sequence[Dataset], found: Found, seeds: int) -> str:
    parts = []
    for dataset in datasets:
        gat = _tests(found[dataset.name, "gat"])
        gatv2 = _tests(found[dataset.name, "gatv2"])
        parts.append(
            f"{dataset.label}: GAT {quantities.percent(gat)} %, GATv2 {quantities.percent(gatv2)} "
            f"% ({_verdict(gat, gatv2)})"
        )
    return f"{'; '.join(parts)}; {quantities.count(seeds, 'seed')}."


def _verdict(gat: list[float], gatv2: list[float]) -> str:
    """The difference of the means with its interval, and what that allows to say."""
    text = f"GATv2 {100 * (quantities.mean(gatv2) - quantities.mean(gat)):+.1f} points"
    interval = quantities.difference(gat, gatv2)
    if interval is None:
        return text
    low, high = (100 * end for end in interval)
    text += f", 95 % interval {low:.1f} to {high:.1f}"
    if low <= 0 <= high:
        return f"{text}: no difference seen"
    tie = low >= -TIE and high <= TIE
    return f"{text}: a tie within {quantities.count(TIE, 'point')}" if tie else text


def _picture(datasets: Sequence[Dataset], found: Found, seeds: int) -> Picture:
    with plots.style():
        figure, panels = plots.panels(len(datasets), size=(4.6, 2.9))
        for number, (axes, dataset) in enumerate(zip(panels, datasets, strict=True)):
            axes.set_title(dataset.name)
            for place, variant in enumerate(VARIANTS[::-1]):
                _draw(axes, place, dataset, variant, _tests(found[dataset.name, variant.key]))
            axes.set_ylim(-0.6, len(VARIANTS) - 0.3)
            axes.set_yticks(range(len(VARIANTS)), [v.label for v in VARIANTS[::-1]])
            axes.tick_params(labelleft=number == 0)
            axes.set_xlabel("test accuracy (%)")
            axes.grid(axis="y", visible=False)
            axes.margins(x=0.12)
    return Picture(
        figure,
        f"Test accuracy of {quantities.count(seeds, 'seed')} each (dots); mean and standard "
        "deviation (marker and bar below). Grey: published figures, with the standard deviation "
        "where one is given.",
        "Test accuracies of GAT and GATv2 per data set",
    )


def _draw(axes: Any, place: int, dataset: Dataset, variant: Variant, tests: list[float]) -> None:
    values = [100 * test for test in tests]
    heights = [place + 0.12 * ((i % 5) / 4 + 0.5) for i in range(len(values))]
    axes.plot(values, heights, "o", color=variant.color, markersize=4, alpha=0.55)
    centre, spread = quantities.mean(values), quantities.std(values)
    axes.errorbar(centre, place, xerr=spread, fmt="D", color=variant.color, capsize=4, markersize=7)
    published = PUBLISHED.get((dataset.name, variant.key))
    if published and not dataset.stand_in:
        value, reach, source = published
        axes.errorbar(value, place - 0.2, xerr=reach, fmt="s", mfc="none", color=GREY, capsize=4)
        axes.annotate(
            source,
            (value, place - 0.2),
            xytext=(0, -12),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=GREY,
        )
