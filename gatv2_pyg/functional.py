"""GATv2 attention as one function: checks, the choice of backend, the call."""

from __future__ import annotations

import torch
from torch import Tensor

from gatv2_pyg.backends import Backend, backend_in_force, requested_backend, select_backend
from gatv2_pyg.graph import Graph
from gatv2_pyg.inputs import check_not_distributed
from gatv2_pyg.kernels.contract import Inputs
from gatv2_pyg.kernels.plain import unwrapped
from gatv2_pyg.ops import direct, operators, reference, scatter
from gatv2_pyg.ops.checks import (
    check_bias,
    check_dropout,
    check_inputs,
    check_seed,
    check_slope,
    holds_slope,
)
from gatv2_pyg.ops.dropout import options_of


def gatv2_attention(
    x_src: Tensor,
    x_dst: Tensor,
    att: Tensor,
    graph: Graph,
    *,
    edge_attr: Tensor | None = None,
    edge_weight: Tensor | None = None,
    attn_bias: Tensor | None = None,
    negative_slope: float = 0.2,
    dropout: float = 0.0,
    training: bool = False,
    return_attention: bool = False,
    seed: Tensor | int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Multi-head GATv2 attention over the edges of a graph.

    Equations (1), (3) and (7) of Brody et al., `"How Attentive are Graph Attention Networks?"
    <https://arxiv.org/abs/2105.14491>`_, with the linear maps already applied: for every edge
    :math:`e` from source :math:`j` to destination :math:`i`, and every head,

    .. math::
        s_e &= \mathbf{a}^{\top} \mathrm{LeakyReLU}(\mathbf{x}^{src}_j + \mathbf{x}^{dst}_i
               + \mathbf{W}_{edge} \mathbf{e}_e) + b_e, \\
        \alpha_e &= \exp(s_e) / \textstyle\sum_{e' \to i} \exp(s_{e'}), \qquad
        \mathbf{out}_i = \textstyle\sum_{e \to i} \alpha_e \, \mathbf{x}^{src}_j.

    Sums are kept in float32 (float64 for float64).  With a fused backend no ``[E, H, C]`` tensor
    is built and results are bitwise the same from run to run.

    Args:
        x_src: ``[*, N_src, H, C]`` transformed source features (PyG's ``lin_l(x)``).  The
            dimensions ``*`` are a batch on one graph, of calls that share all but ``x_src`` and
            ``x_dst``; dropout differs between its elements.
        x_dst: ``[*, N_dst, H, C]`` transformed destination features (PyG's ``lin_r(x)``).
        att: ``[H, C]`` attention vectors.
        graph: the edges.
        edge_attr: ``[graph.num_ids, D]`` edge features, a row per edge id.
        edge_weight: ``[H * C, D]``, :math:`\mathbf{W}_{edge}` (PyG's ``lin_edge.weight``).
        attn_bias: ``[graph.num_ids]`` or ``[graph.num_ids, H]``, :math:`b_e`, a row per edge id, in
            any floating dtype.  Where it is -inf the edge takes no part: its coefficient is 0, and
            so are gradients through it; a destination that has no other edges gets 0.
        negative_slope: the slope of LeakyReLU below zero.
        dropout: the probability that an attention coefficient is dropped in training.
        training: whether dropout is applied.
        return_attention: whether to return the coefficients too.
        seed: what dropout is a function of, with edge id, head and element of the batch: an integer
            from 0 to 2**63 - 1, or a 0-dimensional int64 tensor of one; drawn from torch's default
            generator if None.  Processes that share a graph (:meth:`Graph.rows`) pass the same.
        backend: see :func:`gatv2_pyg.use_backend`.

    Returns:
        ``[*, N_dst, H, C]`` (zero for a destination without edges); with ``return_attention`` also
        the coefficients ``[*, graph.num_ids, H]`` after dropout, zero for removed self-loops.

    Raises:
        TypeError: a tensor has the wrong dtype, or is a DTensor.
        ValueError: a tensor has the wrong shape or device, or a number is out of its range.
        RuntimeError: the backend asked for by name can't be used.
    """
    if not return_attention and seed is None and type(graph) is Graph and graph.is_plain:
        inputs = Inputs(x_src, x_dst, att, edge_attr, edge_weight, attn_bias)
        found = _at_once(inputs, graph, negative_slope, dropout, training, backend)
        if found is not None:
            return found
    if not isinstance(x_src, Tensor):
        raise TypeError(f"Expected 'x_src' to be a Tensor, got {type(x_src).__name__}")
    if not isinstance(graph, Graph):
        raise TypeError(f"Expected 'graph' to be a gatv2_pyg.Graph, got {type(graph).__name__}")
    if attn_bias is not None:
        check_bias(attn_bias, graph.num_ids, x_src.size(-2) if x_src.dim() > 2 else 1, x_src)
        attn_bias = attn_bias.unsqueeze(1) if attn_bias.dim() == 1 else attn_bias
    inputs = Inputs(x_src, x_dst, att, edge_attr, edge_weight, attn_bias)
    for name, value in zip(Inputs._fields, inputs, strict=True):
        check_not_distributed(name, value)
    check_inputs(inputs, graph.num_src, graph.num_dst, graph.num_ids)
    if graph.device != x_src.device:
        raise ValueError(
            f"Expected 'graph' to be on {x_src.device}, as 'x_src', got {graph.device}"
        )
    check_dropout(dropout)
    check_slope(negative_slope)
    if seed is not None:
        check_seed(seed)
    chosen = select_backend(requested_backend(backend), x_src.device, x_src.dtype, x_src.size(-1))
    out, alpha = attend(
        chosen,
        inputs,
        graph,
        negative_slope=negative_slope,
        dropout=dropout if training else 0.0,
        return_attention=return_attention,
        dtype=x_src.dtype,
        seed=seed,
    )
    return out if alpha is None else (out, alpha)


def _at_once(
    inputs: Inputs,
    graph: Graph,
    negative_slope: float,
    dropout: float,
    training: bool,
    backend: str,
) -> Tensor | None:
    """The output of a call that the step in C++ checks by itself; None where Python is to."""
    if not (
        unwrapped()
        and type(negative_slope) is float
        and type(dropout) is float
        and 0.0 <= dropout <= 1.0
        and holds_slope(negative_slope)
        and isinstance(inputs.x_src, Tensor)
        and (backend_in_force() or backend) in ("auto", "fused")
    ):
        return None
    edges = graph.edges(with_sources=_follows(inputs))
    return direct.step(inputs, edges, graph.num_src, negative_slope, dropout if training else 0.0)


def _follows(inputs: Inputs) -> bool:
    """Whether backward goes over the edges by source."""
    return torch.is_grad_enabled() and inputs.x_src.requires_grad


def attend(
    backend: Backend,
    inputs: Inputs,
    graph: Graph,
    *,
    negative_slope: float,
    dropout: float,
    return_attention: bool,
    dtype: torch.dtype,
    seed: Tensor | int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`gatv2_attention` on a chosen backend, for arguments that are known to be right.

    Args:
        inputs: those of the contract, but for any number of batch dimensions, and any floating
            dtype of what is to be in the accumulation dtype.
        dropout: 0 outside training.
        dtype: that of the result: the dtype of ``x_src``, or a wider one.
        seed: that of the dropout; drawn if None.
    """
    x_src, x_dst, att, edge_attr, weight, bias = inputs
    acc, lead = reference.accumulation_dtype(x_src.dtype), x_src.shape[:-3]
    weight = None if weight is None else _cast(weight, acc)
    bias = None if bias is None else _cast(bias, acc)
    inputs = Inputs(x_src, x_dst, _cast(att, acc), edge_attr, weight, bias)
    if len(lead) > 1:
        inputs = inputs._replace(
            x_src=inputs.x_src.flatten(0, len(lead) - 1),
            x_dst=inputs.x_dst.flatten(0, len(lead) - 1),
        )
    options = options_of(negative_slope, dropout, x_src.device, seed)
    # Kernels take no rows without heads; what comes of them is empty.
    if backend.kernels is not None and inputs.x_src.size(-2) > 0:
        edges = graph.edges(with_sources=_follows(inputs))
        call = inputs, edges, options, return_attention, dtype == acc
        if (
            backend.kernels == "cpu"
            and graph.is_plain
            and direct.fits(inputs, edges, graph.num_src)
        ):
            found = None
            if not return_attention:
                number = None if dropout == 0 else int(options.seed)
                found = direct.step(inputs, edges, graph.num_src, *options[:2], number)
            out, alpha = direct.attention(*call) if found is None else (found, None)
        else:
            graph.vouch()
            out, alpha = operators.attention(*call, kernels=backend.kernels)
    else:
        forward = scatter.forward if backend.name == "scatter" else reference.forward
        edges = graph.edges(with_sources=False)
        out, _, alpha = forward(inputs, edges, options, return_attention)
    if len(lead) > 1:
        out = out.unflatten(0, lead)
        alpha = None if alpha is None else alpha.unflatten(0, lead)
    return _cast(out, dtype), None if alpha is None else _cast(alpha, dtype)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value.to(dtype)``, without a call of torch where there is nothing to do."""
    return value if value.dtype == dtype else value.to(dtype)
