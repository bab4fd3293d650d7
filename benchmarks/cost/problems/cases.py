"""Graphs and inputs that speed, memory and scaling are measured on.

A :class:`Case` is plain data, so that a fresh process can build the same :class:`Problem` from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.datasets.data import load, load_or_stand_in

IN_CHANNELS = 64
# Of every generated graph, input and layer.
SEED = 0


@dataclass(frozen=True)
class Case:
    """A graph and the shape of a layer.

    Args:
        key: its name on the command line.
        graph: a key of :data:`GRAPHS`, or the name of a data set.
        nodes, edges: size of a generated graph (of ``blocks``: sources, edges).
        heads, channels: ``H`` and ``C`` of the layer.
        edge_dim: number of edge features, or None.
        self_loops: whether the layer adds self-loops.
        skew: exponent ``s`` of a power-law graph, whose k-th node gets edges in proportion
            to ``k**-s``.
        precision: float32, bfloat16, or autocast (float32 weights under autocast to bfloat16).
    """

    key: str
    graph: str
    nodes: int = 0
    edges: int = 0
    heads: int = 8
    channels: int = 16
    edge_dim: int | None = None
    self_loops: bool = True
    skew: float = 0.0
    precision: str = "float32"

    @property
    def shape(self) -> str:
        return f"{self.heads}×{self.channels}"

    @property
    def label(self) -> str:
        name = self.graph.replace("-", " ")
        if self.graph in GRAPHS:
            name += f" {count(self.nodes)}/{count(self.edges)}"
        features = f", {self.edge_dim} edge features" if self.named_features else ""
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{name}, {self.shape}{features}{precision}"

    @property
    def named_features(self) -> bool:
        """Whether the number of edge features tells the case from another."""
        return self.edge_dim is not None and self.graph == "random"

    def scaled(self, factor: float) -> Case:
        """The case with a smaller generated graph; data sets stay as they are."""
        return dataclasses.replace(
            self, nodes=int(self.nodes * factor), edges=int(self.edges * factor)
        )


def count(number: int) -> str:
    """``50k``, ``1M``, ``1.5M``: a round number in few characters."""
    for suffix, unit in (("M", 10**6), ("k", 10**3)):
        if number >= unit:
            return f"{number / unit:.3g}{suffix}"
    return str(number)


def _random(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    edge_index = torch.randint(case.nodes, (2, case.edges), generator=rng)
    return edge_index, case.nodes, case.nodes


def _power_law(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    weight = torch.arange(1, case.nodes + 1, dtype=torch.float64) ** -case.skew
    bounds = weight.cumsum(0)
    draws = torch.rand(2 * case.edges, generator=rng, dtype=torch.float64) * bounds[-1]
    rank = torch.searchsorted(bounds, draws).clamp_(max=case.nodes - 1)
    node = torch.randperm(case.nodes, generator=rng)
    return node[rank].view(2, -1), case.nodes, case.nodes


def _star(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    """All edges point from random nodes to node 0."""
    sources = torch.randint(case.nodes, (case.edges,), generator=rng)
    return torch.stack([sources, torch.zeros_like(sources)]), case.nodes, case.nodes


def _reversed_star(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    edge_index, num_src, num_dst = _star(case, rng)
    return edge_index.flip(0).contiguous(), num_src, num_dst


def _molecules(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    """A batch of small trees closed by a few rings, both directions of every bond."""
    parents, first = [], 0
    sizes = torch.randint(12, 34, (max(case.nodes // 23, 1),), generator=rng).tolist()
    for size in sizes:
        atom = torch.arange(1, size)
        back = torch.randint(1, 4, (size - 1,), generator=rng)
        tree = torch.stack([(atom - back).clamp_(min=0), atom])
        start = torch.randint(0, size - 6, (2,), generator=rng)
        rings = torch.stack([start, start + 5])
        parents.append(torch.cat([tree, rings], dim=1) + first)
        first += size
    bonds = torch.cat(parents, dim=1)
    return torch.cat([bonds, bonds.flip(0)], dim=1), first, first


def _blocks(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    """A sampled block: every destination has 15 sampled sources, destinations come first."""
    num_dst = case.edges // 15
    sources = torch.randint(case.nodes, (num_dst * 15,), generator=rng)
    destinations = torch.arange(num_dst).repeat_interleave(15)
    return torch.stack([sources, destinations]), case.nodes, num_dst


def _regular(case: Case, rng: torch.Generator) -> tuple[Tensor, int, int]:
    """Every node has as many edges, from random nodes, in the order of a shuffled list."""
    destinations = torch.arange(case.nodes).repeat_interleave(case.edges // case.nodes)
    destinations = destinations[torch.randperm(destinations.numel(), generator=rng)]
    sources = torch.randint(case.nodes, (destinations.numel(),), generator=rng)
    return torch.stack([sources, destinations]), case.nodes, case.nodes


GRAPHS: dict[str, Callable[[Case, torch.Generator], tuple[Tensor, int, int]]] = {
    "random": _random,
    "regular": _regular,
    "power-law": _power_law,
    "star": _star,
    "reversed-star": _reversed_star,
    "molecules": _molecules,
    "blocks": _blocks,
}

_MILLION: dict[str, Any] = {"nodes": 50_000, "edges": 1_000_000}
_QUARTER: dict[str, Any] = {"nodes": 12_500, "edges": 250_000}
_LARGE: dict[str, Any] = {"nodes": 200_000, "edges": 8_000_000}
CASES = {
    case.key: case
    for case in (
        Case("random-8x16", "random", **_MILLION),
        Case("random-1x128", "random", **_MILLION, heads=1, channels=128),
        Case("random-4x32", "random", **_MILLION, heads=4, channels=32),
        Case("random-3x20", "random", **_MILLION, heads=3, channels=20),
        Case("random-6x24", "random", nodes=50_000, edges=900_000, heads=6, channels=24),
        Case("random-4x64", "random", **_QUARTER, heads=4, channels=64),
        Case("random-16x16", "random", **_QUARTER, heads=16),
        Case("edges-16", "random", **_QUARTER, edge_dim=16),
        Case("edges-128", "random", **_QUARTER, edge_dim=128),
        Case("bfloat16", "random", **_MILLION, precision="bfloat16"),
        Case("autocast", "random", **_MILLION, precision="autocast"),
        Case("power-law", "power-law", **_MILLION, skew=0.8),
        Case("star", "star", **_MILLION),
        Case("reversed-star", "reversed-star", **_MILLION),
        Case("tolokers", "Tolokers"),
        Case("cora", "Cora", channels=8),
        Case("molecules", "molecules", nodes=256 * 23, edges=256 * 48, edge_dim=12),
        Case("blocks", "blocks", nodes=60_000, edges=150_000, self_loops=False),
        Case("large-8x16", "random", **_LARGE),
        Case("large-1x128", "random", **_LARGE, heads=1, channels=128),
        Case("random-1x32", "random", **_MILLION, heads=1, channels=32),
        Case("random-1x64", "random", **_MILLION, heads=1, channels=64),
        Case("random-1x256", "random", **_MILLION, heads=1, channels=256),
    )
}
CUDA_ONLY = ("large-8x16", "large-1x128", "random-1x32", "random-1x64", "random-1x256")


@dataclass
class Problem:
    """Inputs of a training step: features ``[N, 64]`` (a pair in a bipartite graph).

    Attributes:
        grad: ``[N_dst, H * C]``, the gradient of the loss with respect to the output.
        stand_in: what generated data replaces the data set, or None.
    """

    case: Case
    x: Any
    edge_index: Tensor
    edge_attr: Tensor | None
    grad: Tensor
    num_src: int
    num_dst: int
    stand_in: str | None = None

    @property
    def device(self) -> str:
        return str(self.edge_index.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and weights."""
        return torch.bfloat16 if self.case.precision == "bfloat16" else torch.float32

    @property
    def result_dtype(self) -> torch.dtype:
        """Of what linear maps give."""
        return torch.float32 if self.case.precision == "float32" else torch.bfloat16

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """What the layer is called within."""
        if self.case.precision != "autocast":
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16)

    @property
    def num_edges(self) -> int:
        """The number of edges the layer attends over, added self-loops included."""
        if not self.case.self_loops:
            return self.edge_index.size(1)
        loops = int((self.edge_index[0] == self.edge_index[1]).sum())
        return self.edge_index.size(1) - loops + min(self.num_src, self.num_dst)


def build(
    case: Case,
    device: str = "cpu",
    data: Path | str | None = None,
    say: Callable[[str], None] | None = None,
) -> Problem:
    """The problem of a case, the same on every machine (:data:`SEED`).

    ``data`` is the folder of data sets; with ``say`` a missing Cora is replaced by its stand-in.
    """
    rng = torch.Generator().manual_seed(SEED)
    stand_in = None
    if case.graph in GRAPHS:
        edge_index, num_src, num_dst = GRAPHS[case.graph](case, rng)
    else:
        found = load(case.graph, data) if say is None else load_or_stand_in(case.graph, data, say)
        edge_index, num_src, stand_in = found.data.edge_index, found.data.num_nodes, found.stand_in
        num_dst = num_src

    def randn(*shape: int) -> Tensor:
        dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
        return torch.randn(*shape, generator=rng).to(device, dtype)

    x: Any = randn(num_src, IN_CHANNELS)
    if case.graph == "blocks":
        x = (x, x[:num_dst].clone())
    return Problem(
        case,
        x,
        edge_index.to(device).contiguous(),
        None if case.edge_dim is None else randn(edge_index.size(1), case.edge_dim),
        randn(num_dst, case.heads * case.channels),
        num_src,
        num_dst,
        stand_in,
    )
