"""The layer on dense batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import glorot, zeros
from torch_geometric.typing import OptTensor

from gatv2_pyg.backends import check_backend_name, requested_backend, select_backend
from gatv2_pyg.dense.edges import edges_of
from gatv2_pyg.functional import attend
from gatv2_pyg.inputs import check_feature_size, check_not_distributed
from gatv2_pyg.kernels.contract import Inputs
from gatv2_pyg.ops.checks import check_dropout, check_slope


class DenseGATv2Conv(torch.nn.Module):
    r"""GATv2 on dense batches, with the conventions of
    :class:`torch_geometric.nn.dense.DenseGATConv`.

    Parameters and ``state_dict`` are those of :class:`gatv2_pyg.GATv2Conv` without edge features,
    and so is what it computes on the edges of ``adj``.  The fused kernels run over those edges: no
    ``[B, N, N, H, C]`` tensor is built, nor an ``[E, H, C]`` one.  Where the values of ``adj``
    can't be read (under ``torch.compile``, ``torch.export`` and torch.func transforms) they run
    over all pairs of nodes instead, with a bias of -inf where there is no edge.

    Args:
        in_channels (int): the size of an input feature, -1 to derive it from the first call.
        out_channels (int): the size ``C`` of an output feature, per head.
        heads (int): the number of attention heads ``H``.
        concat (bool): whether heads are concatenated, else averaged.
        negative_slope (float): the slope of LeakyReLU below zero.
        dropout (float): the probability that an attention coefficient is dropped in training.
        bias (bool): whether biases are learned.
        share_weights (bool): whether sources and destinations go through one linear map.
        residual (bool): whether a learned linear skip-connection is added.
        backend (str): see :func:`gatv2_pyg.use_backend`.
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
        residual: bool = False,
        backend: str = "auto",
    ):
        check_backend_name(backend)
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.negative_slope = negative_slope
        self.dropout = dropout
        self.share_weights = share_weights
        self.residual = residual
        self.backend = backend

        def linear(size: int, bias: bool) -> Linear:
            return Linear(in_channels, size, bias=bias, weight_initializer="glorot")

        self.lin_l = linear(heads * out_channels, bias)
        self.lin_r = self.lin_l if share_weights else linear(heads * out_channels, bias)
        self.att = Parameter(torch.empty(1, heads, out_channels))
        size = out_channels * (heads if concat else 1)
        self.res = linear(size, False) if residual else None
        self.bias: Parameter | None
        if bias:
            self.bias = Parameter(torch.empty(size))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        self.lin_l.reset_parameters()
        self.lin_r.reset_parameters()
        if self.res is not None:
            self.res.reset_parameters()
        glorot(self.att)
        zeros(self.bias)

    def forward(
        self, x: Tensor, adj: Tensor, mask: OptTensor = None, add_loop: bool = True
    ) -> Tensor:
        """Applies the layer.

        Args:
            x: ``[B, N, F]`` node features, or ``[N, F]`` for a batch of one.
            adj: ``[B, N, N]`` adjacency matrices of any dtype, or ``[1, N, N]`` or ``[N, N]``, one
                for the whole batch: node ``i`` attends to node ``j`` where ``adj[b, i, j]`` is not
                0.  Its values are not weights, and it gets no gradient.
            mask: ``[B, N]``, 0 for nodes that are padding: their output is 0.  Which nodes are
                attended to is for ``adj`` to say.
            add_loop: whether every node attends to itself too.

        Returns:
            ``[B, N, H * C]`` (``[B, N, C]`` without ``concat``).  A node that attends to none gets
            what one without neighbours gets from the sparse layer.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: an argument has the wrong shape or device.
            RuntimeError: the backend asked for by name can't be used.
        """
        x, adj = self._checked(x, adj, mask)
        batch, size, _ = x.shape
        res = self.res(x) if self.res is not None else None
        x_src = self.lin_l(x).view(batch, size, self.heads, self.out_channels)
        x_dst = x_src if self.share_weights else self.lin_r(x).view_as(x_src)
        graph, attn_bias = edges_of(adj, add_loop)
        shared = adj.size(0) == 1
        shape = (batch, size) if shared else (batch * size,)
        backend = select_backend(
            requested_backend(self.backend), x_src.device, x_src.dtype, self.out_channels
        )
        out, _ = attend(
            backend,
            Inputs(
                x_src.view(*shape, *x_src.shape[2:]),
                x_dst.view(*shape, *x_src.shape[2:]),
                self.att[0],
                None,
                None,
                attn_bias,
            ),
            graph,
            negative_slope=self.negative_slope,
            dropout=self.dropout if self.training else 0.0,
            return_attention=False,
            dtype=torch.promote_types(x_src.dtype, self.att.dtype),
        )
        attended = out
        out = out.view(batch, size, self.heads, self.out_channels)
        out = out.flatten(2) if self.concat else out.mean(dim=2)
        if res is not None:
            out = out + res
        if self.bias is not None:
            out = out + self.bias
        if mask is not None:
            count = batch if mask.numel() == batch * size else 1
            out = out * mask.reshape(count, size, 1).to(out.dtype)
        elif self.bias is None and res is None and self.concat and attended.requires_grad:
            # Backward needs what attention returned; the caller may change what is returned here.
            out = out.clone()
        return out

    def _checked(self, x: Tensor, adj: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x`` and ``adj`` with their batch dimensions, known to fit the layer and each other."""
        check_dropout(self.dropout)
        check_slope(self.negative_slope)
        check_not_distributed("att", self.att)
        for lin in (self.lin_l, self.lin_r, self.res):
            if lin is not None:
                check_feature_size("x", x, lin)
        if x.dim() > 3:
            raise ValueError(f"Expected 'x' to have the shape [B, N, F], got {list(x.shape)}")
        if x.layout != torch.strided:
            raise TypeError(f"Expected 'x' to be a dense Tensor, got one in {x.layout}")
        x = x.unsqueeze(0) if x.dim() == 2 else x
        batch, size, _ = x.shape
        if not isinstance(adj, Tensor):
            raise TypeError(f"Expected 'adj' to be a Tensor, got {type(adj).__name__}")
        check_not_distributed("adj", adj)
        if adj.layout != torch.strided:
            raise TypeError(f"Expected 'adj' to be a dense Tensor, got one in {adj.layout}")
        given = list(adj.shape)
        adj = adj.unsqueeze(0) if adj.dim() == 2 else adj
        if adj.dim() != 3 or adj.size(0) not in (1, batch) or adj.shape[1:] != (size, size):
            raise ValueError(
                f"Expected 'adj' to have the shape [{batch}, {size}, {size}], or [1, {size}, "
                f"{size}] for the whole batch, got {given}"
            )
        if mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"Expected 'mask' to be a Tensor, got {type(mask).__name__}")
        if mask is not None and not _fits_nodes(mask, batch, size):
            raise ValueError(
                f"Expected 'mask' to have the shape [{batch}, {size}], got {list(mask.shape)}"
            )
        for name, value in (("adj", adj), ("mask", mask)):
            if value is not None and value.device != x.device:
                raise ValueError(
                    f"Expected '{name}' to be on {x.device}, as 'x', got {value.device}"
                )
        return x, adj

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads})"


def _fits_nodes(mask: Tensor, batch: int, size: int) -> bool:
    """Whether a mask is ``[batch, size]`` or one for the whole batch, but for dimensions of 1."""
    sizes = [[n for n in shape if n != 1] for shape in (mask.shape, (batch, size), (size,))]
    return sizes[0] in sizes[1:]
