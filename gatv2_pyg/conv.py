"""The layer: a drop-in :class:`torch_geometric.nn.GATv2Conv`."""

from __future__ import annotations

import contextlib
import contextvars
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import glorot, zeros
from torch_geometric.typing import Adj, OptTensor, PairTensor, SparseTensor
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor, softmax
from torch_geometric.utils.sparse import set_sparse_value

from gatv2_pyg import inputs
from gatv2_pyg.backends import Backend, check_backend_name, requested_backend, select_backend
from gatv2_pyg.functional import attend, draw_seed
from gatv2_pyg.graph import Graph, adjacency
from gatv2_pyg.ops.reference import accumulation_dtype, dropout_scale
from gatv2_pyg.passing import why_message_passing

_edge_ids: contextvars.ContextVar[Tensor | None] = contextvars.ContextVar("edge_ids", default=None)


class GATv2Conv(MessagePassing):
    r"""GATv2 of Brody et al., `"How Attentive are Graph Attention Networks?"
    <https://arxiv.org/abs/2105.14491>`_ (equation 7), fused.

    .. math::
        \mathbf{x}'_i = \sum_{j \in \mathcal{N}(i) \cup \{i\}} \alpha_{ij} \mathbf{W}_l \mathbf{x}_j
        , \qquad
        \alpha_{ij} = \mathrm{softmax}_j \left( \mathbf{a}^{\top} \mathrm{LeakyReLU}
        (\mathbf{W}_l \mathbf{x}_j + \mathbf{W}_r \mathbf{x}_i + \mathbf{W}_e \mathbf{e}_{ij})
        \right)

    A drop-in replacement of :class:`torch_geometric.nn.GATv2Conv`: constructor, ``forward``,
    parameters, ``state_dict`` and results are the same, and no ``[E, H, C]`` tensor is built.

    The layer takes PyG's message passing (:meth:`edge_update`, :meth:`message`) whenever fusing
    would change what a user sees: under ``explain``, with a message-passing hook, in a subclass
    that overrides a step of it, with another aggregation than the sum, with decomposed layers.

    Args:
        in_channels (int or tuple): the size of an input feature, -1 to derive it from the first
            call; a tuple gives (source, destination) in a bipartite graph.
        out_channels (int): the size ``C`` of an output feature, per head.
        heads (int): the number of attention heads ``H``.
        concat (bool): whether heads are concatenated, else averaged.
        negative_slope (float): the slope of LeakyReLU below zero.
        dropout (float): the probability that an attention coefficient is dropped in training.
        add_self_loops (bool): whether every node gets a self-loop, in place of those there are.
        edge_dim (int, optional): the size ``D`` of an edge feature, if there are any.
        fill_value (float or Tensor or str): the features of added self-loops: a value, or a
            reduction (``"add"``, ``"mean"``, ``"min"``, ``"max"``, ``"mul"``) over the edges that
            point to the node.
        bias (bool): whether biases are learned.
        share_weights (bool): whether :math:`\mathbf{W}_r = \mathbf{W}_l`.
        residual (bool): whether a learned linear skip-connection is added.
        backend (str): see :func:`gatv2_pyg.use_backend`.
        **kwargs: arguments of :class:`torch_geometric.nn.conv.MessagePassing`.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: float | Tensor | str = "mean",
        bias: bool = True,
        share_weights: bool = False,
        residual: bool = False,
        backend: str = "auto",
        **kwargs,
    ):
        super().__init__(node_dim=0, **kwargs)

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.negative_slope = negative_slope
        self.dropout = dropout
        self.add_self_loops = add_self_loops
        self.edge_dim = edge_dim
        self.fill_value = fill_value
        self.residual = residual
        self.share_weights = share_weights
        self.backend = check_backend_name(backend)
        self._warned_of_missing_edge_attr = False

        def linear(channels: int, size: int, bias: bool) -> Linear:
            return Linear(channels, size, bias=bias, weight_initializer="glorot")

        in_src, in_dst = (in_channels,) * 2 if isinstance(in_channels, int) else in_channels
        self.lin_l = linear(in_src, heads * out_channels, bias)
        self.lin_r = self.lin_l if share_weights else linear(in_dst, heads * out_channels, bias)
        self.att = Parameter(torch.empty(1, heads, out_channels))
        if edge_dim is not None:
            self.lin_edge = linear(edge_dim, heads * out_channels, False)
        else:
            self.lin_edge = None

        total_out_channels = out_channels * (heads if concat else 1)
        if residual:
            self.res = linear(in_dst, total_out_channels, False)
        else:
            self.register_parameter("res", None)
        if bias:
            self.bias = Parameter(torch.empty(total_out_channels))
        else:
            self.register_parameter("bias", None)

        self.reset_parameters()

    def reset_parameters(self):
        """Draws all parameters anew."""
        super().reset_parameters()
        self.lin_l.reset_parameters()
        self.lin_r.reset_parameters()
        if self.lin_edge is not None:
            self.lin_edge.reset_parameters()
        if self.res is not None:
            self.res.reset_parameters()
        glorot(self.att)
        zeros(self.bias)

    def forward(
        self,
        x: Tensor | PairTensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, SparseTensor]:
        """Applies the layer.

        Args:
            x: ``[N, F_in]`` node features, or a pair ``([N_src, F_src], [N_dst, F_dst])``.
            edge_index: ``[2, E]`` integers or an :class:`torch_geometric.EdgeIndex`; or a
                transposed sparse adjacency (``torch.sparse`` or ``SparseTensor``).
            edge_attr: ``[E, D]`` edge features (``[E]`` if ``D`` is 1).
            return_attention_weights: whether to return the attention coefficients too.

        Returns:
            ``[N_dst, H * C]`` (``[N_dst, C]`` without ``concat``).  With
            ``return_attention_weights`` also ``(edge_index [2, E'], alpha [E', H])`` (for a sparse
            adjacency, that with its values), self-loops included.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: an argument has the wrong shape, device or indices.
            RuntimeError: the backend asked for by name can't be used.
        """
        x_l, x_r = self._check(x, edge_index, edge_attr)
        backend = self._select(x_l)
        edge_index = adjacency.rows_first(edge_index)
        graph = self._graph(x_l.size(0), x_r.size(0), edge_index, backend)
        res = self.res(x_r) if self.res is not None else None
        single = x_l is x_r
        x_l = self.lin_l(x_l).view(-1, self.heads, self.out_channels)
        if single and self.share_weights:
            x_r = x_l
        else:
            x_r = self.lin_r(x_r).view(-1, self.heads, self.out_channels)

        call = (x_l, x_r, edge_index, edge_attr, bool(return_attention_weights))
        if graph is None:
            out, attention = self._pass_messages(*call)
        else:
            out, attention = self._attend(backend, graph, *call)

        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if res is not None:
            out = out + res
        if self.bias is not None:
            out = out + self.bias
        return out if attention is None else (out, attention)

    def backend_for(
        self, x: Tensor | PairTensor, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Backend:
        """Which path :meth:`forward` takes for these arguments, and why.

        Returns:
            A :class:`gatv2_pyg.Backend`, ``(name, reason, kernels)``.

        Raises:
            The errors of :meth:`forward`.
        """
        return self._select(self._check(x, edge_index, edge_attr)[0])

    def edge_update(
        self,
        x_j: Tensor,
        x_i: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        dim_size: int | None,
    ) -> Tensor:
        """Attention coefficients ``[E, H]`` after dropout, by formulas (1)-(2)."""
        z = x_i + x_j  # (1)
        if edge_attr is not None:
            if edge_attr.dim() == 1:
                edge_attr = edge_attr.view(-1, 1)
            if self.lin_edge is None:
                raise ValueError("Expected no 'edge_attr' in a layer without 'edge_dim'")
            z = z + self.lin_edge(edge_attr).view(-1, self.heads, self.out_channels)
        s = (F.leaky_relu(z, self.negative_slope) * self.att).sum(dim=-1)  # (2)
        alpha = softmax(s, index, ptr, dim_size)
        if self.training and self.dropout > 0:
            ids = None if torch.compiler.is_compiling() else _edge_ids.get()
            ids = torch.arange(alpha.size(0), device=alpha.device) if ids is None else ids
            acc = accumulation_dtype(alpha.dtype)
            scale = dropout_scale(ids, self.heads, self.dropout, draw_seed(), acc)
            alpha = alpha * scale.to(alpha.dtype)
        return alpha

    def message(self, x_j: Tensor, alpha: Tensor) -> Tensor:
        """Messages ``[E, H, C]``, the terms of (3)."""
        return x_j * alpha.unsqueeze(-1)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, "
            f"{self.out_channels}, heads={self.heads})"
        )

    def __setstate__(self, data):
        data.setdefault("backend", "auto")
        data.setdefault("_warned_of_missing_edge_attr", False)
        super().__setstate__(data)

    def _check(self, x, edge_index: Adj, edge_attr: OptTensor) -> tuple[Tensor, Tensor]:
        x_l, x_r = inputs.check_features(x, self.lin_l, self.lin_r)
        if self.res is not None:
            inputs.check_feature_size("x", x_r, self.res)
        adjacency.check_adjacency(edge_index, self.flow, x_l.device)
        inputs.check_edge_attr(edge_attr, edge_index, self.edge_dim, x_l, self.lin_edge)
        if self.add_self_loops and edge_attr is not None and is_sparse(edge_index):
            raise NotImplementedError(
                "Expected no 'edge_attr' with 'add_self_loops' and a sparse 'edge_index'; pass "
                "'edge_index' as a [2, num_edges] tensor"
            )
        if edge_attr is not None and adjacency.is_column_major(edge_index):
            raise NotImplementedError(
                "Expected no 'edge_attr' with an 'edge_index' in CSC layout; pass it in CSR layout "
                "or as a [2, num_edges] tensor"
            )
        if self.edge_dim is not None and edge_attr is None and not is_sparse(edge_index):
            self._warn_of_missing_edge_attr()
        return x_l, x_r

    def _warn_of_missing_edge_attr(self) -> None:
        if not self._warned_of_missing_edge_attr and not torch.compiler.is_compiling():
            self._warned_of_missing_edge_attr = True
            warnings.warn(
                f"{self!r} has edge_dim={self.edge_dim} but got no 'edge_attr': it attends without "
                "edge features",
                stacklevel=4,
            )

    def _select(self, x: Tensor) -> Backend:
        name = requested_backend(self.backend)
        reason = why_message_passing(self, GATv2Conv)
        if reason is not None:
            if name not in ("auto", "reference"):
                raise RuntimeError(f"backend={name!r} can't be used: {reason}")
            return Backend("reference", f"message passing: {reason}")
        return select_backend(name, x.device, inputs.compute_dtype(x), self.out_channels)

    def _graph(self, num_src: int, num_dst: int, edge_index: Adj, backend: Backend) -> Graph | None:
        """The grouped edges, or None for message passing; the indices are checked either way."""
        if self.flow == "target_to_source":
            num_dst = min(num_src, num_dst)
        if backend.name == "reference":
            adjacency.check_indices(edge_index, num_src, num_dst, self.flow)
            return None
        return adjacency.graph_of(
            edge_index, num_src, num_dst, self.add_self_loops, self.fill_value, self.flow
        )

    def _attend(
        self, backend: Backend, graph: Graph, x_l, x_r, edge_index, edge_attr, return_attention
    ):
        """Attention over the grouped edges, without ``[E, H, C]`` where it is fused."""
        num_src = x_l.size(0)
        num_nodes = min(num_src, x_r.size(0))
        if self.flow == "target_to_source":
            # PyG's message passing returns a row for each row of x[0] then.
            x_r = x_r[:num_nodes]
        adj = edge_index
        if is_sparse(adj) and (return_attention or adjacency.has_features(adj)):
            if self.add_self_loops:
                adj = adjacency.matrix_with_self_loops(adj, self.fill_value)
            edge_attr = adjacency.features_of(adj) if edge_attr is None else edge_attr
        elif edge_attr is not None and self.add_self_loops:
            edge_attr = adjacency.attr_with_self_loops(
                edge_index, edge_attr, num_nodes, self.fill_value
            )
        if edge_attr is not None:
            edge_attr = edge_attr.unsqueeze(1) if edge_attr.dim() == 1 else edge_attr
            if inputs.is_lazy(self.lin_edge):
                self.lin_edge.initialize_parameters(self.lin_edge, (edge_attr,))
            edge_attr = edge_attr.to(x_l.dtype)
        weight = None if edge_attr is None else self.lin_edge.weight
        out, alpha = attend(
            backend,
            (x_l, x_r, self.att[0], edge_attr, weight),
            graph,
            self.negative_slope,
            self.dropout if self.training else 0.0,
            return_attention,
        )
        if self.flow == "target_to_source" and num_nodes < num_src:
            out = F.pad(out, (0, 0, 0, 0, 0, num_src - num_nodes))
        if alpha is None:
            return out, None
        if self.add_self_loops and not is_sparse(adj):
            adj, ids = adjacency.edges_with_self_loops(adj, num_nodes)
            alpha = alpha if graph.complete else alpha[ids]
        return out, _with_attention(adj, alpha)

    def _pass_messages(self, x_l, x_r, edge_index, edge_attr, return_attention):
        """Attention by PyG's message passing, step by step."""
        num_nodes = min(x_l.size(0), x_r.size(0))
        ids = None
        if self.add_self_loops and is_sparse(edge_index):
            edge_index = adjacency.matrix_with_self_loops(edge_index, self.fill_value)
        elif self.add_self_loops:
            if edge_attr is not None:
                edge_attr = adjacency.attr_with_self_loops(
                    edge_index, edge_attr, num_nodes, self.fill_value
                )
            edge_index, ids = adjacency.edges_with_self_loops(edge_index, num_nodes)
            edge_attr = None if edge_attr is None else edge_attr[ids]

        index = adjacency.as_int64(edge_index)
        with _with_edge_ids(ids) if ids is not None else contextlib.nullcontext():
            # edge_updater_type: (x: PairTensor, edge_attr: OptTensor)
            alpha = self.edge_updater(index, x=(x_l, x_r), edge_attr=edge_attr)
        # propagate_type: (x: PairTensor, alpha: Tensor)
        out = self.propagate(index, x=(x_l, x_r), alpha=alpha)
        return out, _with_attention(edge_index, alpha) if return_attention else None


@contextlib.contextmanager
def _with_edge_ids(ids: Tensor) -> Iterator[None]:
    """Tells :meth:`GATv2Conv.edge_update` the ids of the edges, for the dropout mask."""
    if torch.compiler.is_compiling():
        yield
        return
    token = _edge_ids.set(ids)
    try:
        yield
    finally:
        _edge_ids.reset(token)


def _with_attention(adj: Adj, alpha: Tensor):
    if isinstance(adj, SparseTensor):
        return adj.set_value(alpha, layout="coo")
    return (set_sparse_value(adj, alpha) if is_torch_sparse_tensor(adj) else adj), alpha
