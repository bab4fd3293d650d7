"""Tables and pictures of ``attention``, made from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.datasets.data import Dataset
from benchmarks.harness import quantities
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.layers.contestants import GAT, OURS, Contestant
from benchmarks.studies import attention_plots

CONTESTANTS = (GAT, OURS)
LOOKUP_HEADS = (1, 8)
# Of the models whose attention is drawn.
DRAWN_SEED = 0
# In the order of the data set's labels.
CORA_TOPICS = (
    "theory",
    "reinforcement learning",
    "genetic algorithms",
    "neural networks",
    "probabilistic methods",
    "case based",
    "rule learning",
)
# Of the paper whose neighbourhood is drawn.
LEAST_NEIGHBOURS, MOST_NEIGHBOURS = 8, 12

# Trainings by study and contestant.
Found = dict[str, dict[str, list[dict[str, Any]]]]
# Its name, the key of its study, the index of the layer.
Case = tuple[str, str, int]


def drawn_paper(data: Any) -> int:
    """The paper whose neighbourhood is drawn, chosen by the graph alone.

    Of the test papers with 8 to 12 neighbours (any papers if there is none), the one whose
    neighbours have the most classes; the first of equals.
    """
    source, target = data.edge_index.cpu()
    classes = torch.zeros(data.num_nodes, int(data.y.max()) + 1)
    classes[target, data.y.cpu()[source]] = 1
    degree = torch.bincount(target, minlength=data.num_nodes)
    fits = (degree >= LEAST_NEIGHBOURS) & (degree <= MOST_NEIGHBOURS) & data.test_mask.cpu()
    fits = fits if bool(fits.any()) else degree > 0
    return int((classes.sum(1) * fits).argmax())


def _cases(dataset: Dataset, settings: Mapping[str, Any]) -> list[Case]:
    """All measured layers."""
    plural = {1: "1 head", 8: "8 heads"}
    return [
        *(
            (f"DictionaryLookup k={settings['k']}, {plural[heads]}", f"lookup-{heads}", 0)
            for heads in LOOKUP_HEADS
        ),
        (f"{dataset.name}, layer 1", "cora", 0),
        (f"{dataset.name}, layer 2", "cora", 1),
    ]


def _by_seed(units: list[dict[str, Any]], layer: int, measure: str) -> list[float]:
    """Mean over heads, for each seed."""
    return [quantities.mean(unit["layers"][layer][measure]) for unit in units]


def _spread(values: list[float], digits: int = 3) -> str:
    text = f"{quantities.mean(values):.{digits}f}"
    return f"{text} ± {quantities.std(values):.{digits}f}" if len(values) > 1 else text


def _rows(found: Found, cases: Sequence[Case]) -> list[list[str]]:
    """Means over heads and seeds of every layer that was measured."""
    return [
        [
            f"{name}: {contestant.label}",
            quantities.percent([unit["test"] for unit in found[study][contestant.key]]),
            *(
                _spread(_by_seed(found[study][contestant.key], layer, measure))
                for measure in ("tau", "entropy", "normalized_entropy")
            ),
        ]
        for name, study, layer in cases
        for contestant in CONTESTANTS
    ]


def _each_head(found: Found, cases: Sequence[Case], title: str, measure: str) -> Table:
    """A measure of every head of the models of seed 0."""
    most = max(LOOKUP_HEADS)
    rows = []
    for name, study, layer in cases:
        for contestant in CONTESTANTS:
            values = found[study][contestant.key][DRAWN_SEED]["layers"][layer][measure]
            cells = [f"{value:.3f}" for value in values]
            blanks = [""] * (most - len(cells))
            rows.append([f"{name}: {contestant.label}", *cells, *blanks])
    heads = [f"head {number}" for number in range(1, most + 1)]
    return Table(f"{title} of each head, seed {DRAWN_SEED}", ["layer", *heads], rows)


def result(dataset: Dataset, found: Found, settings: dict[str, Any]) -> Result:
    """The result of ``attention`` from its raw data, by study and layer."""
    cases = _cases(dataset, settings)
    number = len(settings["seeds"])
    spread = ", ± standard deviation over the seeds" if number > 1 else ""
    shared = found["cora"][OURS.key][0]["layers"][0]["median_shared_keys"]
    label = dataset.label
    return Result(
        title="What attention does: static and dynamic ranking",
        headline=_headline(label, found, settings),
        settings=settings,
        tables=[
            Table(
                "Rank agreement and entropy of trained attention",
                ["layer", "test accuracy (%)", "Kendall τ", "entropy (nats)", "entropy / ln(keys)"],
                _rows(found, cases),
                note=f"Mean over heads and {quantities.count(number, 'seed')}{spread}. τ is the "
                "mean over pairs of queries that share at least two keys: 1 if every query ranks "
                "the keys alike. Entropy is the mean over queries.",
            ),
            _each_head(found, cases, "Kendall τ", "tau"),
            _each_head(found, cases, "Entropy / ln(keys)", "normalized_entropy"),
        ],
        pictures=_pictures(dataset, found, cases, number),
        data=found,
        notes=[
            _uniformity(label, found),
            "GAT is static by theorem 1 of Brody et al. (2022): its τ of 1 is no finding about the "
            "data but a check of the measure.",
            f"On {label} half of the compared pairs of papers share at most {shared} keys "
            "(themselves included where they are linked), so a τ there is often that of a single "
            "pair of keys.",
        ],
        stand_in=dataset.stand_in,
    )


def _uniformity(label: str, found: Found) -> str:
    ratios = [
        value
        for units in found["cora"].values()
        for unit in units
        for layer in unit["layers"]
        for value in layer["normalized_entropy"]
    ]
    return (
        f"On {label} the entropy of every head, layer and model is between "
        f"{min(ratios):.4f} and {max(ratios):.4f} of that of uniform attention."
    )


def _headline(label: str, found: Found, settings: Mapping[str, Any]) -> str:
    def tau(study: str, contestant: Contestant, layer: int = 0) -> str:
        return _spread(_by_seed(found[study][contestant.key], layer, "tau"))

    def test(study: str, contestant: Contestant) -> str:
        return quantities.percent([unit["test"] for unit in found[study][contestant.key]])

    return (
        "Rank agreement of queries (Kendall τ) on DictionaryLookup with "
        f"k = {settings['k']} and one head: GAT {tau('lookup-1', GAT)} at "
        f"{test('lookup-1', GAT)} % test accuracy, GATv2 "
        f"{tau('lookup-1', OURS)} at {test('lookup-1', OURS)} %. On {label}: GAT "
        f"{tau('cora', GAT)} in layer 1 and {tau('cora', GAT, 1)} in layer 2 at "
        f"{test('cora', GAT)} %, GATv2 {tau('cora', OURS)} and {tau('cora', OURS, 1)} at "
        f"{test('cora', OURS)} %."
    )


def _pictures(dataset: Dataset, found: Found, cases: Sequence[Case], seeds: int) -> list[Picture]:
    one_head = {
        c: torch.tensor(found["lookup-1"][c.key][DRAWN_SEED]["matrix"]) for c in CONTESTANTS
    }
    spread = [
        (
            name,
            {c: [unit["layers"][layer] for unit in found[study][c.key]] for c in CONTESTANTS},
        )
        for name, study, layer in cases
    ]
    data = dataset.data
    paper = drawn_paper(data)
    attention: dict[Contestant, list[dict[str, Any]]] = {
        c: found["cora"][c.key][DRAWN_SEED]["paper"] for c in CONTESTANTS
    }
    return [
        attention_plots.heat_maps(one_head),
        attention_plots.heads(spread, seeds),
        attention_plots.neighbourhood(
            paper,
            data.y.tolist(),
            None if dataset.stand_in else CORA_TOPICS,
            _links_among(data.edge_index, paper),
            attention,
        ),
    ]


def _links_among(edge_index: Tensor, paper: int) -> list[tuple[int, int]]:
    """Links between neighbours of a paper, once each."""
    source, target = edge_index.cpu()
    near = source[target == paper]
    near = near[near != paper]
    inside = torch.isin(source, near) & torch.isin(target, near) & (source < target)
    return [(int(a), int(b)) for a, b in edge_index.cpu()[:, inside].t()]
