"""Attention layers without their linear maps: what the maps give is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_MAPS = ("lin_l", "lin_r", "lin")


class _Given(nn.Module):
    """A map whose output is there already."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out


def attention_alone(
    layers: Sequence[Any], num_nodes: int, edges: Any, *edge_attr: Tensor
) -> Callable[[], list[Tensor]]:
    """A training step of the attention of some layers, their dropout included.

    Args:
        layers: GATv2 or GAT layers of any contestant, in training mode or not; changed in place.
        num_nodes: rows of the features.
        edges: what the layers take beside features.
        edge_attr: edge features, if the layers take any.

    Returns:
        Forward of each layer, then the gradients of the maps' outputs and of what parameters there
        are beside the maps.
    """
    steps = [_step(layer, num_nodes, edges, *edge_attr) for layer in layers]
    return lambda: [grad for step in steps for grad in step()]


def _step(
    layer: Any, num_nodes: int, edges: Any, *edge_attr: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    rng = torch.Generator().manual_seed(0)
    device = layer.bias.device
    x = torch.zeros(num_nodes, 1, device=device)

    def given(linear: Any) -> _Given:
        size = num_nodes, linear.weight.size(0)
        return _Given(torch.randn(size, generator=rng).to(device).requires_grad_())

    for name in _MAPS:
        if getattr(layer, name, None) is not None:
            setattr(layer, name, given(getattr(layer, name)))
    leaves = [map.out for map in layer.children() if isinstance(map, _Given)]
    leaves += list(layer.parameters())
    with torch.no_grad():
        grad = torch.randn(layer(x, edges, *edge_attr).shape, generator=rng).to(device)
    return lambda: torch.autograd.grad(layer(x, edges, *edge_attr), leaves, grad)
