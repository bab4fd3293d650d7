"""The main job: accuracy, time and memory of four attention layers on Cora.

The two-layer set-up of the GAT paper (8 heads of 8 channels, ELU, one output head, dropout 0.6
on inputs and attention, Adam with learning rate 0.005 and weight decay 5e-4, row-normalised
features, public split, checkpoint chosen on validation) with gatv2_pyg's GATv2Conv, PyG's
GATv2Conv, the original GAT (PyG's GATConv), and GATv2 as dense attention over all N x N pairs.

Before anything is timed, the GATv2 layers get the same weights and must agree in float64.
Training steps are timed with the contestants in turn, with the features (bags of words, 98.7 %
zeros) as a sparse and as a dense matrix; so is the attention alone, both layers with the outputs of
their maps given. The function is the same: layers are trained with sparse features. The memory of a
training step, with dense features, is measured in a fresh process each. Dense attention takes
seconds a step: it is timed over a few steps, and trained, one seed, only with --dense-epochs. Where
Cora can't be had, a generated stand-in takes its place and is named in every table and picture.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from torch import nn

from benchmarks import cora_report
from benchmarks.cora_report import ALL, SPARSE, TIMED
from benchmarks.datasets.data import Dataset, load_or_stand_in
from benchmarks.harness import options, quantities
from benchmarks.harness.environment import memory_available
from benchmarks.harness.measuring import fresh, timing
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.session import Bar, Session
from benchmarks.harness.store import Store
from benchmarks.layers.attention_alone import attention_alone
from benchmarks.layers.build import resolve_backend
from benchmarks.layers.contestants import DENSE, OURS, PYG_GATV2, Contestant
from benchmarks.layers.dense import dense_bias
from benchmarks.layers.networks import TwoLayerGAT
from benchmarks.studies.training import NodeTask, adam, csr_matrix, fit, train_step

LEARNING_RATE, WEIGHT_DECAY = 0.005, 5e-4
TOLERANCE = 1e-10
DENSE_STEPS = 3
# One [N, N, C] tensor per head of both layers, and some [N, N] ones.
DENSE_BYTES = 6 * 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_training(parser, seeds="3, quick 1", epochs="200, quick 30")
    parser.add_argument(
        "--dense-epochs",
        type=options.whole(),
        metavar="N",
        help="train dense attention too, over N epochs (seconds each) of seed 0 "
        f"(default: only timed, over {DENSE_STEPS} steps)",
    )
    parser.add_argument(
        "--no-dense", action="store_true", help="leave dense attention out (it needs some 6 GiB)"
    )
    options.add_rounds(parser, "40, quick 10")
    options.add_common(parser, quick="1 seed, 30 epochs, 10 timed steps")


def make_model(contestant: Contestant, dataset: Dataset, backend: str) -> TwoLayerGAT:
    """The two-layer network of the GAT paper with a contestant's layer."""
    return TwoLayerGAT(contestant, dataset.data.num_features, dataset.num_classes, backend=backend)


def make_task(
    contestant: Contestant, dataset: Dataset, device: str, *, sparse: bool = False
) -> NodeTask:
    """Cora for a contestant: dense attention takes a bias where the others take edges.

    ``sparse`` makes its features a CSR matrix.
    """
    edges = dataset.data.edge_index
    if contestant is DENSE:
        edges = dense_bias(edges.to(device), dataset.data.num_nodes)
    return NodeTask(dataset.data, edges, device, sparse=sparse)


def _train(
    contestant: Contestant, dataset: Dataset, device: str, backend: str, seed: int, epochs: int
) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = make_model(contestant, dataset, backend).to(device)
    found = fit(
        model,
        make_task(contestant, dataset, device, sparse=True),
        epochs=epochs,
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
    )
    return found.summary()


def _disagreement(
    contestant: Contestant, reference: nn.Module, dataset: Dataset, device: str, backend: str
) -> float:
    """Largest difference to ``reference`` (PyG's GATv2 model) with its weights, in float64.

    With dense features and with sparse ones; the reference has dense ones.
    """
    edge_index = dataset.data.edge_index.to(device)
    model = make_model(contestant, dataset, backend)
    model.load_state_dict(reference.state_dict())
    model = model.to(device).double().eval()
    x = dataset.data.x.to(device).double()
    edges = make_task(contestant, dataset, device).edges
    with torch.no_grad():
        expected = reference(x, edge_index)
        return max(
            float((model(features, edges) - expected).abs().max())
            for features in (x, csr_matrix(x))
        )


def _stepper(
    contestant: Contestant, dataset: Dataset, device: str, backend: str, what: str = "dense"
) -> Any:
    """A training step of a kind of :data:`benchmarks.cora_report.TIMED`."""
    torch.manual_seed(0)
    model = make_model(contestant, dataset, backend).to(device).train()
    task = make_task(contestant, dataset, device, sparse=what == "sparse")
    if what == "attention":
        return attention_alone([model.conv1, model.conv2], dataset.data.num_nodes, task.edges)
    (batch,) = task.batches()
    optimizer = adam(model, LEARNING_RATE, WEIGHT_DECAY)
    return lambda: train_step(model, optimizer, batch)


def memory_step(contestant: str, data: str | None, device: str, backend: str) -> fresh.Step:
    """A training step for :func:`benchmarks.harness.measuring.fresh.measure`, with Cora loaded."""
    chosen = next(c for c in ALL if c.key == contestant)
    dataset = load_or_stand_in("Cora", data, lambda line: None)
    step = _stepper(chosen, dataset, device, backend)

    small = 16
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]], device=device)
    model = make_model(chosen, dataset, backend).to(device)
    x = dataset.data.x[:small].to(device)

    def warm() -> None:
        model(x, dense_bias(edges, small) if chosen is DENSE else edges).sum().backward()

    def run() -> None:
        step()

    return fresh.Step(run, warm, device)


def _peak_memory(arguments: dict[str, Any]) -> tuple[int | None, str | None]:
    measured = fresh.measure("benchmarks.cora:memory_step", arguments)
    return measured.peak_bytes, measured.failure


class _Run:
    """The units of one run of this benchmark, each kept as it is finished."""

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        self.session, self.args = session, args
        self.seeds = session.choose(args.seeds, full=3, quick=1)
        self.epochs = session.choose(args.epochs, full=200, quick=30)
        self.rounds = session.choose(args.rounds, full=40, quick=10)
        self.dataset = load_or_stand_in("Cora", args.data, session.line)
        self.backend = resolve_backend(args.backend, session.device)
        self.store: Store = session.store()
        self.notes: list[str] = []
        self.dense = not args.no_dense and self._dense_fits()
        self.contestants = ALL if self.dense else SPARSE

    def _dense_fits(self) -> bool:
        available = memory_available()
        if self.session.device != "cpu" or available is None or available > DENSE_BYTES:
            return True
        self.notes.append(
            f"Dense attention is left out: it needs {quantities.size(DENSE_BYTES)}, "
            f"{quantities.size(available)} are free."
        )
        return False

    def _key(self, what: str, contestant: Contestant | None = None, **more: Any) -> dict[str, Any]:
        key = {"what": what, "stand_in": self.dataset.stand_in, "backend": self.backend}
        return key | ({"model": contestant.key} if contestant else {}) | more

    def agreement(self, bar: Bar) -> dict[str, float]:
        """Differences in float64; a layer that disagrees is not timed."""
        torch.manual_seed(0)
        device = self.session.device
        reference = make_model(PYG_GATV2, self.dataset, "auto").to(device).double().eval()
        found = {}
        for contestant in (c for c in self.contestants if c in (OURS, DENSE)):
            bar.say(f"checking {contestant.label}")
            found[contestant.key] = self.store.unit(
                self._key("agreement", contestant),
                functools.partial(
                    _disagreement, contestant, reference, self.dataset, device, self.backend
                ),
            )
            bar.advance()
        return found

    def training(self, bar: Bar) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {c.key: [] for c in self.contestants}
        for seed in range(self.seeds):
            for contestant in self.contestants:
                epochs = self.args.dense_epochs if contestant is DENSE else self.epochs
                if epochs is None or (contestant is DENSE and seed > 0):
                    continue
                bar.say(f"training {contestant.label}, seed {seed}")
                found[contestant.key].append(
                    self.store.unit(
                        self._key("training", contestant, seed=seed, epochs=epochs),
                        functools.partial(
                            _train,
                            contestant,
                            self.dataset,
                            self.session.device,
                            self.backend,
                            seed,
                            epochs,
                        ),
                    )
                )
                bar.advance()
        return found

    def times(self, bar: Bar, agreement: dict[str, float]) -> dict[str, dict[str, list[float]]]:
        """Seconds of the kinds of steps: the sparse layers in turn, then dense attention."""

        def measure(what: str, who: list[Contestant], rounds: int, warmup: int) -> dict[str, Any]:
            device = self.session.device
            steps = {c.key: _stepper(c, self.dataset, device, self.backend, what) for c in who}
            return timing.alternate(steps, rounds=rounds, warmup=warmup, device=device)

        agreed = [c for c in self.contestants if agreement.get(c.key, 0.0) <= TOLERANCE]
        sparse = [c for c in agreed if c is not DENSE]
        found: dict[str, dict[str, list[float]]] = {}
        for what, name in TIMED.items():
            bar.say(f"timing in turn: {name}")
            found[what] = dict(
                self.store.unit(
                    self._key(what, models=[c.key for c in sparse], rounds=self.rounds),
                    functools.partial(measure, what, sparse, self.rounds, 5),
                )
            )
            bar.advance()
            if DENSE in agreed:
                bar.say(f"timing {DENSE.label}: {name}")
                found[what] |= self.store.unit(
                    self._key(what, DENSE, rounds=DENSE_STEPS),
                    functools.partial(measure, what, [DENSE], DENSE_STEPS, 1),
                )
                bar.advance()
        return found

    def memory(self, bar: Bar) -> dict[str, int | None]:
        """Peak bytes of a training step in a fresh process each; None where it failed."""
        found: dict[str, int | None] = {}
        for contestant in self.contestants:
            bar.say(f"memory of {contestant.label}")
            arguments = {
                "contestant": contestant.key,
                "data": str(self.args.data) if self.args.data else None,
                "device": self.session.device,
                "backend": self.backend,
            }
            peak, failure = self.store.unit(
                self._key("memory", contestant), functools.partial(_peak_memory, arguments)
            )
            found[contestant.key] = peak
            if failure:
                self.notes.append(f"Memory of {contestant.label} was not measured: {failure}.")
            bar.advance()
        return found

    def total(self) -> int:
        """Units of the progress bar."""
        trained = self.seeds * len(SPARSE) + bool(self.dense and self.args.dense_epochs)
        checked = 1 + self.dense
        return checked + trained + len(TIMED) * (1 + self.dense) + len(self.contestants)


def run(session: Session, args: argparse.Namespace) -> Result:
    job = _Run(session, args)
    graph = job.dataset.data
    data: dict[str, Any] = {
        "graph": {
            "name": job.dataset.name,
            "stand_in": job.dataset.stand_in,
            "nodes": graph.num_nodes,
            "edges": graph.num_edges,
        }
    }
    with session.progress("cora", job.total()) as bar:
        data["agreement_float64"] = job.agreement(bar)
        data["training"] = job.training(bar)
        data["seconds"] = job.times(bar, data["agreement_float64"])
        data["peak_bytes"] = job.memory(bar)
    settings = {
        "seeds": list(range(job.seeds)),
        "epochs": job.epochs,
        "dense epochs": args.dense_epochs or "not trained",
        "timed steps": job.rounds,
        "timed dense steps": DENSE_STEPS,
        "backend": job.backend,
        "device": session.device,
    }
    return cora_report.result(data, settings, job.notes)
