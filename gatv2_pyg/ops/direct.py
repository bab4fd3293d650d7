"""The short way to the CPU kernels: attention on plain tensors, past the dispatcher.

The operators of :mod:`gatv2_pyg.ops.operators` serve whatever wraps a call; a small graph spends
more time there than in the kernels.  Where nothing wraps the call, it takes this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import (
    Edges,
    InputGrads,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
)
from gatv2_pyg.kernels.plain import are_plain, has_function_mode, have_plain_types, unwrapped
from gatv2_pyg.ops import followed, native, operators
from gatv2_pyg.ops.reference import accumulation_dtype

_NEEDS = len(Needs._fields)


def fits(inputs: Inputs, edges: Edges, num_src: int) -> bool:
    """Whether a call may take the short way; the operators tell what is wrong otherwise.

    Args:
        inputs: tensors, not known to fit each other.
        edges: those of a :class:`gatv2_pyg.Graph`.
        num_src: its number of source nodes.
    """
    x_src, x_dst, att, edge_attr, edge_weight, attn_bias = inputs
    if not unwrapped() or not are_plain(inputs) or x_src.dim() not in (3, 4):
        return False
    dtype, ptr = x_src.dtype, edges.by_dst.ptr
    *lead, rows, heads, channels = x_src.shape
    if not (
        rows == num_src
        and x_dst.dtype == dtype
        and x_dst.shape == (*lead, ptr.numel() - 1, heads, channels)
        and att.dtype == accumulation_dtype(dtype)
        and att.shape == (heads, channels)
        and ptr.is_cpu
    ):
        return False
    return fit_edges(edge_attr, edge_weight, attn_bias, x_src, att, edges.num_ids)


def fit_edges(
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    attn_bias: Tensor | None,
    x_src: Tensor,
    att: Tensor,
    num_ids: int,
) -> bool:
    """Whether what belongs to the edges fits the other :class:`Inputs`."""
    heads, channels = att.shape[-2:]
    if attn_bias is not None and not (
        attn_bias.dtype == att.dtype
        and attn_bias.dim() == 2
        and attn_bias.size(0) <= num_ids
        and attn_bias.size(1) in (1, heads)
    ):
        return False
    if edge_attr is None or edge_weight is None:
        return edge_attr is edge_weight
    return (
        edge_attr.dtype == x_src.dtype
        and edge_attr.dim() == 2
        and edge_attr.size(0) == num_ids
        and edge_weight.dtype == att.dtype
        and edge_weight.shape == (heads * channels, edge_attr.size(1))
    )


def step(
    inputs: Inputs,
    edges: Edges,
    num_src: int,
    negative_slope: float,
    dropout: float,
    seed: int | None = None,
) -> Tensor | None:
    """Attention by the step in C++, for calls that nothing wraps; None where it takes no such.

    It tells by itself what tensors fit, in float32 and float64 alone.

    Args:
        inputs: tensors, not known to fit each other.
        edges: those of a :class:`gatv2_pyg.Graph`.
        num_src: its number of source nodes.
        negative_slope, dropout: numbers that the checks take.
        seed: drawn if None and needed, once the step takes the call.
    """
    compiled = native.operators()
    if (
        compiled is None
        or inputs.attn_bias is not None
        or not have_plain_types(inputs)
        or has_function_mode()
    ):
        return None
    by_dst, by_src, num_ids = edges
    numbers = num_src, num_ids, negative_slope, dropout, seed
    return compiled.attention_step(*inputs[:-1], by_dst, by_src or (), *numbers)


def attention(
    inputs: Inputs, edges: Edges, options: Options, return_attention: bool, widen: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`gatv2_pyg.ops.operators.attention` by the CPU kernels, for what :func:`fits`."""
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in inputs
    ):
        return _DirectAttention.apply(edges, options, return_attention, widen, *inputs)
    outputs = _forward(inputs, edges, options, return_attention)
    return _rounded(outputs.out, inputs, widen), outputs.alpha


def _forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs:
    kernels = operators.load_kernels("cpu")
    return kernels.forward(operators.contiguous(inputs), edges, options, return_attention)


def _rounded(out: Tensor, inputs: Inputs, widen: bool) -> Tensor:
    return out if widen or out.dtype == inputs.x_src.dtype else out.to(inputs.x_src.dtype)


def forms(values: Iterable[Tensor | None]) -> list[tuple | None]:
    """What the kernels go by beside the numbers."""
    return [None if value is None else (value.dtype, value.shape) for value in values]


class _DirectAttention(torch.autograd.Function):
    """Keeps inputs, ``out`` and ``lse``, as the operators' does; the graph is no one else's."""

    @staticmethod
    def forward(ctx, edges: Edges, options: Options, return_attention: bool, widen: bool, *flat):
        inputs = Inputs(*flat)
        outputs = _forward(inputs, edges, options, return_attention)
        ctx.edges, ctx.options, ctx.return_attention = edges, options, return_attention
        saved = (*inputs, *outputs)
        ctx.forms = forms(saved)
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        return _rounded(outputs.out, inputs, widen), outputs.alpha

    @staticmethod
    def backward(ctx, grad_out, grad_alpha):
        # Checkpointing allows one look at what was saved.
        saved = ctx.saved_tensors
        inputs, outputs = Inputs(*saved[:_NEEDS]), Outputs(*saved[_NEEDS:])
        nothing = (None,) * 4
        if grad_out is None and grad_alpha is None:
            return (*nothing, *(None,) * _NEEDS)
        needs = Needs(*ctx.needs_input_grad[4:])
        grads = OutputGrads(grad_out, grad_alpha)
        # Hooks may have made other tensors of what was saved.
        direct = (
            not torch.is_grad_enabled()
            and unwrapped()
            and are_plain((*saved, *grads))
            and forms(saved) == ctx.forms
        )
        if direct:
            if grad_alpha is None:
                outputs = outputs._replace(alpha=None)
            found = _backward(grads, inputs, outputs, ctx.edges, ctx.options, needs)
        else:
            call = inputs, ctx.edges, ctx.options
            found = operators.gradients(
                operators.NATIVE, grads, *call, outputs, needs, ctx.return_attention
            )
        return (*nothing, *found)


def _backward(
    grads: OutputGrads,
    inputs: Inputs,
    outputs: Outputs,
    edges: Edges,
    options: Options,
    needs: Needs,
) -> InputGrads:
    out, alpha = grads
    grads = OutputGrads(
        None if out is None else out.to(inputs.x_src.dtype).contiguous(),
        None if alpha is None else alpha.to(inputs.att.dtype).contiguous(),
    )
    return operators.load_kernels("cpu").backward(
        grads,
        operators.contiguous(inputs),
        operators.contiguous(outputs),
        edges,
        options,
        needs,
    )


def _followed(
    grad: Tensor,
    inputs: Inputs,
    needs: dict[str, bool],
    edges: Edges,
    options: Options,
    outputs: Outputs,
) -> Sequence[Tensor | None]:
    """The gradients by the operators."""
    grads, call = OutputGrads(grad, None), (inputs, edges, options)
    return operators.gradients(operators.NATIVE, grads, *call, outputs, Needs(**needs), False)


followed.register("attention_gradients", Inputs, lambda *call: _followed(*call))
