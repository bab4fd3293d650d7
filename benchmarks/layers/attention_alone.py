"""Attention layers without their linear maps: what the maps give is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# The maps of a layer, with the place of their features in a pair.
_MAPS = {"lin_l": 0, "lin_r": 1, "lin": 0, "lin_src": 0, "lin_dst": 1}


class _Given(nn.Module):
    """A map whose output is there already."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out


def renewed(edges: Tensor) -> Tensor:
    """Another tensor over the same memory, which no cache of graphs knows."""
    return edges.view(edges.shape)


def attention_alone(
    layers: Sequence[Any],
    num_nodes: int | Sequence[tuple[int, int]],
    edges: Tensor | Sequence[Tensor],
    *edge_attr: Tensor,
    fresh: bool = False,
) -> Callable[[], list[Tensor]]:
    """A training step of the attention of some layers, their dropout included.

    Args:
        layers: GATv2 or GAT layers of any contestant, in training mode or not; changed in place.
        num_nodes: rows of the features; for bipartite graphs, sources and destinations by layer.
        edges: what the layers take beside features, for all of them or by layer.
        edge_attr: edge features, if the layers take any.
        fresh: whether the edges are others in each step, as far as the layers can tell.

    Returns:
        Forward of each layer, then the gradients of the maps' outputs and of what parameters there
        are beside the maps.
    """
    sizes: list[Any] = [num_nodes] * len(layers) if isinstance(num_nodes, int) else list(num_nodes)
    each = [edges] * len(layers) if isinstance(edges, Tensor) else list(edges)
    steps = [
        _step(layer, size, of_layer, *edge_attr)
        for layer, size, of_layer in zip(layers, sizes, each, strict=True)
    ]

    def run() -> list[Tensor]:
        # Layers on the same edges share what is new.
        given = {id(e): renewed(e) if fresh else e for e in each}
        pairs = zip(steps, each, strict=True)
        return [grad for step, e in pairs for grad in step(given[id(e)])]

    return run


def _step(
    layer: Any, size: int | tuple[int, int], edges: Tensor, *edge_attr: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    rng = torch.Generator().manual_seed(0)
    device = layer.bias.device
    rows = (size, size) if isinstance(size, int) else size
    nothing = [torch.zeros(number, 1, device=device) for number in rows]
    x = nothing[0] if isinstance(size, int) else tuple(nothing)

    def given(linear: Any, number: int) -> _Given:
        out = torch.randn(number, linear.weight.size(0), generator=rng)
        return _Given(out.to(device).requires_grad_())

    for name, number in _MAPS.items():
        if getattr(layer, name, None) is not None:
            setattr(layer, name, given(getattr(layer, name), rows[number]))
    leaves = [map.out for map in layer.children() if isinstance(map, _Given)]
    leaves += list(layer.parameters())
    with torch.no_grad():
        grad = torch.randn(layer(x, edges, *edge_attr).shape, generator=rng).to(device)
    return lambda edges: torch.autograd.grad(layer(x, edges, *edge_attr), leaves, grad)
