"""The networks of the node classification studies, for any contestant's layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import global_add_pool

from benchmarks.layers.build import layer
from benchmarks.layers.contestants import Contestant


def drop(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout of features ``[N, F]``, dense or CSR (there an entry not stored is 0 either way)."""
    if x.layout is torch.strided:
        return F.dropout(x, p, training)
    values = F.dropout(x.values(), p, training)
    return torch.sparse_csr_tensor(
        x.crow_indices(), x.col_indices(), values, x.size(), check_invariants=False
    )


class TwoLayerGAT(nn.Module):
    """The transductive set-up of the GAT paper (Veličković et al., 2018, section 3.3).

    Dropout, attention with ``heads`` heads of ``hidden`` channels each, ELU, dropout, one output
    head; dropout acts on attention too.

    Args:
        contestant: whose layer.
        in_channels, num_classes: of the data set.
        output_heads: averaged (1 on Cora and CiteSeer, 8 on PubMed).
        options: of the layer (backend, share_weights, ...).
    """

    def __init__(
        self,
        contestant: Contestant,
        in_channels: int,
        num_classes: int,
        *,
        hidden: int = 8,
        heads: int = 8,
        output_heads: int = 1,
        dropout: float = 0.6,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv1 = layer(contestant, in_channels, hidden, heads=heads, dropout=dropout, **options)
        self.conv2 = layer(
            contestant,
            hidden * heads,
            num_classes,
            heads=output_heads,
            concat=False,
            dropout=dropout,
            **options,
        )

    def forward(self, x: Tensor, edges: Any) -> Tensor:
        """Class scores ``[N, num_classes]``; ``x`` dense or CSR, ``edges`` what the layer takes."""
        x = drop(x, self.dropout, self.training)
        x = F.elu(self.conv1(x, edges))
        x = F.dropout(x, self.dropout, self.training)
        return self.conv2(x, edges)


class ResidualGAT(nn.Module):
    """Attention layers with layer normalisation and skip connections between linear maps.

    The form used for the heterophilous graphs (Platonov et al., 2023), where the features of a
    node must survive the aggregation of unlike neighbours.

    Args:
        contestant: whose layer.
        in_channels, num_classes: of the data set.
        layers, hidden, heads: number of attention layers; channels per head; heads.
        options: of the layer (backend, share_weights, ...).
    """

    def __init__(
        self,
        contestant: Contestant,
        in_channels: int,
        num_classes: int,
        *,
        layers: int = 2,
        hidden: int = 8,
        heads: int = 8,
        dropout: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__()
        width = hidden * heads
        self.dropout = dropout
        self.lin_in = nn.Linear(in_channels, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.convs = nn.ModuleList(
            layer(contestant, width, hidden, heads=heads, **options) for _ in range(layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.lin_out = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, edges: Any) -> Tensor:
        """Class scores ``[N, num_classes]``."""
        x = F.gelu(F.dropout(self.lin_in(x), self.dropout, self.training))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            out = F.dropout(conv(norm(x), edges), self.dropout, self.training)
            x = x + F.gelu(out)
        return self.lin_out(self.norm_out(x))


class MoleculeGAT(nn.Module):
    """Regression on molecules: attention layers over atoms, then the sum over the atoms of each.

    Args:
        contestant: whose layer.
        in_channels: number of atom features.
        edge_dim: number of bond features, None to attend without them.
        layers, hidden, heads: number of attention layers; channels per head; heads.
        options: of the layer (backend, ...).
    """

    def __init__(
        self,
        contestant: Contestant,
        in_channels: int,
        edge_dim: int | None,
        *,
        layers: int = 4,
        hidden: int = 16,
        heads: int = 4,
        **options: Any,
    ) -> None:
        super().__init__()
        width = hidden * heads
        self.convs = nn.ModuleList(
            layer(contestant, size, hidden, heads=heads, edge_dim=edge_dim, **options)
            for size in (in_channels, *(width for _ in range(layers - 1)))
        )
        self.out = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(
        self, x: Tensor, edges: Tensor, edge_attr: Tensor, molecule: Tensor, count: int
    ) -> Tensor:
        """A number for each of ``count`` molecules, ``[count]``.

        Args:
            x: ``[N, in_channels]`` features of all atoms.
            edges: ``[2, E]``.
            edge_attr: ``[E, edge_dim]``, not looked at without ``edge_dim``.
            molecule: ``[N]``, the molecule of each atom, ascending.
            count: number of molecules.
        """
        for place, conv in enumerate(self.convs):
            bonds = () if conv.edge_dim is None else (edge_attr,)
            out = F.elu(conv(x, edges, *bonds))
            x = x + out if place else out
        return self.out(global_add_pool(x, molecule, count) / 10).squeeze(-1)
