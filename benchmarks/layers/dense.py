"""GATv2 as dense attention over all N × N pairs, masked by the adjacency matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def dense_bias(
    edge_index: Tensor,
    num_nodes: int,
    *,
    add_self_loops: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What is added to the score of each pair: ``[N, N]``, row i, column j for j → i.

    0 for an edge, -inf for none; log n for n parallel edges, which the softmax counts n times.
    Self-loops are replaced by one each, as the sparse layer does.
    """
    source, target = edge_index
    if add_self_loops:
        keep = source != target
        loops = torch.arange(num_nodes, device=edge_index.device)
        source, target = torch.cat([source[keep], loops]), torch.cat([target[keep], loops])
    count = torch.zeros(num_nodes, num_nodes, dtype=dtype, device=edge_index.device)
    one = torch.ones((), dtype=dtype, device=edge_index.device)
    return count.index_put_((target, source), one, accumulate=True).log_()


class DenseGATv2Conv(nn.Module):
    """The function of ``GATv2Conv`` (no edge features) computed over all pairs of nodes.

    Scores, LeakyReLU and softmax are those of equations (1)-(3) with the sum over every node and
    the adjacency as a mask. Heads are computed one after the other and LeakyReLU works in place:
    training keeps one ``[N, N, C]`` tensor per head. Parameters have the names and shapes of
    ``torch_geometric.nn.GATv2Conv``, whose ``state_dict`` loads strictly.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        bias: bool = True,
        share_weights: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.out_channels, self.concat = heads, out_channels, concat
        self.negative_slope, self.dropout = negative_slope, dropout
        width = heads * out_channels
        self.lin_l = nn.Linear(in_channels, width, bias=bias)
        self.lin_r = self.lin_l if share_weights else nn.Linear(in_channels, width, bias=bias)
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.bias = nn.Parameter(torch.zeros(width if concat else out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot initialisation, as in the sparse layer."""
        for linear in {self.lin_l, self.lin_r}:
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.xavier_uniform_(self.att)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Features ``[N, in_channels]`` and :func:`dense_bias` ``[N, N]`` to ``[N, H * C]``
        (``[N, C]`` with ``concat=False``)."""
        shape = (-1, self.heads, self.out_channels)
        x_src, x_dst = self.lin_l(x).view(shape), self.lin_r(x).view(shape)
        empty = torch.isneginf(bias).all(dim=1, keepdim=True)
        bias = bias.masked_fill(empty, 0.0)
        heads = []
        for h in range(self.heads):
            z = x_dst[:, None, h] + x_src[None, :, h]
            z = F.leaky_relu(z, self.negative_slope, inplace=True)
            alpha = (z @ self.att[0, h] + bias).softmax(dim=1).masked_fill(empty, 0.0)
            alpha = F.dropout(alpha, self.dropout, self.training)
            heads.append(alpha @ x_src[:, h])
        out = torch.stack(heads, dim=1)
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        return out if self.bias is None else out + self.bias
