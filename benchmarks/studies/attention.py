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
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Bar, Session
from benchmarks.layers.contestants import Contestant
from benchmarks.layers.networks import TwoLayerGAT
from benchmarks.studies import attention_report
from benchmarks.studies.attention_report import CONTESTANTS, DRAWN_SEED, LOOKUP_HEADS, drawn_paper
from benchmarks.studies.lookup_task import RECIPE, LookupModel, LookupTask
from benchmarks.studies.training import NodeTask, fit
from gatv2_pyg.attention import (
    AttentionWeights,
    attention_matrix,
    collect_attention,
    mean_attention_entropy,
    rank_agreement,
)

MEASURED_GRAPHS = 100
CORA_RATE, CORA_DECAY = 0.005, 5e-4
MAX_PATHS = 10**6


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
    options.add_common(parser, quick="1 seed, 100 epochs on Cora, at most 20 on DictionaryLookup")


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
    model.load_state_dict(found.state or {})
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
    model.load_state_dict(found.state or {})
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
    found: attention_report.Found = {}
    with session.progress("attention", job.total()) as bar:
        for heads in LOOKUP_HEADS:
            found[f"lookup-{heads}"] = {
                c.key: [job.lookup(bar, c, heads, seed) for seed in range(job.seeds)]
                for c in CONTESTANTS
            }
        found["cora"] = {
            c.key: [job.cora(bar, c, seed) for seed in range(job.seeds)] for c in CONTESTANTS
        }
    settings = {
        "seeds": list(range(job.seeds)),
        "k": job.k,
        "epochs on Cora": job.epochs,
        "epochs on DictionaryLookup, at most": job.lookup_epochs,
        "backend": args.backend,
        "device": session.device,
    }
    return attention_report.result(job.dataset, found, settings)
