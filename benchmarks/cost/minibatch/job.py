"""Training on sampled neighbourhoods: steps a second, a new graph in every step.

Batches of seed nodes with their sampled neighbours (15 of each, then 10 of each neighbour; what
PyG's NeighborLoader gives) on Tolokers and on a generated power-law graph of a million edges. A
network of two attention layers (4 heads of 16 channels, layer normalisation, skip connections)
with gatv2_pyg's GATv2Conv, PyG's and PyG's GATConv, in turn. Batches are sampled before, and their
graphs are new to the layers in every step. The attention alone (the outputs of the linear maps
given) is timed in the same way. Before that the GATv2 layers get the same weights and must agree in
float64.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cost.minibatch import report
from benchmarks.cost.minibatch.report import KINDS, TIMED, TOLERANCE
from benchmarks.cost.problems.cases import CASES, SEED, build
from benchmarks.datasets.data import at_hand, load
from benchmarks.datasets.sampling import NeighbourSampler
from benchmarks.harness import options
from benchmarks.harness.measuring import timing
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Session
from benchmarks.layers.attention_alone import attention_alone, renewed
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import OURS, PYG_GATV2, Contestant
from benchmarks.layers.networks import ResidualGAT

GRAPHS = {"tolokers": "Tolokers", "power-law": "power-law"}
FANOUT = (15, 10)
SEEDS_PER_BATCH = 512
LEARNING_RATE = 0.003


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_names(parser, "--graphs", tuple(GRAPHS), "graph", "both, quick power-law")
    parser.add_argument(
        "--batches",
        type=options.whole(),
        metavar="N",
        help="sampled batches, each a step of a round (default: 8, quick 3)",
    )
    options.add_rounds(parser, "10 rounds over the batches, quick 3")
    options.add_scale(parser)
    options.add_common(parser, quick="one graph, 3 batches, 3 rounds")


@dataclass(frozen=True)
class Sampled:
    """A batch: features ``[N, F]``, edges ``[2, E]``, and the classes of the first rows."""

    x: Tensor
    edges: Tensor
    target: Tensor


@dataclass(frozen=True)
class Graph:
    """A graph with features and two classes."""

    name: str
    x: Tensor
    edge_index: Tensor
    y: Tensor


def load_graph(key: str, scale: float, data: Any) -> Graph:
    """A graph of :data:`GRAPHS`; a generated one has random features and classes."""
    if key == "tolokers":
        found = load("Tolokers", data).data
        return Graph("Tolokers", found.x, found.edge_index, found.y)
    problem = build(CASES[key].scaled(scale))
    rng = torch.Generator().manual_seed(SEED)
    y = torch.randint(2, (problem.num_src,), generator=rng)
    name = problem.case.label.split(",")[0]
    return Graph(name, problem.x, problem.edge_index, y)


def sample(graph: Graph, batches: int, device: str) -> list[Sampled]:
    """Batches of seed nodes with their neighbourhoods, the same on every machine."""
    sampler = NeighbourSampler(graph.edge_index, graph.x.size(0), FANOUT, SEED)
    rng = torch.Generator().manual_seed(SEED)
    found = []
    for _ in range(batches):
        seeds = torch.randperm(graph.x.size(0), generator=rng)[:SEEDS_PER_BATCH]
        part = sampler.sample(seeds)
        tensors = graph.x[part.nodes], part.edge_index, graph.y[seeds]
        found.append(Sampled(*(tensor.to(device) for tensor in tensors)))
    return found


def make_model(contestant: Contestant, in_channels: int, backend: str) -> ResidualGAT:
    """The network with a contestant's layer, the weights its own but of one seed."""
    torch.manual_seed(SEED)
    return ResidualGAT(
        contestant, in_channels, 2, layers=2, hidden=16, heads=4, dropout=0.0, backend=backend
    )


def loss_of(model: ResidualGAT, batch: Sampled, edges: Tensor) -> Tensor:
    """The cross-entropy of the seed nodes."""
    return F.cross_entropy(model(batch.x, edges)[: batch.target.numel()], batch.target)


def disagreement(batch: Sampled, device: str, backend: str) -> float:
    """Largest relative difference of loss and gradients to PyG's layer, in float64."""
    size = batch.x.size(1)
    batch = Sampled(batch.x.double(), batch.edges, batch.target)
    theirs = make_model(PYG_GATV2, size, backend).to(device).double()
    ours = make_model(OURS, size, backend).to(device).double()
    ours.load_state_dict(theirs.state_dict())
    found = []
    for model in (theirs, ours):
        loss = loss_of(model, batch, batch.edges)
        found.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    return max(
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
        for a, b in zip(*found, strict=True)
    )


Steps = Callable[[], None]


def training(
    contestant: Contestant, batches: Sequence[Sampled], device: str, backend: str
) -> Steps:
    """A training step on each batch, whose graph is a new one to the layers."""
    model = make_model(contestant, batches[0].x.size(1), backend).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def run() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, batch, renewed(batch.edges)).backward()
            optimizer.step()

    return run


def attention(
    contestant: Contestant, batches: Sequence[Sampled], device: str, backend: str
) -> Steps:
    """The attention of such steps, forward and backward."""
    steps = []
    for batch in batches:
        model = make_model(contestant, batch.x.size(1), backend).to(device).train()
        layers = list(model.convs)
        steps.append(attention_alone(layers, batch.x.size(0), batch.edges, fresh=True))

    def run() -> None:
        for step in steps:
            step()

    return run


def _times(
    what: str, who: Sequence[Contestant], batches: Sequence[Sampled], rounds: int, **common: Any
) -> dict[str, list[float]]:
    """Seconds of a step, a value for each round over the batches."""
    make = {"step": training, "attention": attention}[what]
    steps: dict[str, Steps] = {c.key: make(c, batches, **common) for c in who}
    found = timing.alternate(steps, rounds=rounds, warmup=1, device=common["device"])
    return {key: [s / len(batches) for s in times] for key, times in found.items()}


def _graphs(session: Session, args: argparse.Namespace, notes: list[str]) -> list[Graph]:
    """The graphs asked for (a missing one is an error), or those that can be had."""
    keys = session.choose(args.graphs, full=list(GRAPHS), quick=["power-law"])
    load_one = functools.partial(load_graph, scale=args.scale, data=args.data)
    if args.graphs:
        return [load_one(key) for key in keys]
    return at_hand({key: GRAPHS[key] for key in keys}, load_one, session.line, notes)


def run(session: Session, args: argparse.Namespace) -> Result:
    notes: list[str] = []
    graphs = _graphs(session, args, notes)
    number = session.choose(args.batches, full=8, quick=3)
    rounds = session.choose(args.rounds, full=10, quick=3)
    backend = resolve_backend(args.backend, session.device)
    common: dict[str, Any] = {"device": session.device, "backend": backend}
    store = session.store()
    data = []
    with session.progress("minibatch", len(graphs) * (1 + len(KINDS))) as bar:
        for graph in graphs:
            bar.say(f"sampling {graph.name}")
            batches = sample(graph, number, session.device)
            key = {"graph": graph.name, "batches": number, "rounds": rounds} | common
            agreement = store.unit(
                {"what": "agreement"} | key,
                functools.partial(disagreement, batches[0], **common),
            )
            bar.advance()
            who = [c for c in TIMED if c is not OURS or agreement <= TOLERANCE]
            seconds = {}
            for what in KINDS:
                bar.say(f"{graph.name}, {KINDS[what]}")
                seconds[what] = store.unit(
                    {"what": what, "models": [c.key for c in who]} | key,
                    functools.partial(_times, what, who, batches, rounds, **common),
                )
                bar.advance()
            data.append(
                {
                    "graph": graph.name,
                    "nodes": sum(batch.x.size(0) for batch in batches) / number,
                    "edges": sum(batch.edges.size(1) for batch in batches) / number,
                    "agreement_float64": agreement,
                    "seconds": seconds,
                }
            )
    settings = {
        "seed": SEED,
        "seed nodes": SEEDS_PER_BATCH,
        "neighbours": list(FANOUT),
        "batches": number,
        "rounds": rounds,
        "scale": args.scale,
        **common,
    }
    return report.result(data, settings, notes)
