"""Molecules in batches: splits, a training and its errors, and the steps that are timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch as GraphBatch

from benchmarks.layers.attention_alone import attention_alone, renewed
from benchmarks.layers.contestants import Contestant
from benchmarks.layers.networks import MoleculeGAT
from benchmarks.studies.training import Batch, Scores, adam, fit, train_step, warm_cosine

BATCH = 128
LEARNING_RATE = 0.01
ATOM_FEATURES, BOND_FEATURES = 9, 3


def make_model(contestant: Contestant, backend: str, *, edges: bool, **options: Any) -> MoleculeGAT:
    """The network with a contestant's layer, with or without bond features."""
    edge_dim = BOND_FEATURES if edges else None
    return MoleculeGAT(contestant, ATOM_FEATURES, edge_dim, backend=backend, **options)


def collate(molecules: Sequence[Any], device: str) -> Batch:
    """Molecules as one graph."""
    batch: Any = GraphBatch.from_data_list(list(molecules)).to(device)
    x, edge_attr = batch.x.float(), batch.edge_attr.float()
    inputs = (x, batch.edge_index, edge_attr, batch.batch, len(molecules))
    return Batch(inputs, batch.y.squeeze(1))


@dataclass
class MoleculeTask:
    """A random split, 80, 10 and 10 %, by its seed; a training epoch in batches of 128.

    Scores are root mean squared errors; "val" is its negative, which is to be high.
    """

    molecules: Sequence[Any]
    seed: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._rng = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.molecules), generator=self._rng).tolist()
        cut, end = int(0.8 * len(order)), int(0.9 * len(order))
        self.train = [self.molecules[i] for i in order[:cut]]
        self.mean = float(torch.cat([molecule.y for molecule in self.train]).mean())
        self._parts = {
            "val": collate([self.molecules[i] for i in order[cut:end]], self.device),
            "test": collate([self.molecules[i] for i in order[end:]], self.device),
        }

    def batches(self) -> list[Batch]:
        """A shuffled epoch; targets are those less their mean."""
        order = torch.randperm(len(self.train), generator=self._rng).tolist()
        found = []
        for start in range(0, len(order), BATCH):
            batch = collate([self.train[i] for i in order[start : start + BATCH]], self.device)
            found.append(Batch(batch.inputs, batch.target - self.mean))
        return found

    def scores(self, model: nn.Module) -> Scores:
        errors = {
            name: float(F.mse_loss(model(*part.inputs) + self.mean, part.target).sqrt())
            for name, part in self._parts.items()
        }
        return {"val": -errors["val"], "test": errors["test"]}


def train(
    contestant: Contestant,
    molecules: Sequence[Any],
    *,
    edges: bool,
    seed: int,
    epochs: int,
    device: str,
    backend: str,
) -> dict[str, Any]:
    """One training, checkpoint chosen on validation."""
    torch.manual_seed(seed)
    model = make_model(contestant, backend, edges=edges).to(device)
    found = fit(
        model,
        MoleculeTask(molecules, seed, device),
        epochs=epochs,
        lr=LEARNING_RATE,
        schedule=warm_cosine,
        clip=1.0,
        loss_of=F.mse_loss,
    )
    return {"test": found.best["test"], "val": -found.best["val"], "epoch": found.best_epoch}


def disagreement(
    contestant: Contestant, reference: nn.Module, batch: Batch, device: str, backend: str
) -> float:
    """Largest difference of outputs and gradients to ``reference``, relative, in float64.

    The model has the weights of the reference, whose layers take bond features.
    """
    model = make_model(contestant, backend, edges=True).to(device).double()
    model.load_state_dict(reference.state_dict())
    x, edges, edge_attr, *rest = batch.inputs
    found: list[list[Tensor]] = []
    for network in (reference, model):
        out = network(x.double(), edges, edge_attr.double(), *rest)
        grads = torch.autograd.grad(out.square().sum(), list(network.parameters()))
        found.append([out.detach(), *grads])
    return max(
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
        for a, b in zip(*found, strict=True)
    )


def epoch(
    contestant: Contestant, batches: Sequence[Batch], device: str, backend: str
) -> Callable[[], None]:
    """A training epoch over batches that are there; their edges are new ones to the layers."""
    torch.manual_seed(0)
    model = make_model(contestant, backend, edges=True).to(device)
    optimizer = adam(model, LEARNING_RATE)

    def run() -> None:
        for batch in batches:
            x, edges, *rest = batch.inputs
            new = Batch((x, renewed(edges), *rest), batch.target)
            train_step(model, optimizer, new, 1.0, F.mse_loss)

    return run


def attention_epoch(
    contestant: Contestant, batches: Sequence[Batch], device: str, backend: str
) -> Callable[[], None]:
    """The attention alone of such an epoch."""
    steps = []
    for batch in batches:
        torch.manual_seed(0)
        model = make_model(contestant, backend, edges=True).to(device).train()
        x, edges, edge_attr, *_ = batch.inputs
        layers = list(model.convs)
        steps.append(attention_alone(layers, x.size(0), edges, edge_attr, fresh=True))

    def run() -> None:
        for step in steps:
            step()

    return run
