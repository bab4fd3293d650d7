"""The layer: a drop-in :class:`torch_geometric.nn.GATv2Conv`."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
import torch_geometric.nn
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.typing import Adj, OptTensor, PairTensor, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, softmax
from torch_geometric.utils.sparse import set_sparse_value

from gatv2_pyg import at_once, inputs
from gatv2_pyg.backends import Backend, check_backend_name
from gatv2_pyg.functional import attend
from gatv2_pyg.graph import Graph
from gatv2_pyg.graph.adjacency import Neighbours, as_int64, count_edges, is_matrix
from gatv2_pyg.kernels.contract import Inputs
from gatv2_pyg.maps import linear_maps
from gatv2_pyg.ops.dropout import draw_seed, dropout_scale
from gatv2_pyg.ops.reference import accumulation_dtype
from gatv2_pyg.passing import choose_backend, tell_observer

PYG_LAYER = torch_geometric.nn.GATv2Conv
"""PyG's class, whatever its name stands for later."""

OWN_STATE = {"backend": "auto", "_warned_of_missing_edge_attr": False}
"""What an instance has beyond one of PyG's class, with its defaults."""


class _Passing(threading.local):
    """What :meth:`GATv2Conv.edge_update` needs to know that PyG's message passing does not carry.

    Attributes:
        ids: of the edges that it runs over, for the dropout mask.
        attn_bias: ``[E']`` or ``[E', H]`` of the same edges.
        bias_used: whether the bias was added.
    """

    ids: Tensor | None
    attn_bias: Tensor | None
    bias_used: bool

    def __init__(self) -> None:
        self.ids = self.attn_bias = None
        self.bias_used = False


_passing = _Passing()


class GATv2Conv(torch_geometric.nn.GATv2Conv):
    r"""GATv2 of Brody et al., `"How Attentive are Graph Attention Networks?"
    <https://arxiv.org/abs/2105.14491>`_ (equation 7), fused.

    .. math::
        \mathbf{x}'_i = \sum_{j \in \mathcal{N}(i) \cup \{i\}} \alpha_{ij} \mathbf{W}_l \mathbf{x}_j
        , \qquad
        \alpha_{ij} = \mathrm{softmax}_j \left( \mathbf{a}^{\top} \mathrm{LeakyReLU}
        (\mathbf{W}_l \mathbf{x}_j + \mathbf{W}_r \mathbf{x}_i + \mathbf{W}_e \mathbf{e}_{ij})
        + b_{ij} \right)

    A :class:`torch_geometric.nn.GATv2Conv`: constructor, ``forward``, parameters, ``state_dict``
    and results are the same, and no ``[E, H, C]`` tensor is built.  Beyond it, ``forward`` takes a
    batch of features on one graph, and biases :math:`b_{ij}` of the edges.

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

    # PyG generates both for a class at its first instance, and takes what it finds as the originals
    # that ``explain`` goes back to; a parent's generated ones would be taken so.
    propagate = MessagePassing.propagate
    edge_updater = MessagePassing.edge_updater

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
        check_backend_name(backend)
        super().__init__(
            in_channels,
            out_channels,
            heads=heads,
            concat=concat,
            negative_slope=negative_slope,
            dropout=dropout,
            add_self_loops=add_self_loops,
            edge_dim=edge_dim,
            fill_value=fill_value,
            bias=bias,
            share_weights=share_weights,
            residual=residual,
            **kwargs,
        )
        self.backend = backend
        self._warned_of_missing_edge_attr = False

    def forward(
        self,
        x: Tensor | PairTensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        return_attention_weights: bool | None = None,
        attn_bias: OptTensor = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, SparseTensor]:
        """Applies the layer.

        Args:
            x: ``[*, N, F_in]`` node features, or a pair ``([*, N_src, F_src], [*, N_dst, F_dst])``.
                The dimensions ``*`` are a batch on one graph, whose elements share all else;
                dropout differs between them.  Without a batch each may also be a ``torch.sparse``
                matrix in CSR, CSC or COO layout.
            edge_index: ``[2, E]`` integers or an :class:`torch_geometric.EdgeIndex`; or a
                transposed sparse adjacency (``torch.sparse`` or ``SparseTensor``).
            edge_attr: ``[E, D]`` edge features (``[E]`` if ``D`` is 1).
            return_attention_weights: whether to return the attention coefficients too.
            attn_bias: ``[E]`` or ``[E, H]``, added to the logits of the edges before the softmax,
                in any floating dtype; 0 for added self-loops.  Where it is -inf the edge takes no
                part: its coefficient is 0, and so are gradients through it.

        Returns:
            ``[*, N_dst, H * C]`` (``[*, N_dst, C]`` without ``concat``).  With
            ``return_attention_weights`` also ``(edge_index [2, E'], alpha [*, E', H])`` (for a
            sparse adjacency without a batch, that with its values), self-loops included.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: an argument has the wrong shape, device or indices.
            RuntimeError: the backend asked for by name can't be used.
        """
        wanted = bool(return_attention_weights)
        if not wanted and attn_bias is None:
            known = at_once.again(self, GATv2Conv, x, edge_index, edge_attr)
            if known is not None:
                return known
        x_l, x_r, neighbours, lin_l, lin_r, lin_res = inputs.check(
            self, x, edge_index, edge_attr, attn_bias
        )
        if edge_attr is None and self.edge_dim is not None and not is_matrix(edge_index):
            self._warn_of_missing_edge_attr()
        backend = choose_backend(self, GATv2Conv, x_l)
        tell_observer(self, backend)
        # What is wrong with the edges is found before anything is computed.
        graph = neighbours.graph() if backend.name != "reference" else None
        if graph is None:
            neighbours.check()

        same = self.share_weights and isinstance(x, Tensor)
        if lin_res is None and x_l is x_r and not wanted and graph is not None and graph.is_plain:
            maps = at_once.Maps(lin_l, None if same else lin_r)
            if backend.kernels == "cpu" and at_once.can_be(self, x_l, maps):
                features = self._edge_features(neighbours, graph, x_l.dtype)
                found = at_once.first(self, x_l, maps, neighbours, graph, features, attn_bias)
                if found is not None:
                    return found

        at_src = linear_maps(x_l)
        at_dst = at_src if x_l is x_r else linear_maps(x_r)
        res = None if lin_res is None else at_dst(lin_res)
        x_l = self._by_head(at_src(lin_l))
        x_r = x_l if same else self._by_head(at_dst(lin_r))

        if x_r.dtype != x_l.dtype:  # maps in place of PyG's give what dtype they like
            wide = torch.promote_types(x_l.dtype, x_r.dtype)
            x_l, x_r = x_l.to(wide), x_r.to(wide)

        attention: tuple[Adj, Tensor] | None
        if graph is None:
            out, attention = self._pass_messages(neighbours, x_l, x_r, attn_bias)
        else:
            att, dtype = self.att, x_l.dtype
            edge_attr, edge_weight = self._edge_features(neighbours, graph, dtype)
            out, alpha = attend(
                backend,
                Inputs(
                    x_l,
                    _first_rows(x_r, graph.num_dst),
                    att.squeeze(0),
                    edge_attr,
                    edge_weight,
                    attn_bias if attn_bias is None or attn_bias.dim() == 2 else attn_bias[:, None],
                ),
                graph,
                negative_slope=self.negative_slope,
                dropout=self.dropout if self.training else 0.0,
                return_attention=wanted,
                dtype=dtype if att.dtype == dtype else torch.promote_types(dtype, att.dtype),
            )
            if self.flow == "target_to_source":
                # PyG's message passing returns a row for each row of x[0] then.
                out = F.pad(out, (0, 0, 0, 0, 0, x_l.size(-3) - graph.num_dst))
            attention = None if alpha is None else neighbours.order(graph, alpha)

        shared = out
        out = self._joined(out) if self.concat else out.mean(dim=-2)
        if res is not None:
            out = out + res
        bias = self.bias
        if bias is not None:
            out = out + bias
        elif res is None and self.concat and shared.requires_grad:
            # Backward needs what attention returned; the caller may change what is returned here.
            out = out.clone()
        return (out, _returned(*attention)) if wanted and attention is not None else out

    def backend_for(
        self,
        x: Tensor | PairTensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        *,
        attn_bias: OptTensor = None,
    ) -> Backend:
        """Which path :meth:`forward` takes for these arguments, and why.

        Returns:
            A :class:`gatv2_pyg.Backend`, ``(name, reason, kernels)``.

        Raises:
            The errors of :meth:`forward`.
        """
        checked = inputs.check(self, x, edge_index, edge_attr, attn_bias)
        return choose_backend(self, GATv2Conv, checked.x_src)

    def edge_update(
        self,
        x_j: Tensor,
        x_i: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        dim_size: int | None,
    ) -> Tensor:
        """Attention coefficients ``[E, H]`` after dropout, by formulas (1)-(2).

        With the ``attn_bias`` that :meth:`forward` was given.
        """
        z = x_i + x_j  # (1)
        if edge_attr is not None:
            if edge_attr.dim() == 1:
                edge_attr = edge_attr.view(-1, 1)
            if self.lin_edge is None:
                raise ValueError("Expected no 'edge_attr' in a layer without 'edge_dim'")
            z = z + self.lin_edge(edge_attr).view(-1, self.heads, self.out_channels)
        s = (F.leaky_relu(z, self.negative_slope) * self.att).sum(dim=-1)  # (2)
        bias = _passing.attn_bias
        if bias is None:
            alpha = softmax(s, index, ptr, dim_size)
        else:
            _passing.bias_used = True
            dtype, acc = s.dtype, accumulation_dtype(s.dtype)
            s = s.to(acc) + (bias if bias.dim() == 2 else bias.unsqueeze(1)).to(acc)
            # PyG's softmax has no number for a node whose scores are all -inf.
            masked = s == -torch.inf
            s = s.masked_fill(masked, torch.finfo(s.dtype).min)
            alpha = softmax(s, index, ptr, dim_size).masked_fill(masked, 0.0).to(dtype)
        if self.training and self.dropout > 0:
            ids = _passing.ids
            if ids is None:
                ids = torch.arange(alpha.size(0), device=alpha.device)
            seed = draw_seed(alpha.device)
            acc = accumulation_dtype(alpha.dtype)
            scale = dropout_scale(ids, self.heads, self.dropout, seed, acc)
            alpha = alpha * scale.to(alpha.dtype)
        return alpha

    def message(self, x_j: Tensor, alpha: Tensor) -> Tensor:
        """Messages ``[E, H, C]``, the terms of (3)."""
        return x_j * alpha.unsqueeze(-1)

    def __setstate__(self, data):
        super().__setstate__(OWN_STATE | data)

    def _warn_of_missing_edge_attr(self) -> None:
        if not self._warned_of_missing_edge_attr and not torch.compiler.is_compiling():
            self._warned_of_missing_edge_attr = True
            warnings.warn(
                f"{self!r} has edge_dim={self.edge_dim} but got no 'edge_attr': it attends without "
                "edge features",
                stacklevel=5,  # the caller of the module
            )

    def _edge_features(
        self, neighbours: Neighbours, graph: Graph, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Edge features by id, and the weight of the map they go through."""
        edge_attr = neighbours.features(graph)
        if edge_attr is None:
            return None, None
        edge_attr = edge_attr.unsqueeze(1) if edge_attr.dim() == 1 else edge_attr
        lin_edge = self.lin_edge
        if inputs.is_lazy(lin_edge):
            lin_edge.initialize_parameters(lin_edge, (edge_attr,))
        return edge_attr if edge_attr.dtype == dtype else edge_attr.to(dtype), lin_edge.weight

    def _by_head(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x.view(x.size(0), self.heads, self.out_channels)
        return x.view(*x.shape[:-1], self.heads, self.out_channels)

    def _joined(self, out: Tensor) -> Tensor:
        """``[*, N, H, C]`` as ``[*, N, H * C]``."""
        if out.size(-1) == self.out_channels:
            return out.flatten(-2)
        # Several aggregations make rows longer: PyG's layer makes more rows of them.
        return out.reshape(*out.shape[:-3], -1, self.heads * self.out_channels)

    def _pass_messages(
        self, neighbours: Neighbours, x_l: Tensor, x_r: Tensor, attn_bias: Tensor | None
    ) -> tuple[Tensor, tuple[Adj, Tensor]]:
        """Attention by PyG's message passing, step by step; a batch element by element."""
        adj, ids = neighbours.with_self_loops()
        edge_attr = neighbours.features() if neighbours.edge_attr is not None else None
        if edge_attr is not None and ids is not None:
            edge_attr = edge_attr[ids]
        if attn_bias is not None and ids is not None:
            loops = attn_bias.new_zeros(neighbours.num_nodes, *attn_bias.shape[1:])
            attn_bias = torch.cat([attn_bias, loops])[ids]
        index = as_int64(adj)

        def element(x: PairTensor) -> tuple[Tensor, Tensor]:
            with _passing_along(ids, attn_bias):
                # edge_updater_type: (x: PairTensor, edge_attr: OptTensor)
                alpha = self.edge_updater(index, x=x, edge_attr=edge_attr)
                if attn_bias is not None and not _passing.bias_used:
                    raise ValueError(
                        f"Expected no 'attn_bias', since {type(self).__name__} has an "
                        "'edge_update' of its own that does not call the layer's"
                    )
            # propagate_type: (x: PairTensor, alpha: Tensor)
            return self.propagate(index, x=x, alpha=alpha), alpha

        if x_l.dim() == 3:
            out, alpha = element((x_l, x_r))
            return out, (adj, alpha)
        lead = x_l.shape[:-3]
        pairs = zip(x_l.flatten(0, -4), x_r.flatten(0, -4), strict=True)
        found = [element(pair) for pair in pairs]
        if not found:
            alpha = x_l.new_empty(*lead, count_edges(adj), self.heads)
            return x_r if self.flow == "source_to_target" else x_l, (adj, alpha)
        out, alpha = (torch.stack(parts).unflatten(0, lead) for parts in zip(*found, strict=True))
        return out, (adj, alpha)


@contextlib.contextmanager
def _passing_along(ids: Tensor | None, attn_bias: Tensor | None) -> Iterator[None]:
    """Tells :meth:`GATv2Conv.edge_update` what :class:`_Passing` holds."""
    before = _passing.ids, _passing.attn_bias, _passing.bias_used
    _passing.ids, _passing.attn_bias, _passing.bias_used = ids, attn_bias, False
    try:
        yield
    finally:
        _passing.ids, _passing.attn_bias, _passing.bias_used = before


def _first_rows(x: Tensor, count: int) -> Tensor:
    return x if x.size(-3) == count else x[..., :count, :, :]


def _returned(adj: Adj, alpha: Tensor):
    if alpha.dim() > 2:
        return adj, alpha
    if isinstance(adj, SparseTensor):
        return adj.set_value(alpha, layout="coo")
    return (set_sparse_value(adj, alpha) if is_torch_sparse_tensor(adj) else adj), alpha
