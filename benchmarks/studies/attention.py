"""What attention does in trained models: static or dynamic ranking, entropy, and pictures of it.

Trains GAT and GATv2 on DictionaryLookup (one and eight heads) and in the two-layer set-up on Cora,
collects the attention of every layer in evaluation mode, in float64, and measures for each head
- rank agreement: Kendall's tau-b between the rankings that two queries give to the keys they share
  (1: every query ranks the keys alike, static attention; Brody et al., 2022, section 3);
- entropy of a query's attention, in nats and divided by the logarithm of its number of keys
  (0: a single key, 1: uniform).
Draws the heat maps of the paper's Figure 1 from the trained models, the measures of all heads, and
the attention of one Cora paper to its neighbours. The measures are those of gatv2_pyg.attention.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.datasets.data import Dataset, load_or_stand_in
from benchmarks.harness import options, quantities
from benchmarks.harness.reporting.result import Picture, Result, Table
from benchmarks.harness.session import Bar, Session
from benchmarks.layers.contestants import GAT, OURS, Contestant
from benchmarks.layers.networks import TwoLayerGAT
from benchmarks.studies import attention_plots
from benchmarks.studies.lookup_task import RECIPE, LookupModel, LookupTask
from benchmarks.studies.training import NodeTask, fit
from gatv2_pyg.attention import (
    AttentionWeights,
    attention_matrix,
    collect_attention,
    mean_attention_entropy,
    rank_agreement,
)

CONTESTANTS = (GAT, OURS)
LOOKUP_HEADS = (1, 8)
MEASURED_GRAPHS = 100
# Of the models whose attention is drawn.
DRAWN_SEED = 0
CORA_RATE, CORA_DECAY = 0.005, 5e-4
MAX_PATHS = 10**6
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_training(parser, seeds="5, quick 1", epochs="200 on Cora, quick 100")
    parser.add_argument(
        "--k", type=options.whole(2), default=10, metavar="N", help="keys (default: 10)"
    )
    parser.add_argument(
        "--lookup-epochs",
        type=options.whole(),
        metavar="N",
        help="most epochs on DictionaryLookup; a model that fits all training graphs stops "
        "earlier (default: 60, quick 20)",
    )
    options.add_quick(parser, "1 seed, 100 epochs on Cora, at most 20 on DictionaryLookup")
    options.add_run(parser)
    options.add_data(parser)
    options.add_backend(parser)


def measures(layer: AttentionWeights) -> dict[str, Any]:
    """The measures of every head of a layer, as JSON."""
    edges, alpha = layer.edge_index, layer.alpha
    agreement = rank_agreement(edges, alpha, num_pairs=MAX_PATHS)
    return {
        "layer": layer.name,
        "tau": _rounded(agreement.mean()),
        "query_pairs": agreement.queries.size(1),
        "median_shared_keys": int(agreement.num_shared.median()),
        "entropy": _rounded(mean_attention_entropy(edges, alpha)),
        "normalized_entropy": _rounded(mean_attention_entropy(edges, alpha, normalize=True)),
    }


def _rounded(values: Tensor) -> list[float]:
    return [quantities.rounded(value) for value in values.tolist()]


def attention_of(model: nn.Module, *inputs: Any) -> list[AttentionWeights]:
    """The attention of every layer in evaluation mode, in float64."""
    with torch.no_grad(), collect_attention(model.double().eval()) as layers:
        model(*inputs)
    return layers


def lookup_unit(
    contestant: Contestant, heads: int, k: int, seed: int, epochs: int, device: str, backend: str
) -> dict[str, Any]:
    """Trains on DictionaryLookup and measures the layer on test graphs."""
    torch.manual_seed(seed)
    task = LookupTask(k, seed=seed, device=device)
    chosen = {"backend": backend, "share_weights": True}
    model = LookupModel(contestant, k, heads=heads, **chosen).to(device)
    found = fit(
        model,
        task,
        epochs=epochs,
        evaluate_every=2,
        stop=lambda scores: scores["train"] == 1,
        keep_best=True,
        **RECIPE,
    )
    model.load_state_dict(found.state)
    graphs = task.test[:MEASURED_GRAPHS]
    (layer,) = attention_of(model, graphs, task.edges(graphs.size(0)))
    drawn = {}
    if seed == DRAWN_SEED and heads == 1:
        (first,) = attention_of(model, graphs[:1], task.edges(1))
        (matrix,) = attention_matrix(first.edge_index, first.alpha, size=(k, k))
        drawn["matrix"] = [_rounded(row) for row in matrix]
    return {
        "train": found.best["train"],
        "test": found.best["test"],
        "epoch": found.best_epoch,
        "layers": [measures(layer)],
        **drawn,
    }


def cora_unit(
    contestant: Contestant, dataset: Dataset, seed: int, epochs: int, device: str, backend: str
) -> dict[str, Any]:
    """Trains on Cora and measures both layers; the attention of one paper for the drawing."""
    torch.manual_seed(seed)
    data = dataset.data
    model = TwoLayerGAT(contestant, data.num_features, dataset.num_classes, backend=backend)
    model = model.to(device)
    task = NodeTask(data, data.edge_index, device)
    found = fit(model, task, epochs=epochs, lr=CORA_RATE, weight_decay=CORA_DECAY, keep_best=True)
    model.load_state_dict(found.state)
    layers = attention_of(model, data.x.to(device).double(), data.edge_index.to(device))
    drawn = {}
    if seed == DRAWN_SEED:
        paper = drawn_paper(data)
        drawn["paper"] = [_attention_to(layer, paper) for layer in layers]
    return {
        "test": found.best["test"],
        "epoch": found.best_epoch,
        "layers": [measures(layer) for layer in layers],
        **drawn,
    }


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


def _attention_to(layer: AttentionWeights, paper: int) -> dict[str, list[float]]:
    edges = (layer.edge_index[1] == paper).nonzero().squeeze(1)
    return {
        "from": layer.edge_index[0, edges].tolist(),
        "mean_alpha": _rounded(layer.alpha[edges].mean(1)),
    }


class _Run:
    """The units of one run, each kept as it is finished."""

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        self.session, self.args, self.k = session, args, args.k
        self.seeds = session.choose(args.seeds, full=5, quick=1)
        self.epochs = session.choose(args.epochs, full=200, quick=100)
        self.lookup_epochs = session.choose(args.lookup_epochs, full=60, quick=20)
        self.dataset = load_or_stand_in("Cora", args.data, session.line)
        self.store = session.store()

    def total(self) -> int:
        return self.seeds * len(CONTESTANTS) * (len(LOOKUP_HEADS) + 1)

    def _key(self, what: str, contestant: Contestant, seed: int, **more: Any) -> dict[str, Any]:
        key = {"what": what, "model": contestant.key, "seed": seed, "backend": self.args.backend}
        return key | more

    def lookup(self, bar: Bar, contestant: Contestant, heads: int, seed: int) -> dict[str, Any]:
        epochs, device, backend = self.lookup_epochs, self.session.device, self.args.backend
        bar.say(f"DictionaryLookup, {contestant.label}, {heads} heads, seed {seed}")
        found = self.store.unit(
            self._key("lookup", contestant, seed, heads=heads, k=self.k, epochs=epochs),
            lambda: lookup_unit(contestant, heads, self.k, seed, epochs, device, backend),
        )
        bar.advance()
        return found

    def cora(self, bar: Bar, contestant: Contestant, seed: int) -> dict[str, Any]:
        epochs, device, backend = self.epochs, self.session.device, self.args.backend
        bar.say(f"{self.dataset.label}, {contestant.label}, seed {seed}")
        stand_in = self.dataset.stand_in
        found = self.store.unit(
            self._key("cora", contestant, seed, stand_in=stand_in, epochs=epochs),
            lambda: cora_unit(contestant, self.dataset, seed, epochs, device, backend),
        )
        bar.advance()
        return found


def run(session: Session, args: argparse.Namespace) -> Result:
    job = _Run(session, args)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with session.progress("attention", job.total()) as bar:
        for heads in LOOKUP_HEADS:
            found[f"lookup-{heads}"] = {
                c.key: [job.lookup(bar, c, heads, seed) for seed in range(job.seeds)]
                for c in CONTESTANTS
            }
        found["cora"] = {
            c.key: [job.cora(bar, c, seed) for seed in range(job.seeds)] for c in CONTESTANTS
        }
    return _result(job, found)


def _cases(job: _Run) -> list[tuple[str, str, int]]:
    """(name, key of the study, index of the layer) of all measured layers."""
    plural = {1: "1 head", 8: "8 heads"}
    return [
        *(
            (f"DictionaryLookup k={job.k}, {plural[heads]}", f"lookup-{heads}", 0)
            for heads in LOOKUP_HEADS
        ),
        (f"{job.dataset.label}, layer 1", "cora", 0),
        (f"{job.dataset.label}, layer 2", "cora", 1),
    ]


def _by_seed(units: list[dict[str, Any]], layer: int, measure: str) -> list[float]:
    """Mean over heads, for each seed."""
    return [quantities.mean(unit["layers"][layer][measure]) for unit in units]


def _spread(values: list[float], digits: int = 3) -> str:
    text = f"{quantities.mean(values):.{digits}f}"
    return f"{text} ± {quantities.std(values):.{digits}f}" if len(values) > 1 else text


def _result(job: _Run, found: dict[str, dict[str, list[dict[str, Any]]]]) -> Result:
    cases = _cases(job)
    rows, tau_rows, entropy_rows = [], [], []
    for name, study, layer in cases:
        for contestant in CONTESTANTS:
            units = found[study][contestant.key]
            first = units[0]["layers"][layer]
            label = f"{name}: {contestant.label}"
            rows.append(
                [
                    label,
                    quantities.percent([unit["test"] for unit in units]),
                    _spread(_by_seed(units, layer, "tau")),
                    _spread(_by_seed(units, layer, "entropy")),
                    _spread(_by_seed(units, layer, "normalized_entropy")),
                ]
            )
            blanks = [""] * (max(LOOKUP_HEADS) - len(first["tau"]))
            tau_rows.append([label, *(f"{value:.3f}" for value in first["tau"]), *blanks])
            entropies = first["normalized_entropy"]
            entropy_rows.append([label, *(f"{value:.3f}" for value in entropies), *blanks])

    seeds = f"{job.seeds} seeds" if job.seeds > 1 else "1 seed"
    spread = ", ± standard deviation over the seeds" if job.seeds > 1 else ""
    heads = ["layer", *(f"head {h}" for h in range(1, max(LOOKUP_HEADS) + 1))]
    tables = [
        Table(
            "Rank agreement and entropy of trained attention",
            ["layer", "test accuracy (%)", "Kendall τ", "entropy (nats)", "entropy / ln(keys)"],
            rows,
            note=f"Mean over heads and {seeds}{spread}. τ is the mean over pairs of queries that "
            "share at least two keys: 1 if every query ranks the keys alike. Entropy is the mean "
            "over queries.",
        ),
        Table("Kendall τ of each head, seed 0", heads, tau_rows),
        Table("Entropy / ln(keys) of each head, seed 0", heads, entropy_rows),
    ]
    return Result(
        title="What attention does: static and dynamic ranking",
        headline=_headline(job, found),
        settings={
            "seeds": list(range(job.seeds)),
            "k": job.k,
            "epochs on Cora": job.epochs,
            "epochs on DictionaryLookup, at most": job.lookup_epochs,
            "backend": job.args.backend,
            "device": job.session.device,
        },
        tables=tables,
        pictures=_pictures(job, found, cases),
        data=found,
        notes=[
            _uniformity(job, found),
            "GAT is static by theorem 1 of Brody et al. (2022): its τ of 1 is no finding about the "
            "data but a check of the measure.",
            f"On {job.dataset.label} half of the compared pairs of papers share at most "
            f"{found['cora'][OURS.key][0]['layers'][0]['median_shared_keys']} keys (themselves "
            "included where they are linked), so a τ there is often that of a single pair of keys.",
        ],
        stand_in=job.dataset.stand_in,
    )


def _uniformity(job: _Run, found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    ratios = [
        value
        for units in found["cora"].values()
        for unit in units
        for layer in unit["layers"]
        for value in layer["normalized_entropy"]
    ]
    return (
        f"On {job.dataset.label} the entropy of every head, layer and model is between "
        f"{min(ratios):.4f} and {max(ratios):.4f} of that of uniform attention."
    )


def _headline(job: _Run, found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    def tau(study: str, contestant: Contestant, layer: int = 0) -> str:
        return _spread(_by_seed(found[study][contestant.key], layer, "tau"))

    def test(study: str, contestant: Contestant) -> str:
        return quantities.percent([unit["test"] for unit in found[study][contestant.key]])

    return (
        f"Rank agreement of queries (Kendall τ) on DictionaryLookup with k = {job.k} and one head: "
        f"GAT {tau('lookup-1', GAT)} at {test('lookup-1', GAT)} % test accuracy, GATv2 "
        f"{tau('lookup-1', OURS)} at {test('lookup-1', OURS)} %. On {job.dataset.label}: GAT "
        f"{tau('cora', GAT)} in layer 1 and {tau('cora', GAT, 1)} in layer 2 at "
        f"{test('cora', GAT)} %, GATv2 {tau('cora', OURS)} and {tau('cora', OURS, 1)} at "
        f"{test('cora', OURS)} %."
    )


def _pictures(
    job: _Run, found: dict[str, dict[str, list[dict[str, Any]]]], cases: list[tuple[str, str, int]]
) -> list[Picture]:
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
    data = job.dataset.data
    paper = drawn_paper(data)
    attention: dict[Contestant, list[dict[str, Any]]] = {
        c: found["cora"][c.key][DRAWN_SEED]["paper"] for c in CONTESTANTS
    }
    return [
        attention_plots.heat_maps(one_head),
        attention_plots.heads(spread, job.seeds),
        attention_plots.neighbourhood(
            paper,
            data.y.tolist(),
            None if job.dataset.stand_in else CORA_TOPICS,
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
