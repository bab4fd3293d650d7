"""A contestant's layer, made in one place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch_geometric import nn as pyg

from benchmarks.harness.errors import UsageError
from benchmarks.layers.contestants import (
    DENSE,
    DOT_PRODUCT,
    FUSED_GAT,
    GAT,
    OURS,
    PYG_GATV2,
    Contestant,
)
from benchmarks.layers.dense import DenseGATv2Conv
from benchmarks.layers.fused_gat import FusedGATConv
from gatv2_pyg import GATv2Conv


def layer(
    contestant: Contestant,
    in_channels: int,
    out_channels: int,
    *,
    heads: int = 1,
    backend: str = "auto",
    **options: Any,
) -> nn.Module:
    """An attention layer. ``options``: concat, dropout, add_self_loops, share_weights, ...

    ``share_weights`` is dropped where the layer has none; ``backend`` is this project's alone.
    """
    if contestant is OURS:
        return GATv2Conv(in_channels, out_channels, heads=heads, backend=backend, **options)
    if contestant is PYG_GATV2:
        return pyg.GATv2Conv(in_channels, out_channels, heads=heads, **options)
    if contestant is DENSE:
        return DenseGATv2Conv(in_channels, out_channels, heads=heads, **options)
    options.pop("share_weights", None)
    if contestant is GAT:
        return pyg.GATConv(in_channels, out_channels, heads=heads, **options)
    if contestant is FUSED_GAT:
        return FusedGATConv(in_channels, out_channels, heads=heads, backend=backend, **options)
    if contestant is DOT_PRODUCT:
        return pyg.TransformerConv(in_channels, out_channels, heads=heads, **options)
    raise ValueError(f"unknown contestant {contestant!r}")


def resolve_backend(backend: str, device: str) -> str:
    """The backend this project's layer takes for ``--backend`` on a device (float32)."""
    conv: Any = layer(OURS, 8, 8, backend=backend).to(device)
    x = torch.zeros(2, 8, device=device)
    edge_index = torch.tensor([[0], [1]], device=device)
    try:
        return str(conv.backend_for(x, edge_index).name)
    except RuntimeError as error:
        raise UsageError(f"--backend {backend}: {error}") from None
