"""The one training loop of all accuracy studies, and node classification as a task for it."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import quantities
from benchmarks.harness.measuring.timing import synchronizer

Scores = dict[str, float]


@dataclass
class Batch:
    """Arguments of the model, and the rows of its output that the loss compares to ``target``."""

    inputs: tuple[Any, ...]
    target: Tensor
    index: Tensor | None = None


class Task(Protocol):
    """What is learned: the batches of an epoch, and the scores of a model (higher is better).

    ``scores`` holds "val", by which the checkpoint is chosen, and whatever else is reported.
    """

    device: str

    def batches(self) -> Iterable[Batch]: ...

    def scores(self, model: nn.Module) -> Scores: ...


@dataclass
class Fit:
    """A finished training: the scores where "val" was highest first, and those of the last epoch.

    ``epoch_seconds`` are the times of the training part of each epoch (no evaluation).
    """

    best: Scores
    best_epoch: int
    last: Scores
    epoch_seconds: list[float] = field(repr=False)
    state: dict[str, Tensor] | None = field(default=None, repr=False)

    def summary(self) -> dict[str, Any]:
        """The checkpoint's scores and epoch, and the median time of an epoch, as JSON."""
        return {
            "val": self.best["val"],
            "test": self.best["test"],
            "epoch": self.best_epoch,
            "epoch_seconds": quantities.median(self.epoch_seconds),
        }


Loss = Callable[[Tensor, Tensor], Tensor]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    clip: float | None = None,
    loss_of: Loss = F.cross_entropy,
) -> Tensor:
    """One update of a model in training mode by the loss of a batch; that loss.

    The gradient of all that the optimizer updates is cut to the norm ``clip``.
    """
    optimizer.zero_grad(set_to_none=True)
    out = model(*batch.inputs)
    loss = loss_of(out if batch.index is None else out[batch.index], batch.target)
    loss.backward()
    if clip is not None:
        updated = [value for group in optimizer.param_groups for value in group["params"]]
        nn.utils.clip_grad_norm_(updated, clip)
    optimizer.step()
    return loss


def warm_cosine(progress: float, warm: float = 0.1) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine down to 0."""
    rise = progress / warm
    return rise if rise < 1 else 0.5 * (1 + math.cos(math.pi * progress))


def adam(model: nn.Module, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """The optimiser of all studies; fused, as one for each parameter outweighs a small model."""
    return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)


def fit(
    model: nn.Module,
    task: Task,
    *,
    epochs: int,
    lr: float,
    weight_decay: float = 0.0,
    evaluate_every: int = 1,
    stop: Callable[[Scores], bool] | None = None,
    on_epoch: Callable[[int, Scores], None] | None = None,
    keep_best: bool = False,
    clip: float | None = None,
    schedule: Callable[[float], float] | None = None,
    loss_of: Loss = F.cross_entropy,
) -> Fit:
    """Trains with Adam and chooses the checkpoint on validation (the first of equals).

    Args:
        model, task: on the same device; seed torch before building the model.
        epochs: at most this many.
        evaluate_every: evaluate after each so many epochs, and after the last.
        stop: ends the training early when true of the scores.
        on_epoch: called after each evaluation with the epoch and the scores.
        clip: largest norm of the gradient of all parameters together.
        loss_of: of the model's output and a batch's target.
        schedule: share of ``lr`` for an update, by the part of the training done (0 to 1).
        keep_best: return the checkpoint's ``state_dict`` as ``Fit.state``.
    """
    optimizer = adam(model, lr, weight_decay)
    wait = synchronizer(task.device)
    best: Scores = {}
    best_epoch, state, seconds = 0, None, []
    scores: Scores = {}
    for epoch in range(1, epochs + 1):
        wait()
        start = time.perf_counter()
        model.train()
        batches = list(task.batches())
        for place, batch in enumerate(batches):
            if schedule is not None:
                share = schedule((epoch - 1 + place / len(batches)) / epochs)
                for group in optimizer.param_groups:
                    group["lr"] = lr * share
            train_step(model, optimizer, batch, clip, loss_of)
        wait()
        seconds.append(time.perf_counter() - start)
        if epoch % evaluate_every and epoch < epochs:
            continue
        model.eval()
        with torch.no_grad():
            scores = task.scores(model)
        if not best or scores["val"] > best["val"]:
            best, best_epoch = scores, epoch
            if keep_best:
                state = copy.deepcopy(model.state_dict())
        if on_epoch is not None:
            on_epoch(epoch, scores)
        if stop is not None and stop(scores):
            break
    return Fit(best, best_epoch, scores, seconds, state)


def roc_auc(out: Tensor, target: Tensor) -> float:
    """Area under the ROC curve of class 1 in a two-class task, for scores ``[N, 2]``."""
    if target.unique().numel() < 2:
        raise ValueError("roc_auc needs both positive and negative examples")
    return float(metrics.roc_auc_score(target.cpu(), (out[:, 1] - out[:, 0]).double().cpu()))


def accuracy(out: Tensor, target: Tensor) -> float:
    """Share of rows whose largest entry is at ``target``."""
    return float(metrics.accuracy_score(target.cpu(), out.argmax(dim=-1).cpu()))


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {"accuracy": accuracy, "roc_auc": roc_auc}


def csr_matrix(x: Tensor) -> Tensor:
    """Features ``[N, F]`` as a CSR matrix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return x.to_sparse_csr()


@dataclass
class NodeTask:
    """Transductive node classification, full batch.

    Args:
        data: graph with ``x``, ``y`` and masks ``[N]`` or ``[N, splits]``.
        edges: what the model takes beside ``x`` (an edge index, or a dense bias).
        split: column of the masks.
        metric: a key of :data:`METRICS`.
        sparse: give the model ``x`` as a CSR matrix (bags of words are nearly all zeros).
    """

    data: Any
    edges: Any
    device: str = "cpu"
    split: int = 0
    metric: str = "accuracy"
    sparse: bool = False

    def __post_init__(self) -> None:
        self._x, self._y = self.data.x.to(self.device), self.data.y.to(self.device)
        self._edges = self.edges.to(self.device)
        if self.sparse:
            self._x = csr_matrix(self._x)
        self._nodes = {}
        for name in ("train", "val", "test"):
            mask = self.data[f"{name}_mask"]
            mask = mask[:, self.split] if mask.dim() == 2 else mask
            self._nodes[name] = mask.nonzero().squeeze(1).to(self.device)
        train = self._nodes["train"]
        self._batch = Batch((self._x, self._edges), self._y[train], train)

    def batches(self) -> Iterable[Batch]:
        return (self._batch,)

    def scores(self, model: nn.Module) -> Scores:
        out = model(self._x, self._edges)
        score = METRICS[self.metric]
        return {name: score(out[i], self._y[i]) for name, i in self._nodes.items()}
