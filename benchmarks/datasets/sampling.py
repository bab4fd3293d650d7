"""Sampled neighbourhoods, as PyG's NeighborLoader gives them, without torch_sparse or pyg-lib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """A sampled subgraph.

    Attributes:
        nodes: ``[N]`` ids in the whole graph, the seeds first, then hop by hop.
        edge_index: ``[2, E]`` among them, from the sampled neighbour to the node.
        nodes_per_hop: how many nodes came with the seeds and with each hop.
        edges_per_hop: how many edges each hop brought.
    """

    nodes: Tensor
    edge_index: Tensor
    nodes_per_hop: list[int]
    edges_per_hop: list[int]


class NeighbourSampler:
    """Samples the neighbours a node has incoming edges from, each edge at most once.

    Every node that a hop finds gets its own neighbours in the next hop, once, as in
    ``NeighborLoader`` with ``replace=False, disjoint=False, subgraph_type="directional"``.

    Args:
        edge_index: ``[2, E]``.
        num_nodes: number of nodes.
        fanout: how many edges to sample for a node in each hop; -1 takes all.
        seed: of what is sampled.
    """

    def __init__(
        self, edge_index: Tensor, num_nodes: int, fanout: Sequence[int], seed: int = 0
    ) -> None:
        source, target = edge_index.numpy()
        self._sources = source[np.argsort(target, kind="stable")]
        self._ptr = np.concatenate([[0], np.bincount(target, minlength=num_nodes).cumsum()])
        self._fanout = tuple(fanout)
        self._rng = np.random.default_rng(seed)

    def sample(self, seeds: Tensor) -> Neighbourhood:
        """The sampled neighbourhood of distinct ``seeds``, ``[n]`` node ids."""
        frontier = seeds.numpy()
        local = np.full(self._ptr.size - 1, -1)
        local[frontier] = np.arange(frontier.size)
        nodes, sources, targets = [frontier], [], []
        for most in self._fanout:
            at, position = self._edges_of(frontier, most)
            found = self._sources[position]
            targets.append(local[frontier][at])
            fresh, first = np.unique(found[local[found] < 0], return_index=True)
            frontier = fresh[np.argsort(first)]
            local[frontier] = sum(map(len, nodes)) + np.arange(frontier.size)
            nodes.append(frontier)
            sources.append(local[found])
        ends = [torch.from_numpy(np.concatenate(part)) for part in (sources, targets)]
        return Neighbourhood(
            torch.from_numpy(np.concatenate(nodes)),
            torch.stack(ends),
            [len(part) for part in nodes],
            [len(part) for part in sources],
        )

    def _edges_of(self, nodes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The place in ``nodes`` and the position of each sampled edge."""
        degree = self._ptr[nodes + 1] - self._ptr[nodes]
        begin = degree.cumsum() - degree
        at = np.repeat(np.arange(nodes.size), degree)
        position = np.arange(at.size) - begin[at] + self._ptr[nodes][at]
        if most < 0:
            return at, position
        # The first of a random order in each node's edges.
        order = np.lexsort((self._rng.random(at.size), at))
        kept = np.sort(order[np.arange(at.size) - begin[at] < most])
        return at[kept], position[kept]
