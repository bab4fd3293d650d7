"""The layers that are compared, under one name and colour each."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.reporting.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)


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

# Ways in which `speed` and `memory` run the layers above.
COLD = Contestant("cold", "gatv2_pyg, new graph every call", SKY, "ours, new graph")
COMPILED = Contestant("compiled", "PyG GATv2Conv, torch.compile", GREEN, "PyG compiled")
OURS_COMPILED = Contestant("ours-compiled", "gatv2_pyg, torch.compile", PURPLE, "ours compiled")
SCATTER = Contestant("scatter", "gatv2_pyg, backend scatter", GREY, "ours, scatter")
DETERMINISTIC = Contestant(
    "deterministic", "PyG GATv2Conv, deterministic", BLACK, "PyG deterministic"
)
# Of `speed`, in the order of its tables.
COMPARED = {
    c.key: c for c in (OURS, COLD, OURS_COMPILED, PYG_GATV2, COMPILED, DETERMINISTIC, GAT, SCATTER)
}
