"""The layers that are compared, under one name and colour each, built in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from .palette import BLUE, GREEN, ORANGE, PURPLE, VERMILION


@dataclass(frozen=True)
class Contestant:
    """A layer as tables and pictures name it."""

    key: str
    label: str
    color: str


OURS = Contestant("ours", "gatv2_pyg GATv2Conv", BLUE)
PYG_GATV2 = Contestant("pyg-gatv2", "PyG GATv2Conv", VERMILION)
GAT = Contestant("gat", "PyG GATConv (GAT)", ORANGE)
DENSE = Contestant("dense", "dense GATv2 (N×N)", PURPLE)
DOT_PRODUCT = Contestant("dot-product", "PyG TransformerConv (dot product)", GREEN)


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
    from torch_geometric import nn as pyg

    if contestant is OURS:
        try:
            from gatv2_pyg import GATv2Conv
        except ImportError:
            return pyg.GATv2Conv(in_channels, out_channels, heads=heads, **options)
        return GATv2Conv(in_channels, out_channels, heads=heads, backend=backend, **options)
    if contestant is PYG_GATV2:
        return pyg.GATv2Conv(in_channels, out_channels, heads=heads, **options)
    if contestant is DENSE:
        from .dense import DenseGATv2Conv

        return DenseGATv2Conv(in_channels, out_channels, heads=heads, **options)
    options.pop("share_weights", None)
    if contestant is GAT:
        return pyg.GATConv(in_channels, out_channels, heads=heads, **options)
    if contestant is DOT_PRODUCT:
        if options.pop("add_self_loops", False):
            raise ValueError("TransformerConv adds no self-loops: expected add_self_loops=False")
        return pyg.TransformerConv(in_channels, out_channels, heads=heads, **options)
    raise ValueError(f"unknown contestant {contestant!r}")
