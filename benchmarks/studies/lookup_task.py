"""DictionaryLookup: the task of Brody, Alon and Yahav (2022, section 4.1), generated.

A graph is a complete bipartite graph of k key nodes and k query nodes. Key node i carries
(key i, value v_i), query node i carries key i, and v is a permutation of the k values; each query
asks for the value of its key. A layer solves it only if a query can attend to *its* key: with
static attention all queries rank the keys alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.layers.build import layer
from benchmarks.layers.contestants import Contestant
from benchmarks.studies.training import Batch, Scores, warm_cosine

HIDDEN = 128
BATCH_SIZE = 32
MIN_UPDATES = 50
TRAIN_SHARE = 0.8
LEARNING_RATE = 1e-2
CLIP = 1.0  # as in the authors' code
# How fit() trains every layer. With smaller rates, or gradients that are not clipped, GATv2 with
# one head stays on a plateau with some seeds for k from 12 on.
RECIPE: dict[str, Any] = {"lr": LEARNING_RATE, "clip": CLIP, "schedule": warm_cosine}
RECIPE_TEXT = {
    "peak learning rate": LEARNING_RATE,
    "schedule": "linear over the first tenth of the updates, then cosine to 0",
    "gradient norm": f"at most {CLIP:g}",
}


@functools.lru_cache(maxsize=64)
def all_pairs(k: int, graphs: int) -> Tensor:
    """Edges from each key to each query of the same graph: ``[2, graphs * k * k]``."""
    query, key = torch.cartesian_prod(torch.arange(k), torch.arange(k)).t()
    first = k * torch.arange(graphs)[:, None]
    return torch.stack([(first + key).flatten(), (first + query).flatten()])


def permutations(k: int, count: int, generator: torch.Generator) -> Tensor:
    """Distinct permutations of k values in random order, ``[min(count, k!), k]``."""
    wanted = min(count, math.factorial(k))
    found = torch.empty(0, k, dtype=torch.long)
    while found.size(0) < wanted:
        drawn = torch.rand(4 * wanted, k, generator=generator).argsort(dim=1)
        found = torch.unique(torch.cat([found, drawn]), dim=0)
    return found[torch.randperm(found.size(0), generator=generator)[:wanted]]


class LookupTask:
    """Permutations split 80:20 into training and test graphs, in batches.

    An epoch passes over the training graphs until it has made :data:`MIN_UPDATES` updates (there
    are few permutations of few values). "val" is the accuracy on the training graphs: nothing is
    selected on the test graphs.
    """

    def __init__(
        self,
        k: int,
        *,
        graphs: int = 2000,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.k, self.device, self.batch_size = k, device, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        values = permutations(k, graphs, self._generator)
        cut = round(TRAIN_SHARE * values.size(0))
        self.train, self.test = values[:cut].to(device), values[cut:].to(device)
        self._edges: dict[int, Tensor] = {}

    def edges(self, graphs: int) -> Tensor:
        """Edges of a batch of so many graphs (the same tensor each time)."""
        if graphs not in self._edges:
            self._edges[graphs] = all_pairs(self.k, graphs).to(self.device)
        return self._edges[graphs]

    def _batch(self, values: Tensor) -> Batch:
        return Batch((values, self.edges(values.size(0))), values.flatten())

    def batches(self) -> Iterable[Batch]:
        updates = math.ceil(self.train.size(0) / self.batch_size)
        for _ in range(math.ceil(MIN_UPDATES / updates)):
            order = torch.randperm(self.train.size(0), generator=self._generator)
            for chosen in order.to(self.device).split(self.batch_size):
                yield self._batch(self.train[chosen])

    def _accuracy(self, model: nn.Module, values: Tensor) -> float:
        right = 0
        for part in values.split(self.batch_size):
            batch = self._batch(part)
            right += int((model(*batch.inputs).argmax(dim=-1) == batch.target).sum())
        return right / values.numel()

    def scores(self, model: nn.Module) -> Scores:
        train = self._accuracy(model, self.train)
        return {"val": train, "train": train, "test": self._accuracy(model, self.test)}


class LookupModel(nn.Module):
    """Embeddings, one attention layer from keys to queries, ReLU, a linear read-out.

    Args:
        contestant: whose layer; hidden size 128 in all heads together.
        k: number of keys, of queries and of values.
        options: of the layer.
    """

    def __init__(self, contestant: Contestant, k: int, *, heads: int = 1, **options: Any) -> None:
        super().__init__()
        self.k = k
        self.key = nn.Embedding(k, HIDDEN)
        self.value = nn.Embedding(k, HIDDEN)
        if contestant.has_self_loops:
            options["add_self_loops"] = False
        self.conv = layer(contestant, HIDDEN, HIDDEN // heads, heads=heads, **options)
        self.out = nn.Linear(HIDDEN, k)

    def nodes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the key nodes and of the query nodes, ``[graphs * k, 128]`` each."""
        graphs = values.size(0)
        query = self.key.weight.repeat(graphs, 1)
        return query + self.value(values.flatten()), query

    def forward(self, values: Tensor, edges: Tensor) -> Tensor:
        """Values ``[graphs, k]`` and :func:`all_pairs` to scores ``[graphs * k, k]``."""
        return self.out(F.relu(self.conv(self.nodes(values), edges)))
