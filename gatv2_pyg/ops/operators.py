"""The fused kernels as torch operators: schemas, fake kernels, autograd.

``kernels`` names a module of :mod:`gatv2_pyg.kernels`; it is imported at its first use.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from gatv2_pyg.ops import reference
from gatv2_pyg.ops.reference import accumulation_dtype

_INPUTS = "Tensor x_src, Tensor x_dst, Tensor att, Tensor? edge_attr, Tensor? edge_weight"
_GRAPH = "Tensor[] by_dst, Tensor[] by_src"
_OPTIONS = "float negative_slope, float dropout, Tensor? seed"
_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")
_lib.define(
    f"attention({_INPUTS}, {_GRAPH}, {_OPTIONS}, "
    "SymInt num_ids, bool return_attention, str kernels) -> (Tensor out, Tensor lse, Tensor alpha)"
)
_lib.define(
    "attention_backward(Tensor? grad_out, Tensor? grad_alpha, "
    f"{_INPUTS}, Tensor out, Tensor lse, Tensor? alpha, {_GRAPH}, {_OPTIONS}, "
    "bool[] needs, str kernels) "
    "-> (Tensor x_src, Tensor x_dst, Tensor att, Tensor edge_attr, Tensor edge_weight)"
)


@functools.cache
def load_kernels(name: str) -> ModuleType:
    """The kernel module of that name, ``"cpu"`` or ``"triton"``."""
    return importlib.import_module(f"gatv2_pyg.kernels.{name}")


def _contiguous(tensors):
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _attention(*args):
    *inputs, by_dst, _, slope, dropout, seed, num_ids, return_attention, kernels = args
    seed = 0 if seed is None else int(seed)
    out, lse, alpha = load_kernels(kernels).forward(
        *_contiguous(inputs), by_dst, num_ids, slope, dropout, seed, return_attention
    )
    return out, lse, lse.new_empty((0, lse.size(1))) if alpha is None else alpha


def _attention_fake(x_src, x_dst, *args):
    num_ids, return_attention, _ = args[-3:]
    num_dst, heads, _ = x_dst.shape
    acc = accumulation_dtype(x_src.dtype)
    return (
        x_dst.new_empty(x_dst.shape),
        x_dst.new_empty((num_dst, heads), dtype=acc),
        x_dst.new_empty((num_ids if return_attention else 0, heads), dtype=acc),
    )


def _attention_backward(*args):
    *tensors, by_dst, by_src, slope, dropout, seed, needs, kernels = args
    seed = 0 if seed is None else int(seed)
    grads = load_kernels(kernels).backward(
        *_contiguous(tensors), by_dst, by_src, slope, dropout, seed, tuple(needs)
    )
    return tuple(tensors[2].new_empty(0) if grad is None else grad for grad in grads)


def _attention_backward_fake(grad_out, grad_alpha, *args):
    *inputs_and_saved, needs, _ = args
    inputs = inputs_and_saved[:5]
    return tuple(
        value.new_empty(value.shape) if needed else inputs[0].new_empty(0)
        for value, needed in zip(inputs, needs, strict=True)
    )


class _Attention(torch.autograd.Function):
    """Keeps inputs, ``out`` and ``lse``; all else is computed again in backward."""

    @staticmethod
    def forward(ctx, *args):
        *inputs, by_dst, by_src, slope, dropout, seed, num_ids, return_attention, kernels = args
        with torch._C._AutoDispatchBelowAutograd():
            out, lse, alpha = attention(*args)
        returned = alpha if return_attention else None
        ctx.save_for_backward(*inputs, out, lse, returned, seed, *by_dst, *by_src)
        ctx.options, ctx.kernels = (slope, dropout), kernels
        ctx.num_ids, ctx.return_attention = num_ids, return_attention
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(lse, *([] if return_attention else [alpha]))
        return out, lse, alpha

    @staticmethod
    def backward(ctx, grad_out, grad_lse, grad_alpha):
        rest = (None,) * 8
        if grad_out is None and grad_alpha is None:
            return (None,) * 5 + rest
        saved, rows = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
        *inputs, out, lse, alpha, seed = saved
        by_dst, by_src = list(rows[:5]), list(rows[5:])
        needs = ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():
            # Second derivatives: a forward and a backward that autograd can follow.
            options = (*ctx.options, 0 if seed is None else seed)
            outputs = reference.forward(
                *inputs, by_dst, ctx.num_ids, *options, ctx.return_attention
            )
            grads = reference.backward(
                grad_out, grad_alpha, *inputs, *outputs, by_dst, by_src, *options, needs
            )
            return *grads, *rest
        alpha = None if grad_alpha is None else alpha
        grads = attention_backward(
            grad_out,
            grad_alpha,
            *(*inputs, out, lse, alpha, by_dst, by_src, *ctx.options, seed, needs, ctx.kernels),
        )
        grads = [grad if needed else None for grad, needed in zip(grads, needs, strict=True)]
        return *grads, *rest


def _attention_autograd(*args):
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in args[:5]
    ):
        return _Attention.apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return attention(*args)


_lib.impl("attention", _attention, "CompositeExplicitAutograd")
_lib.impl("attention", _attention_autograd, "Autograd")
_lib.impl("attention_backward", _attention_backward, "CompositeExplicitAutograd")
torch.library.register_fake("gatv2_pyg::attention", _attention_fake, lib=_lib)
torch.library.register_fake("gatv2_pyg::attention_backward", _attention_backward_fake, lib=_lib)

attention = torch.ops.gatv2_pyg.attention.default
attention_backward = torch.ops.gatv2_pyg.attention_backward.default
