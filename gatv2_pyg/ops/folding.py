"""A batch of calls on one graph as one call with more heads: ``b H + h`` is ``h`` of element ``b``.

For mathematics in plain torch, which autograd follows; kernels take a batch as it is.
"""

from __future__ import annotations

from torch import Tensor

from gatv2_pyg.kernels.contract import InputGrads, Inputs, OutputGrads, Outputs


def fold(inputs: Inputs) -> Inputs:
    """Inputs with a batch dimension ``B`` as inputs of ``B H`` heads without one."""
    batch = inputs.x_src.size(0)
    weight, bias = inputs.edge_weight, inputs.attn_bias
    return Inputs(
        _fold_rows(inputs.x_src),
        _fold_rows(inputs.x_dst),
        inputs.att.repeat(batch, 1),
        inputs.edge_attr,
        None if weight is None else weight.repeat(batch, 1),
        bias if bias is None or bias.size(1) == 1 else bias.repeat(1, batch),
    )


def fold_outputs(outputs: Outputs) -> Outputs:
    """What :func:`unfold_outputs` was given."""
    lse, alpha = outputs.lse, outputs.alpha
    return Outputs(
        _fold_rows(outputs.out), _fold_heads(lse), None if alpha is None else _fold_heads(alpha)
    )


def fold_grads(grads: OutputGrads) -> OutputGrads:
    """Gradients of what :func:`unfold_outputs` returned, as those of what it was given."""
    return OutputGrads(
        None if grads.out is None else _fold_rows(grads.out),
        None if grads.alpha is None else _fold_heads(grads.alpha),
    )


def unfold_outputs(outputs: Outputs, inputs: Inputs) -> Outputs:
    """The outputs of folded inputs as those of ``inputs``; an empty ``lse`` stays so."""
    size = _size_of(inputs)
    lse, alpha = outputs.lse, outputs.alpha
    return Outputs(
        _unfold_heads(outputs.out, size),
        _unfold_heads(lse, size) if lse.dim() == 2 else lse,
        None if alpha is None else _unfold_heads(alpha, size),
    )


def unfold_grads(grads: InputGrads, inputs: Inputs) -> InputGrads:
    """Gradients by folded inputs as gradients by ``inputs``: what is shared has their sum."""
    size, bias, weight = _size_of(inputs), inputs.attn_bias, inputs.edge_weight
    d_weight, d_bias = grads.edge_weight, grads.attn_bias
    if d_weight is not None and weight is not None:
        d_weight = d_weight.view(size[0], *weight.shape).sum(0)
    if d_bias is not None and bias is not None and bias.size(1) > 1:
        d_bias = d_bias.view(bias.size(0), *size).sum(1)
    return InputGrads(
        None if grads.x_src is None else _unfold_heads(grads.x_src, size),
        None if grads.x_dst is None else _unfold_heads(grads.x_dst, size),
        None if grads.att is None else grads.att.view(size[0], *inputs.att.shape).sum(0),
        grads.edge_attr,
        d_weight,
        d_bias,
    )


def _size_of(inputs: Inputs) -> tuple[int, int]:
    """Elements, and heads of each."""
    return inputs.x_src.size(0), inputs.x_src.size(2)


def _fold_rows(value: Tensor) -> Tensor:
    """``[B, N, H, C]`` to ``[N, B H, C]``."""
    batch, rows, heads, channels = value.shape
    return value.transpose(0, 1).reshape(rows, batch * heads, channels)


def _fold_heads(value: Tensor) -> Tensor:
    """``[B, N, H]`` to ``[N, B H]``."""
    batch, rows, heads = value.shape
    return value.transpose(0, 1).reshape(rows, batch * heads)


def _unfold_heads(value: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, B H, *]`` to ``[B, N, H, *]``."""
    return value.unflatten(1, size).transpose(0, 1)
