"""Accuracy as random edges are added (Brody et al., 2022, section 4.2), GAT against GATv2.

A share p of |E| random edges, none of them in the graph, is added in both directions before
training, with new edges for each seed. Dynamic attention can learn to ignore them. Networks and
training are those of `citation` (Cora) and `heterophily` (Tolokers, where seed i takes split i).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.datasets.data import Dataset, load, load_or_stand_in
from benchmarks.harness import options, quantities
from benchmarks.harness.reporting import plots
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Session
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import FUSED_GAT_NOTE
from benchmarks.studies.node_classification import (
    FUSED_GAT_VARIANT,
    GATV2_VARIANT,
    Variant,
    recipe,
    train,
)

VARIANTS = (FUSED_GAT_VARIANT, GATV2_VARIANT)
NAMES = ("Cora", "Tolokers")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def _shares(text: str) -> list[float]:
    parse = options.real(0.0, 5.0)
    return sorted({parse(part) for part in text.split(",")})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(parser, "--datasets", NAMES, "data set", "both, quick Cora")
    parser.add_argument(
        "--noise",
        type=_shares,
        metavar="P,P,...",
        help="edges added, as shares of those there are (default: 0,0.1,...,0.5, quick 0,0.25,0.5)",
    )
    parser.add_argument(
        "--seeds",
        type=options.whole(),
        metavar="N",
        help="train with the seeds 0 ... N-1 (default: 10 on Cora, 5 on Tolokers, quick 2)",
    )
    parser.add_argument(
        "--epochs",
        type=options.whole(),
        metavar="N",
        help="training epochs (default: 200, quick 60)",
    )
    options.add_common(parser, quick="Cora, p 0, 0.25 and 0.5, 2 seeds, 60 epochs")


def add_random_edges(edge_index: Tensor, num_nodes: int, share: float, seed: int) -> Tensor:
    """The undirected ``edge_index [2, E]`` with ``share * E`` random edges more.

    New edges are distinct pairs of different nodes that the graph does not connect, each in both
    directions; at the end of the result.
    """
    wanted = round(share * edge_index.size(1) / 2)
    taken = edge_index[0] * num_nodes + edge_index[1]
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(0, dtype=torch.long)
    while found.numel() < wanted:
        i, j = torch.randint(num_nodes, (2, 2 * wanted), generator=generator)
        low, high = torch.minimum(i, j), torch.maximum(i, j)
        code = (low * num_nodes + high)[low != high]
        found = torch.unique(torch.cat([found, code[~torch.isin(code, taken)]]))
    found = found[torch.randperm(found.numel(), generator=generator)[:wanted]]
    pairs = torch.stack([found // num_nodes, found % num_nodes])
    return torch.cat([edge_index, pairs, pairs.flip(0)], dim=1)


def _train(
    variant: Any, dataset: Dataset, share: float, seed: int, split: int, **settings: Any
) -> dict[str, Any]:
    data = dataset.data
    edges = add_random_edges(data.edge_index, data.num_nodes, share, seed)
    return train(variant, dataset, seed=seed, split=split, edges=edges, **settings)


# With fewer seeds a standard deviation says little: the lowest and the highest are drawn.
ENOUGH_SEEDS = 5

Found = dict[tuple[str, str, float], list[dict[str, Any]]]


def run(session: Session, args: argparse.Namespace) -> Result:
    names = session.choose(args.datasets, full=list(NAMES), quick=["Cora"])
    shares = session.choose(args.noise, full=list(SHARES), quick=[0.0, 0.25, 0.5])
    epochs = session.choose(args.epochs, full=200, quick=60)
    datasets = [
        load_or_stand_in(name, args.data, session.line) if name == "Cora" else load(name, args.data)
        for name in names
    ]
    seeds = {
        name: session.choose(args.seeds, full=10 if name == "Cora" else 5, quick=2)
        for name in names
    }
    backend = resolve_backend(args.backend, session.device)
    store = session.store()
    found: Found = {}
    units = [
        (d, s, p, v)
        for d in datasets
        for s in range(seeds[d.name])
        for p in shares
        for v in VARIANTS
    ]
    with session.progress("noise", len(units)) as bar:
        for dataset, seed, share, variant in units:
            bar.say(f"{dataset.label}, p = {share:g}, {variant.label}, seed {seed}")
            masks = dataset.data.train_mask
            split = seed % masks.size(1) if masks.dim() == 2 else 0
            settings = {"seed": seed, "split": split, "share": share, "epochs": epochs}
            settings["backend"] = backend
            key = settings | {"data": dataset.label, "model": variant.key}
            work = functools.partial(_train, variant, dataset, device=session.device, **settings)
            found.setdefault((dataset.name, variant.key, share), []).append(store.unit(key, work))
            bar.advance()
    settings = {
        "data": [dataset.label for dataset in datasets],
        "p": shares,
        "seeds": [f"{name}: {number}" for name, number in seeds.items()],
        "epochs": epochs,
        "backend": backend,
        "device": session.device,
    }
    return result(datasets, found, settings)


def result(datasets: Sequence[Dataset], found: Found, settings: dict[str, Any]) -> Result:
    """The result of ``noise`` from its raw data, by data set, variant and share."""
    shares = settings["p"]
    seeds = {d.name: len(found[d.name, VARIANTS[0].key, shares[0]]) for d in datasets}
    return Result(
        title="Robustness to random edges",
        headline=_headline(datasets, found, shares),
        settings=settings,
        tables=[_table(dataset, found, shares, seeds[dataset.name]) for dataset in datasets],
        pictures=[_picture(datasets, found, shares, seeds)],
        notes=[FUSED_GAT_NOTE],
        data=[
            {"data": d, "model": m, "share": p, "seeds": units}
            for (d, m, p), units in found.items()
        ],
        stand_in=next((d.stand_in for d in datasets if d.stand_in), None),
    )


def _tests(found: Found, dataset: Dataset, variant: Any, share: float) -> list[float]:
    return [unit["test"] for unit in found[dataset.name, variant.key, share]]


def _table(dataset: Dataset, found: Found, shares: list[float], seeds: int) -> Table:
    rows = [
        [
            f"{share:g}",
            *(quantities.percent(_tests(found, dataset, v, share)) for v in VARIANTS),
        ]
        for share in shares
    ]
    return Table(
        f"{dataset.name}: {recipe(dataset.name).metric_name}",
        ["edges added (p)", *(v.label for v in VARIANTS)],
        rows,
        note=f"Mean ± standard deviation over {quantities.count(seeds, 'seed')}.",
    )


def _headline(datasets: Sequence[Dataset], found: Found, shares: list[float]) -> str:
    parts = []
    for dataset in datasets:
        lost = []
        for variant in VARIANTS:
            first, last = (_tests(found, dataset, variant, s) for s in (shares[0], shares[-1]))
            lost.append([100 * (a - b) for a, b in zip(first, last, strict=True)])
        means = [quantities.mean(losses) for losses in lost]
        bands = [_band(losses) for losses in lost]
        apart = max(low for low, _ in bands) > min(high for _, high in bands)
        seeds = len(lost[0])
        if apart and seeds >= ENOUGH_SEEDS:
            losses = [f"{v.label} loses {m:.1f}" for v, m in zip(VARIANTS, means, strict=True)]
            text = f"{', '.join(losses)} points"
        else:
            text = (
                f"GAT and GATv2 lose {min(means):.1f} to {max(means):.1f} points (no order to be "
                f"seen over {quantities.count(seeds, 'seed')})"
            )
        parts.append(f"{dataset.label}: {text}")
    return f"From p = {shares[0]:g} to p = {shares[-1]:g}. {'; '.join(parts)}."


def _band(values: list[float]) -> tuple[float, float]:
    """Mean less and plus standard deviation; lowest and highest where seeds are few."""
    if len(values) < ENOUGH_SEEDS:
        return min(values), max(values)
    centre, spread = quantities.mean(values), quantities.std(values)
    return centre - spread, centre + spread


def _bands_text(seeds: Collection[int]) -> str:
    few = [number < ENOUGH_SEEDS for number in seeds]
    if all(few):
        return "from the lowest to the highest seed"
    several = "one standard deviation to each side"
    few_text = f", from the lowest to the highest seed where they are fewer than {ENOUGH_SEEDS}"
    return several + few_text if any(few) else several


def _picture(
    datasets: Sequence[Dataset], found: Found, shares: list[float], seeds: dict[str, int]
) -> Picture:
    with plots.style():
        figure, panels = plots.panels(len(datasets), size=(5.2, 3.6))
        for axes, dataset in zip(panels, datasets, strict=True):
            ends: list[tuple[float, Variant]] = []
            for variant in VARIANTS:
                values = [
                    [100 * test for test in _tests(found, dataset, variant, share)]
                    for share in shares
                ]
                means = [quantities.mean(v) for v in values]
                lows, highs = zip(*map(_band, values), strict=True)
                plots.band(
                    axes,
                    shares,
                    means,
                    lows,
                    highs,
                    color=variant.color,
                    label=variant.label,
                )
                ends.append((means[-1], variant))
            # Above and below, so that two labels at one height are both legible.
            for (end, variant), side in zip(
                sorted(ends, key=lambda end: end[0]), ("top", "bottom"), strict=True
            ):
                axes.annotate(
                    variant.label,
                    (shares[-1], end),
                    xytext=(7, 0),
                    textcoords="offset points",
                    va=side,
                    color=variant.color,
                    fontweight="bold",
                )
            axes.set_xlim(right=shares[-1] + 0.22 * ((shares[-1] - shares[0]) or 1))
            axes.set_xticks(shares)
            axes.set_title(dataset.name)
            axes.set_xlabel("random edges added, share p of |E|")
            axes.set_ylabel(recipe(dataset.name).metric_name)
    counts = ", ".join(
        f"{quantities.count(number, 'seed')} on {name}" for name, number in seeds.items()
    )
    return Picture(
        figure,
        f"Mean over {counts}; bands: {_bands_text(seeds.values())}.",
        "Test score of GAT and GATv2 against the share of random edges added",
    )
