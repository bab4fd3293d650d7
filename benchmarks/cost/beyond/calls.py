"""The contestants of ``beyond``, ready to be called, and the plain statements they are held to."""

from __future__ import annotations

import abc
import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor, nn

from benchmarks.cost.problems.cases import IN_CHANNELS, SEED
from benchmarks.layers.dense import DenseGATv2Conv as AllPairs
from benchmarks.layers.dense import dense_bias
from gatv2_pyg import DenseGATv2Conv, GATv2Conv, use_backend

CONTESTANTS = {
    "traffic": ("batched", "repeated", "pyg-repeated"),
    "bias": ("none", "edge", "head", "edge-trained", "head-trained"),
    "dense": ("dense-layer", "all-pairs"),
}
"""Of each part, this project's way first where there are several."""
FIRST = {part: names[0] for part, names in CONTESTANTS.items()}


@dataclass(frozen=True)
class Size:
    """A random graph, a layer, and a batch."""

    nodes: int
    edges: int
    heads: int
    channels: int
    batch: int = 1


class Call(abc.ABC):
    """A layer on its inputs.

    Args:
        size: of the problem.
        device: where it runs.
        backend: of this project's layers.
        dtype: of the layer and its inputs.
    """

    def __init__(self, size: Size, device: str, backend: str, dtype: torch.dtype) -> None:
        self.size, self.device, self.backend, self.dtype = size, device, backend, dtype
        self.rng = torch.Generator().manual_seed(SEED)
        self.edge_index = torch.randint(size.nodes, (2, size.edges), generator=self.rng).to(device)
        self.x = self.randn(size.batch, size.nodes, IN_CHANNELS).requires_grad_()
        self.grad = self.randn(size.batch, size.nodes, size.heads * size.channels)
        self.layer = self.make()
        self.leaves = {"grad x": self.x} | {
            f"grad {name}": value for name, value in self.layer.named_parameters()
        }

    def randn(self, *shape: int) -> Tensor:
        # In float32, so that every dtype has the same numbers.
        return torch.randn(*shape, generator=self.rng).to(self.device, self.dtype)

    def weighted(self, kind: type[nn.Module], **options: Any) -> Any:
        """A layer of a class, with the same weights for all of them."""
        torch.manual_seed(SEED)
        size = self.size
        weights = torch_geometric.nn.GATv2Conv(IN_CHANNELS, size.channels, heads=size.heads)
        layer = kind(IN_CHANNELS, size.channels, heads=size.heads, **options)
        layer.load_state_dict(weights.state_dict())
        return layer.to(self.device, self.dtype)

    @abc.abstractmethod
    def make(self) -> nn.Module:
        """The layer."""

    @abc.abstractmethod
    def out(self) -> Tensor:
        """Its output, ``[batch, nodes, H * C]`` in any shape."""

    @abc.abstractmethod
    def plain(self) -> Tensor:
        """The same by plain torch or PyG, with the same layer's parameters."""

    def step(self) -> tuple[Tensor, ...]:
        """Gradients of the features, the parameters, and of biases that are trained."""
        return self._grads(self.out())

    def results(self) -> dict[str, Tensor]:
        """Output and gradients by name."""
        return self._named(self.out())

    def statement(self) -> dict[str, Tensor]:
        """What :meth:`results` should be."""
        return self._named(self.plain())

    def _grads(self, out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, list(self.leaves.values()), self.grad.view_as(out))

    def _named(self, out: Tensor) -> dict[str, Tensor]:
        flat = out.detach().reshape(self.grad.shape)
        return {"out": flat} | dict(zip(self.leaves, self._grads(out), strict=True))

    def pyg(self) -> nn.Module:
        """PyG's layer with the parameters of this one."""
        layer = torch_geometric.nn.GATv2Conv(IN_CHANNELS, self.size.channels, self.size.heads)
        layer = layer.to(self.device, self.dtype)
        for name, value in dict(self.layer.named_parameters()).items():
            owner, _, last = name.rpartition(".")
            setattr(layer.get_submodule(owner) if owner else layer, last, value)
        return layer


class Batched(Call):
    """A batch on one graph."""

    def make(self) -> nn.Module:
        return self.weighted(GATv2Conv, backend=self.backend)

    def out(self) -> Tensor:
        return self.layer(self.x, self.edge_index)

    def plain(self) -> Tensor:
        layer = self.pyg()
        return torch.stack([layer(x, self.edge_index) for x in self.x])


class Repeated(Batched):
    """The batch as one graph of many parts; its edges are made beforehand."""

    def make(self) -> nn.Module:
        size = self.size
        offsets = torch.arange(size.batch, device=self.device) * size.nodes
        edges = self.edge_index.unsqueeze(1) + offsets.view(1, -1, 1)
        self._edges = edges.flatten(1)
        return self._layer()

    def _layer(self) -> nn.Module:
        return super().make()

    def out(self) -> Tensor:
        return self.layer(self.x.flatten(0, 1), self._edges)


class PyGRepeated(Repeated):
    """Likewise, by PyG's layer."""

    def _layer(self) -> nn.Module:
        return self.weighted(torch_geometric.nn.GATv2Conv)


class Biased(Call):
    """A training step with biases of the edges, or without."""

    by_head = trained = False

    def make(self) -> nn.Module:
        shape = (self.size.edges, self.size.heads) if self.by_head else (self.size.edges,)
        self._bias: Tensor | None = self.randn(*shape).requires_grad_(self.trained)
        return self.weighted(GATv2Conv, backend=self.backend)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self._bias is not None and self.trained:
            self.leaves["grad attn_bias"] = self._bias

    def out(self) -> Tensor:
        return self.layer(self.x[0], self.edge_index, attn_bias=self._bias)

    def plain(self) -> Tensor:
        """By message passing, step by step."""
        layer = copy.copy(self.layer)
        with use_backend("reference"):
            return layer(self.x[0], self.edge_index, attn_bias=self._bias)


class Unbiased(Biased):
    """Without."""

    def make(self) -> nn.Module:
        layer = super().make()
        self._bias = None
        return layer


class ByHead(Biased):
    """With one of each edge and head."""

    by_head = True


class Trained(Biased):
    """With one of each edge, whose gradient is wanted."""

    trained = True


class TrainedByHead(Trained):
    """With one of each edge and head, whose gradient is wanted."""

    by_head = True


class Dense(Call):
    """The dense layer on an adjacency matrix."""

    def make(self) -> nn.Module:
        # Parallel edges are one in a matrix.
        self.edge_index = self.edge_index.unique(dim=1)
        size = self.size.nodes
        self._adj = torch.zeros(1, size, size, device=self.device)
        self._adj[0, self.edge_index[1], self.edge_index[0]] = 1
        return self._layer()

    def _layer(self) -> nn.Module:
        return self.weighted(DenseGATv2Conv, backend=self.backend)

    def out(self) -> Tensor:
        return self.layer(self.x, self._adj)

    def plain(self) -> Tensor:
        return self.pyg()(self.x[0], self.edge_index)


class DenseAllPairs(Dense):
    """Dense attention over all pairs of nodes."""

    def _layer(self) -> nn.Module:
        del self._adj
        self._mask = dense_bias(self.edge_index, self.size.nodes, dtype=self.dtype)
        return self.weighted(AllPairs)

    def out(self) -> Tensor:
        return self.layer(self.x[0], self._mask)


_KINDS: dict[str, type[Call]] = {
    "batched": Batched,
    "repeated": Repeated,
    "pyg-repeated": PyGRepeated,
    "none": Unbiased,
    "edge": Biased,
    "head": ByHead,
    "edge-trained": Trained,
    "head-trained": TrainedByHead,
    "dense-layer": Dense,
    "all-pairs": DenseAllPairs,
}


def make(
    part: str,
    contestant: str,
    size: Size,
    device: str,
    backend: str,
    dtype: torch.dtype = torch.float32,
) -> Call:
    """A contestant of a part (see :data:`CONTESTANTS`)."""
    if contestant not in CONTESTANTS[part]:
        raise ValueError(f"Expected a contestant of {part}, got {contestant!r}")
    return _KINDS[contestant](size, device, backend, dtype)
