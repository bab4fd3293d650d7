"""What the layer is measured against: its peers, ready to be called."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.cost.problems.cases import Problem, Runner, make_layer
from benchmarks.harness.reporting.palette import BLACK, GREEN, GREY, SKY
from benchmarks.layers.contestants import GAT, OURS, PYG_GATV2, Contestant

COLD = Contestant("cold", "gatv2_pyg, new graph every call", SKY, "ours, new graph")
COMPILED = Contestant("compiled", "PyG GATv2Conv, torch.compile", GREEN, "PyG compiled")
SCATTER = Contestant("scatter", "gatv2_pyg, backend scatter", GREY, "ours, scatter")
DETERMINISTIC = Contestant(
    "deterministic", "PyG GATv2Conv, deterministic", BLACK, "PyG deterministic"
)
PEERS = {c.key: c for c in (OURS, COLD, PYG_GATV2, COMPILED, DETERMINISTIC, GAT, SCATTER)}


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


class _DeterministicRunner(Runner):
    def forward(self) -> Tensor:
        with deterministic():
            return super().forward()

    def step(self) -> tuple[Tensor, ...]:
        with deterministic():
            return super().step()


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def module_of(contestant: Contestant, problem: Problem, backend: str = "auto") -> nn.Module:
    """The layer of a contestant (see :data:`PEERS`) for a problem."""
    if contestant in (OURS, COLD):
        return make_layer(OURS, problem, backend=backend)
    if contestant is SCATTER:
        return make_layer(OURS, problem, backend="scatter")
    if contestant is COMPILED:
        # Compiled for this problem's shapes; graph breaks are the peer's own.
        torch._dynamo.reset()
        return torch.compile(make_layer(PYG_GATV2, problem))
    if contestant is DETERMINISTIC:
        return make_layer(PYG_GATV2, problem)
    return make_layer(contestant, problem)


def runner_of(contestant: Contestant, module: nn.Module, problem: Problem) -> Runner:
    """Forward and step of a contestant's layer."""
    if contestant is DETERMINISTIC:
        return _DeterministicRunner(module, problem)
    return Runner(module, problem, fresh=contestant is COLD)
