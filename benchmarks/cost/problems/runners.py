"""The contestants' layers on a problem, ready to be called."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cost.problems.cases import IN_CHANNELS, SEED, Problem
from benchmarks.layers.build import layer
from benchmarks.layers.contestants import (
    COLD,
    COMPILED,
    DETERMINISTIC,
    OURS,
    OURS_COMPILED,
    PYG_GATV2,
    SCATTER,
    Contestant,
)


def make_layer(contestant: Contestant, problem: Problem, **options: Any) -> nn.Module:
    """A contestant's layer for a problem; all GATv2 layers have the same weights."""
    case = problem.case
    options.setdefault("dropout", 0.0)
    shape: dict[str, Any] = {
        "heads": case.heads,
        "edge_dim": case.edge_dim,
        "add_self_loops": case.self_loops,
    }

    def make(kind: Contestant, **own: Any) -> nn.Module:
        torch.manual_seed(SEED)
        made = layer(kind, IN_CHANNELS, case.channels, **shape, **own)
        return made.to(problem.device, problem.dtype)

    module = make(contestant, **options)
    weights = make(PYG_GATV2).state_dict()
    if module.state_dict().keys() == weights.keys():
        module.load_state_dict(weights)
    return module


class Runner:
    """A layer on a problem: :meth:`forward` without gradients, :meth:`step` with all of them."""

    def __init__(self, module: nn.Module, problem: Problem, *, fresh: bool = False) -> None:
        self.module = module
        self.problem = problem
        self._fresh = fresh
        self._x = problem.x
        if isinstance(problem.x, tuple):
            self._leaf_x: Any = tuple(x.clone().requires_grad_() for x in problem.x)
            leaves = list(self._leaf_x)
        else:
            self._leaf_x = problem.x.clone().requires_grad_()
            leaves = [self._leaf_x]
        self._leaves = leaves + list(module.parameters())

    def _edges(self) -> Tensor:
        """The edges; with ``fresh`` a new tensor over them, which no cache knows."""
        edges = self.problem.edge_index
        return edges.view(2, -1) if self._fresh else edges

    def _arguments(self) -> tuple[Any, ...]:
        attr = self.problem.edge_attr
        return (self._edges(),) if attr is None else (self._edges(), attr)

    def forward(self) -> Tensor:
        with torch.no_grad(), self.problem.autocast():
            return self.module(self._x, *self._arguments())

    def step(self) -> tuple[Tensor, ...]:
        """Gradients of the features and of all parameters."""
        with self.problem.autocast():
            out = self.module(self._leaf_x, *self._arguments())
        return torch.autograd.grad(out, self._leaves, self.problem.grad.to(out.dtype))

    def results(self, *, products: bool) -> list[Tensor]:
        """The output and the gradients, those of the maps' weights only with ``products``.

        Torch may take the sums of such a product in another order under other threads.
        """
        weights = {
            id(parameter)
            for name, parameter in self.module.named_parameters()
            if name.startswith("lin") and name.endswith(".weight")
        }
        grads = zip(self._leaves, self.step(), strict=True)
        return [self.forward(), *(g for leaf, g in grads if products or id(leaf) not in weights)]


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class _DeterministicRunner(Runner):
    def forward(self) -> Tensor:
        with deterministic():
            return super().forward()

    def step(self) -> tuple[Tensor, ...]:
        with deterministic():
            return super().step()


@contextlib.contextmanager
def quiet_compiler() -> Iterator[None]:
    """Without the warnings and log lines of torch.compile about graph breaks in PyG."""
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._inductor")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def module_of(contestant: Contestant, problem: Problem, backend: str = "auto") -> nn.Module:
    """The layer of a contestant (any of ``COMPARED``) for a problem."""
    if contestant in (OURS, COLD):
        return make_layer(OURS, problem, backend=backend)
    if contestant is SCATTER:
        return make_layer(OURS, problem, backend="scatter")
    if contestant in (COMPILED, OURS_COMPILED):
        # Compiled for this problem's shapes; graph breaks are the layer's own.
        if contestant is COMPILED:
            plain = make_layer(PYG_GATV2, problem)
        else:
            plain = make_layer(OURS, problem, backend=backend)
        torch._dynamo.reset()
        compiled: Any = torch.compile(plain)
        return compiled
    if contestant is DETERMINISTIC:
        return make_layer(PYG_GATV2, problem)
    return make_layer(contestant, problem)


def runner_of(contestant: Contestant, module: nn.Module, problem: Problem) -> Runner:
    """Forward and step of a contestant's layer."""
    if contestant is DETERMINISTIC:
        return _DeterministicRunner(module, problem)
    return Runner(module, problem, fresh=contestant is COLD)
