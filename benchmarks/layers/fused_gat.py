"""The original GAT on the kernels of this project: PyG's GATConv, its function in less time.

For accuracy studies on large graphs, where PyG's layer would take hours. GAT scores an edge by
LeakyReLU(<a_src, x_j> + <a_dst, x_i>) (Veličković et al., 2018, equation 3). That is a GATv2 score
with one more channel: the two terms are in it, ``att`` is 1 there and 0 elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric.nn import GATConv

from gatv2_pyg import Graph, gatv2_attention


class FusedGATConv(GATConv):
    """PyG's GATConv for an int ``in_channels`` and a plain ``edge_index [2, E]``.

    Node features are ``[N, in_channels]``, or a pair of them for a bipartite graph. Parameters,
    ``state_dict`` and (to rounding) outputs and gradients are those of ``GATConv``; there is no
    ``edge_attr``, and attention weights are not returned.
    """

    def __init__(self, *args, backend: str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.backend = backend
        self._graphs: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def forward(self, x: Tensor | tuple[Tensor, Tensor], edge_index: Tensor) -> Tensor:
        """``[N, heads * out_channels]``, or ``[N, out_channels]`` if not ``concat``."""
        heads, channels = self.heads, self.out_channels
        x_src, x_dst = x if isinstance(x, tuple) else (x, x)
        values = self.lin(x_src).view(-1, heads, channels)
        queries = values if x_dst is x_src else self.lin(x_dst).view(-1, heads, channels)
        source = (values * self.att_src).sum(dim=-1, keepdim=True)
        destination = (queries * self.att_dst).sum(dim=-1, keepdim=True)
        att = F.pad(values.new_zeros(heads, channels), (0, 1), value=1.0)
        out: Any = gatv2_attention(
            torch.cat([values, source], dim=-1),
            F.pad(destination, (channels, 0)),
            att,
            self._graph(edge_index, x_src.size(0), x_dst.size(0)),
            negative_slope=self.negative_slope,
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
        )
        out = out[..., :channels]
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if self.res is not None:
            out = out + self.res(x_dst)
        return out if self.bias is None else out + self.bias

    def _graph(self, edge_index: Tensor, num_src: int, num_dst: int) -> Graph:
        """The grouped edges, made once for a tensor that is not written to."""
        state = (edge_index._version, num_src, num_dst)
        known = self._graphs.get(edge_index)
        if known is None or known[0] != state:
            graph = Graph.from_edge_index(
                edge_index, num_src, num_dst, add_self_loops=self.add_self_loops, flow=self.flow
            )
            known = self._graphs[edge_index] = (state, graph)
        return known[1]
