"""The layers that are compared, under one name and colour each, built in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION


@dataclass(frozen=True)
class Contestant:
    """A layer as tables and pictures name it (``short``: in the heads of wide tables)."""

    key: str
    label: str
    color: str
    short: str
    has_self_loops: bool = True


OURS = Contestant("ours", "gatv2_pyg GATv2Conv", BLUE, "GATv2 (ours)")
PYG_GATV2 = Contestant("pyg-gatv2", "PyG GATv2Conv", VERMILION, "GATv2 (PyG)")
GAT = Contestant("gat", "PyG GATConv (GAT)", ORANGE, "GAT")
FUSED_GAT = Contestant("fused-gat", "GAT on gatv2_pyg's kernels", ORANGE, "GAT")
FUSED_GAT_NOTE = (
    "GAT is trained on gatv2_pyg's kernels, for time: the parameters and, to rounding, the outputs "
    "and gradients of PyG's GATConv. Where times are shown, they are those of GATConv itself."
)
DENSE = Contestant("dense", "dense GATv2 (N×N)", PURPLE, "dense GATv2")
DOT_PRODUCT = Contestant(
    "dot-product", "PyG TransformerConv (dot product)", GREEN, "dot product", False
)

NO_ATTENTION = Contestant("no-attention", "the linear maps alone", GREY, "linear maps")


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
        from gatv2_pyg import GATv2Conv

        return GATv2Conv(in_channels, out_channels, heads=heads, backend=backend, **options)
    if contestant is PYG_GATV2:
        return pyg.GATv2Conv(in_channels, out_channels, heads=heads, **options)
    if contestant is DENSE:
        from benchmarks.layers.dense import DenseGATv2Conv

        return DenseGATv2Conv(in_channels, out_channels, heads=heads, **options)
    if contestant is NO_ATTENTION:
        from benchmarks.layers.networks import LinearMaps

        return LinearMaps(in_channels, out_channels, heads, options.get("concat", True))
    options.pop("share_weights", None)
    if contestant is GAT:
        return pyg.GATConv(in_channels, out_channels, heads=heads, **options)
    if contestant is FUSED_GAT:
        from benchmarks.layers.fused_gat import FusedGATConv

        return FusedGATConv(in_channels, out_channels, heads=heads, backend=backend, **options)
    if contestant is DOT_PRODUCT:
        return pyg.TransformerConv(in_channels, out_channels, heads=heads, **options)
    raise ValueError(f"unknown contestant {contestant!r}")


def resolve_backend(backend: str, device: str) -> str:
    """The backend this project's layer takes for ``--backend`` on a device (float32)."""
    import torch

    conv = layer(OURS, 8, 8, backend=backend).to(device)
    x = torch.zeros(2, 8, device=device)
    edge_index = torch.tensor([[0], [1]], device=device)
    try:
        return str(conv.backend_for(x, edge_index).name)
    except RuntimeError as error:
        raise UsageError(f"--backend {backend}: {error}") from None
