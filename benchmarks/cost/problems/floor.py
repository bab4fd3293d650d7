"""The attention kernels alone, and the floor under them.

The floor on CPU is the gather itself: :func:`torch.nn.functional.embedding_bag` sums the rows of
``x_src`` that each destination attends to, by the same CSR structure. On CUDA it is the bytes of
those gathers over the measured bandwidth of a copy. Forward gathers one row an edge, backward
``x_src`` by destination and the gradient by source. On CUDA backward gathers ``x_dst`` by source
too; the CPU kernels keep a record of each edge in its place (two numbers a head, one bit a
channel), which is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cost.problems.cases import Problem
from benchmarks.harness import quantities
from benchmarks.harness.measuring import timing
from gatv2_pyg import Graph, gatv2_attention

_COPY_BYTES = 2**30


def gathers(device: str) -> dict[str, int]:
    """How many rows an edge forward, backward and a training step gather at least."""
    backward = 3 if device.startswith("cuda") else 2
    return {"forward": 1, "backward": backward, "step": 1 + backward}


class Kernels:
    """Forward and training step of :func:`gatv2_pyg.gatv2_attention`, the graph at hand."""

    def __init__(self, problem: Problem, backend: str = "auto") -> None:
        case, device = problem.case, problem.device
        self.problem = problem
        self.backend = backend
        rng = torch.Generator().manual_seed(1)
        shape = (case.heads, case.channels)

        def randn(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng).to(device)

        self.graph = self.group()
        leaves = [
            randn(problem.num_src, *shape),
            randn(problem.num_dst, *shape),
            randn(*shape) / case.channels**0.5,
        ]
        self.options: dict[str, Any] = {}
        if case.edge_dim is not None:
            self.options["edge_attr"] = randn(self.graph.num_ids, case.edge_dim)
            leaves.append(randn(case.heads * case.channels, case.edge_dim) / case.edge_dim**0.5)
        self.plain = leaves
        self.leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        self.grad = problem.grad.view(-1, *shape)

    def group(self) -> Graph:
        """The edges by destination: what a forward without gradients needs."""
        problem = self.problem
        return Graph.from_edge_index(
            problem.edge_index,
            problem.num_src,
            problem.num_dst,
            add_self_loops=problem.case.self_loops,
        )

    def group_both(self) -> Graph:
        """The edges by destination and by source: what a training step needs."""
        graph = self.group()
        _ = graph.by_src
        return graph

    def _attend(self, leaves: list[Tensor]) -> Tensor:
        x_src, x_dst, att, *edge_weight = leaves
        weight: dict[str, Any] = {"edge_weight": edge_weight[0]} if edge_weight else {}
        out: Any = gatv2_attention(
            x_src, x_dst, att, self.graph, **self.options, **weight, backend=self.backend
        )
        return out

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self._attend(self.plain)

    def step(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self._attend(self.leaves), self.leaves, self.grad)

    def gather(self) -> Callable[[], Tensor]:
        """The floor on CPU: gathers and sums one row of ``x_src`` for each edge."""
        rows = self.plain[0].flatten(1)
        ptr, idx = self.graph.by_dst.ptr, self.graph.by_dst.idx
        idx = idx[: int(ptr[-1])]

        def run() -> Tensor:
            with torch.no_grad():
                return F.embedding_bag(idx, rows, ptr, mode="sum", include_last_offset=True)

        return run

    def gather_bytes(self) -> int:
        """The bytes of one gather of a row for each edge."""
        return self.problem.num_edges * self.plain[0].flatten(1).size(1) * 4


def copy_bandwidth(device: str) -> float:
    """Bytes a second of a copy on the device, reads and writes counted."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = timing.alternate(
        {"copy": lambda: target.copy_(source)}, rounds=20, warmup=5, device=device
    )
    return 2 * _COPY_BYTES / quantities.median(times["copy"])
