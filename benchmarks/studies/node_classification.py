"""Accuracy studies on node classification: what is trained, one unit of it, and the timing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.datasets.data import HETEROPHILOUS, Dataset
from benchmarks.harness.measuring import timing
from benchmarks.harness.reporting.palette import ORANGE, SKY, VERMILION
from benchmarks.layers.contestants import FUSED_GAT, GAT, OURS, PYG_GATV2, Contestant
from benchmarks.layers.networks import ResidualGAT, TwoLayerGAT
from benchmarks.studies.training import NodeTask, adam, fit, train_step


@dataclass(frozen=True)
class Variant:
    """A contestant with options of its layer, under the name it has in tables."""

    key: str
    label: str
    color: str
    contestant: Contestant
    options: dict[str, Any] = field(default_factory=dict, hash=False)


GAT_VARIANT = Variant("gat", "GAT", ORANGE, GAT)
FUSED_GAT_VARIANT = Variant("gat", "GAT", ORANGE, FUSED_GAT)
GATV2_VARIANT = Variant("gatv2", "GATv2", OURS.color, OURS)
SHARED_VARIANT = Variant(
    "gatv2-shared", "GATv2, shared weights", SKY, OURS, {"share_weights": True}
)
PYG_VARIANT = Variant("pyg-gatv2", "PyG GATv2Conv", VERMILION, PYG_GATV2)


@dataclass(frozen=True)
class Recipe:
    """How the networks of a data set are trained."""

    network: type[nn.Module]
    network_options: dict[str, Any]
    lr: float
    weight_decay: float
    metric: str
    metric_name: str
    evaluate_every: int = 1
    sparse: bool = False


_PLANETOID = Recipe(TwoLayerGAT, {}, 0.005, 5e-4, "accuracy", "test accuracy (%)", sparse=True)
# The GAT paper's changes for PubMed: eight output heads, a higher learning rate and weight decay.
_PUBMED = replace(_PLANETOID, network_options={"output_heads": 8}, lr=0.01, weight_decay=1e-3)
_HETEROPHILOUS = Recipe(ResidualGAT, {}, 0.003, 0.0, "roc_auc", "test ROC AUC (%)", 5)


def recipe(dataset: str) -> Recipe:
    """The recipe of a data set."""
    if dataset in HETEROPHILOUS:
        return _HETEROPHILOUS
    return _PUBMED if dataset == "PubMed" else _PLANETOID


def make_model(variant: Variant, dataset: Dataset, backend: str) -> nn.Module:
    """The data set's network with a variant's layer; seed torch first."""
    how = recipe(dataset.name)
    return how.network(
        variant.contestant,
        dataset.data.num_features,
        dataset.num_classes,
        backend=backend,
        **how.network_options,
        **variant.options,
    )


def make_task(
    dataset: Dataset, device: str, *, split: int = 0, edges: Tensor | None = None
) -> NodeTask:
    """Node classification on a split, on the given edges or those of the data set."""
    edges = dataset.data.edge_index if edges is None else edges
    how = recipe(dataset.name)
    return NodeTask(dataset.data, edges, device, split, how.metric, how.sparse)


def train(
    variant: Variant,
    dataset: Dataset,
    *,
    seed: int,
    epochs: int,
    device: str,
    backend: str,
    split: int = 0,
    edges: Tensor | None = None,
) -> dict[str, Any]:
    """One training by the data set's recipe, checkpoint chosen on validation."""
    how = recipe(dataset.name)
    torch.manual_seed(seed)
    model = make_model(variant, dataset, backend).to(device)
    found = fit(
        model,
        make_task(dataset, device, split=split, edges=edges),
        epochs=epochs,
        lr=how.lr,
        weight_decay=how.weight_decay,
        evaluate_every=how.evaluate_every,
    )
    return found.summary()


def time_steps(
    variants: list[Variant], dataset: Dataset, *, rounds: int, device: str, backend: str
) -> dict[str, list[float]]:
    """Seconds of training steps (full batch: an epoch), the variants in turn."""
    how = recipe(dataset.name)
    steps = {}
    for variant in variants:
        torch.manual_seed(0)
        model = make_model(variant, dataset, backend).to(device)
        optimizer = adam(model, how.lr, how.weight_decay)
        (batch,) = make_task(dataset, device).batches()
        steps[variant.key] = lambda m=model, o=optimizer, b=batch: train_step(m, o, b)
    return timing.alternate(steps, rounds=rounds, warmup=1, device=device)
