"""Sparse features, layers of the same weights, and what both give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric import nn as pyg

from gatv2_pyg import GATv2Conv, kernels

NODES, FEATURES = 50, 40
LAYOUTS = {
    "csr": Tensor.to_sparse_csr,
    "csc": Tensor.to_sparse_csc,
    "coo": Tensor.to_sparse_coo,
}
compiled = pytest.mark.skipif(kernels.cpu_kernels() is None, reason="needs the compiled kernels")
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def features(seed: int = 0, dtype=torch.float64, rows: int = NODES) -> Tensor:
    """Four in five entries are zero, one row and one column wholly."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, FEATURES, generator=rng, dtype=torch.float64)
    x = x * (torch.rand(rows, FEATURES, generator=rng) < 0.2)
    x[3], x[:, 5] = 0, 0
    return x.to(dtype)


def edges(sources: int = NODES, destinations: int = NODES) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    ends = [torch.randint(size, (200,), generator=rng) for size in (sources, destinations)]
    return torch.stack(ends)


def pair_of_layers(in_channels=FEATURES, dtype=torch.float64, **options):
    torch.manual_seed(0)
    theirs = pyg.GATv2Conv(in_channels, 5, heads=3, **options).to(dtype)
    ours = GATv2Conv(in_channels, 5, heads=3, **options).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def step(layer, x, edge_index, **options) -> list[Tensor]:
    """The output and the gradients of all parameters."""
    out = layer(x, edge_index)
    rng = torch.Generator().manual_seed(2)
    grad = torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, list(layer.parameters()), grad, **options)]


def assert_same(got: list[Tensor], want: list[Tensor], **tolerance) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
