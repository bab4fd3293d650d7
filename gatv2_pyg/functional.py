"""GATv2 attention as one function: checks, the choice of backend, the call."""

from __future__ import annotations

import torch
from torch import Tensor

from gatv2_pyg.backends import Backend, requested_backend, select_backend
from gatv2_pyg.graph import Graph
from gatv2_pyg.ops import operators as ops
from gatv2_pyg.ops import reference, scatter

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""``x_src``, ``x_dst``, ``att``, ``edge_attr`` and ``edge_weight``."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def gatv2_attention(
    x_src: Tensor,
    x_dst: Tensor,
    att: Tensor,
    graph: Graph,
    *,
    edge_attr: Tensor | None = None,
    edge_weight: Tensor | None = None,
    negative_slope: float = 0.2,
    dropout: float = 0.0,
    training: bool = False,
    return_attention: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Multi-head GATv2 attention over the edges of a graph.

    Equations (1), (3) and (7) of Brody et al., `"How Attentive are Graph Attention Networks?"
    <https://arxiv.org/abs/2105.14491>`_, with the linear maps already applied: for every edge
    :math:`e` from source :math:`j` to destination :math:`i`, and every head,

    .. math::
        s_e &= \mathbf{a}^{\top} \mathrm{LeakyReLU}(\mathbf{x}^{src}_j + \mathbf{x}^{dst}_i
               + \mathbf{W}_{edge} \mathbf{e}_e), \\
        \alpha_e &= \exp(s_e) / \textstyle\sum_{e' \to i} \exp(s_{e'}), \qquad
        \mathbf{out}_i = \textstyle\sum_{e \to i} \alpha_e \, \mathbf{x}^{src}_j.

    Sums are kept in float32 (float64 for float64).  With a fused backend no ``[E, H, C]`` tensor
    is built and results are bitwise the same from run to run.

    Args:
        x_src: ``[N_src, H, C]`` transformed source features (PyG's ``lin_l(x)``).
        x_dst: ``[N_dst, H, C]`` transformed destination features (PyG's ``lin_r(x)``).
        att: ``[H, C]`` attention vectors.
        graph: the edges.
        edge_attr: ``[graph.num_ids, D]`` edge features, a row per edge id.
        edge_weight: ``[H * C, D]``, :math:`\mathbf{W}_{edge}` (PyG's ``lin_edge.weight``).
        negative_slope: the slope of LeakyReLU below zero.
        dropout: the probability that an attention coefficient is dropped in training.
        training: whether dropout is applied.  Its seed comes from torch's default generator.
        return_attention: whether to return the coefficients too.
        backend: see :func:`gatv2_pyg.use_backend`.

    Returns:
        ``[N_dst, H, C]`` (zero for a destination without edges); with ``return_attention`` also
        the coefficients ``[graph.num_ids, H]`` after dropout, zero for removed self-loops.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: a tensor has the wrong shape or device, or a number is out of its range.
        RuntimeError: the backend asked for by name can't be used.
    """
    _check(x_src, x_dst, att, graph, edge_attr, edge_weight, dropout)
    chosen = select_backend(requested_backend(backend), x_src.device, x_src.dtype, x_src.size(2))
    inputs = (x_src, x_dst, att, edge_attr, edge_weight)
    dropout = dropout if training else 0.0
    out, alpha = attend(chosen, inputs, graph, negative_slope, dropout, return_attention)
    return out if alpha is None else (out, alpha)


def draw_seed() -> Tensor:
    """A dropout seed from torch's default generator: a 0-dimensional int64 tensor on the CPU."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")


def attend(
    backend: Backend,
    inputs: Inputs,
    graph: Graph,
    negative_slope: float,
    dropout: float,
    return_attention: bool,
) -> tuple[Tensor, Tensor | None]:
    """:func:`gatv2_attention` on a chosen backend, for arguments that are known to be right.

    Args:
        inputs: ``x_src``, ``x_dst``, ``att``, ``edge_attr`` and ``edge_weight``.
    """
    x_src, x_dst, att, edge_attr, edge_weight = inputs
    acc = reference.accumulation_dtype(x_src.dtype)
    att = att.to(acc)
    edge_weight = None if edge_weight is None else edge_weight.to(acc)
    inputs = (x_src, x_dst, att, edge_attr, edge_weight)
    seed = draw_seed() if dropout > 0 else None
    if backend.kernels is not None:
        needs_by_src = torch.is_grad_enabled() and x_src.requires_grad
        by_src = graph.by_src_in_blocks(_blocks(backend, graph, x_src)) if needs_by_src else ()
        out, _, alpha = ops.attention(
            *inputs,
            list(graph.by_dst),
            list(by_src),
            negative_slope,
            dropout,
            seed,
            graph.num_ids,
            return_attention,
            backend.kernels,
        )
    else:
        options = (negative_slope, dropout, 0 if seed is None else seed, return_attention)
        forward = scatter.forward if backend.name == "scatter" else reference.forward
        out, *_, alpha = forward(*inputs, graph.by_dst, graph.num_ids, *options)
    return out, alpha.to(out.dtype) if return_attention else None


def _blocks(backend: Backend, graph: Graph, x_src: Tensor) -> int:
    """In how many ranges of destinations the kernels want the edges by source."""
    if backend.kernels != "cpu" or torch.compiler.is_compiling():
        return 1
    return ops.load_kernels("cpu").source_blocks(x_src, graph.num_dst, graph.num_ids)


def _check(x_src, x_dst, att, graph, edge_attr, edge_weight, dropout) -> None:
    if x_src.dtype not in _DTYPES:
        raise TypeError(f"Expected 'x_src' to have a floating dtype, got {x_src.dtype}")
    if x_src.dim() != 3:
        raise ValueError(
            f"Expected 'x_src' to have the shape [N_src, H, C], got {list(x_src.shape)}"
        )
    num_src, heads, channels = x_src.shape
    _check_tensor("x_dst", x_dst, (graph.num_dst, heads, channels), x_src)
    _check_tensor("att", att, (heads, channels), x_src, same_dtype=False)
    if num_src != graph.num_src:
        raise ValueError(
            f"Expected 'x_src' to have {graph.num_src} rows, as the graph has source nodes, "
            f"got {num_src}"
        )
    if graph.device != x_src.device:
        raise ValueError(
            f"Expected 'graph' to be on {x_src.device}, as 'x_src', got {graph.device}"
        )
    if (edge_attr is None) != (edge_weight is None):
        given, missing = (
            ("edge_attr", "edge_weight") if edge_weight is None else ("edge_weight", "edge_attr")
        )
        raise ValueError(f"Expected '{missing}' to be given with '{given}', got None")
    if edge_attr is not None:
        _check_tensor("edge_attr", edge_attr, (graph.num_ids, None), x_src)
        shape = (heads * channels, edge_attr.size(1))
        _check_tensor("edge_weight", edge_weight, shape, x_src, same_dtype=False)
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"Expected 'dropout' to be between 0 and 1, got {dropout}")


def _check_tensor(name, value, shape, x_src, same_dtype=True) -> None:
    if value.dim() != len(shape) or any(
        want is not None and size != want for size, want in zip(value.shape, shape, strict=True)
    ):
        want = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"Expected '{name}' to have the shape [{want}], got {list(value.shape)}")
    if value.device != x_src.device:
        raise ValueError(
            f"Expected '{name}' to be on {x_src.device}, as 'x_src', got {value.device}"
        )
    if same_dtype and value.dtype != x_src.dtype:
        raise TypeError(
            f"Expected '{name}' to have the dtype {x_src.dtype}, as 'x_src', got {value.dtype}"
        )
    if value.dtype not in _DTYPES:
        raise TypeError(f"Expected '{name}' to have a floating dtype, got {value.dtype}")
