"""Attention as torch operators: schemas, kernels by dispatch key, fakes, autograd, batching.

``attention`` and ``attention_backward`` run the C++ kernels on CPU and the Triton kernels on CUDA.
``triton_attention`` and its backward run the Triton kernels on CPU, in Triton's interpreter.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gatv2_pyg.kernels import load_kernels
from gatv2_pyg.kernels.contract import (
    Edges,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
)
from gatv2_pyg.ops import reference
from gatv2_pyg.ops.call import SCHEMA, Call
from gatv2_pyg.ops.checks import check_call, check_results, check_sources
from gatv2_pyg.ops.reference import accumulation_dtype

_lib = torch.library.Library("gatv2_pyg", "FRAGMENT")


class Operators(NamedTuple):
    """A forward operator and its backward, for one choice of kernels."""

    forward: torch._ops.OpOverload
    backward: torch._ops.OpOverload


def attention(
    inputs: Inputs,
    edges: Edges,
    options: Options,
    return_attention: bool,
    widen: bool,
    kernels: str,
) -> tuple[Tensor, Tensor | None]:
    """Attention by fused kernels.

    Args:
        inputs: the tensors of the call.
        edges: the edges, by source too where ``x_src`` needs a gradient.
        options: the numbers of the call; the seed is a tensor, or the dropout is 0.
        return_attention: whether to return the coefficients.
        widen: whether ``out`` stays in the accumulation dtype.
        kernels: ``"cpu"`` or ``"triton"``.

    Returns:
        ``out [N_dst, H, C]``, and ``keep_e alpha_e [num_ids, H]`` in the accumulation dtype or
        None.
    """
    interpreted = kernels == "triton" and inputs.x_src.device.type == "cpu"
    operators = INTERPRETED if interpreted else NATIVE
    call = Call.of(inputs, edges, options)
    out, _, _, alpha = operators.forward(*call, return_attention, widen)
    return out, alpha if return_attention else None


def _forward(kernels: str, call: Call, return_attention: bool, widen: bool):
    dtype = call.x_src.dtype
    acc = accumulation_dtype(dtype)
    check_call(call.inputs, call.edges, call.options, acc)
    if call.by_src is not None:
        check_sources(call.inputs, call.edges)
    inputs = contiguous(call.inputs)
    options = call.options
    out, lse, alpha = load_kernels(kernels).forward(inputs, call.edges, options, return_attention)
    nothing = lse.new_empty(0)
    exact = nothing
    if not widen and dtype != acc:
        out, exact = out.to(dtype), out
    return out, exact, lse, nothing.clone() if alpha is None else alpha


def _forward_fake(call: Call, return_attention: bool, widen: bool):
    *lead, num_dst, heads, _ = call.x_dst.shape
    acc = accumulation_dtype(call.x_src.dtype)
    rounded = not widen and call.x_src.dtype != acc
    x_dst = call.x_dst
    return (
        x_dst.new_empty(x_dst.shape, dtype=None if rounded else acc),
        x_dst.new_empty(x_dst.shape if rounded else (0,), dtype=acc),
        x_dst.new_empty((*lead, num_dst, heads), dtype=acc),
        x_dst.new_empty((*lead, call.num_ids, heads) if return_attention else (0,), dtype=acc),
    )


def _backward(kernels: str, grads: OutputGrads, outputs: Outputs, needs: Needs, call: Call):
    acc = accumulation_dtype(call.x_src.dtype)
    check_call(call.inputs, call.edges, call.options, acc)
    if needs.x_src:
        check_sources(call.inputs, call.edges)
    check_results(call.inputs, grads, outputs, call.num_ids, acc)
    grads = OutputGrads(
        None if grads.out is None else grads.out.to(call.x_src.dtype).contiguous(),
        None if grads.alpha is None else grads.alpha.to(acc).contiguous(),
    )
    found = load_kernels(kernels).backward(
        grads, contiguous(call.inputs), contiguous(outputs), call.edges, call.options, needs
    )
    return tuple(call.att.new_empty(0) if grad is None else grad for grad in found)


def _backward_fake(needs: Needs, call: Call):
    return tuple(
        value.new_empty(value.shape) if needed and value is not None else call.att.new_empty(0)
        for value, needed in zip(call.inputs, needs, strict=True)
    )


Tensors = TypeVar("Tensors", Inputs, Outputs)


def contiguous(values: Tensors) -> Tensors:
    """What is read, as kernels take it."""
    for value in values:
        if value is not None and not value.is_contiguous():
            break
    else:
        return values
    there = {name: value for name, value in values._asdict().items() if value is not None}
    return values._replace(**{name: value.contiguous() for name, value in there.items()})


class _Attention(torch.autograd.Function):
    """Keeps inputs, ``out`` and ``lse``; all else is computed again in backward."""

    @staticmethod
    def forward(ctx, operators: Operators, return_attention: bool, widen: bool, *flat):
        call = Call(*flat)
        with torch._C._AutoDispatchBelowAutograd():
            out, exact, lse, alpha = operators.forward(*call, return_attention, widen)
        nothing: dict[str, Any] = dict.fromkeys(call.tensors())
        ctx.operators, ctx.call = operators, call._replace(**nothing)
        ctx.return_attention = return_attention
        ctx.tensor_names = tuple(call.tensors())
        saved = exact if out.dtype != lse.dtype else out
        ctx.save_for_backward(*call.tensors().values(), saved, lse, alpha)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(exact, lse, *([] if return_attention else [alpha]))
        return out, exact, lse, alpha

    @staticmethod
    def backward(ctx, grad_out, grad_exact, grad_lse, grad_alpha):
        # Checkpointing allows one look at what was saved.
        *tensors, out, lse, alpha = ctx.saved_tensors
        call = ctx.call._replace(**dict(zip(ctx.tensor_names, tensors, strict=True)))
        none = (None,) * (3 + len(Call._fields) - len(Inputs._fields))
        if grad_out is None and grad_alpha is None:
            return (*none[:3], *(None,) * len(Inputs._fields), *none[3:])
        grads = OutputGrads(grad_out, grad_alpha)
        needs = Needs(*ctx.needs_input_grad[3 : 3 + len(Inputs._fields)])
        found = gradients(
            ctx.operators,
            grads,
            call.inputs,
            call.edges,
            call.options,
            Outputs(out, lse, alpha),
            needs,
            ctx.return_attention,
        )
        return (*none[:3], *found, *none[3:])


def gradients(
    operators: Operators,
    grads: OutputGrads,
    inputs: Inputs,
    edges: Edges,
    options: Options,
    outputs: Outputs,
    needs: Needs,
    return_attention: bool,
) -> Sequence[Tensor | None]:
    """The gradients of a call by its inputs, None where not needed."""
    if torch.is_grad_enabled() or forward_ad._current_level >= 0:
        # Second derivatives: a forward and a backward that autograd can follow.
        outputs = reference.forward(inputs, edges, options, return_attention)
        return reference.backward(grads, inputs, outputs, edges, options, needs)
    alpha = outputs.alpha if return_attention and grads.alpha is not None else None
    flat = operators.backward(*grads, *Call.of(inputs, edges, options), *outputs[:2], alpha, needs)
    return [grad if need else None for grad, need in zip(flat, needs, strict=True)]


def _autograd(operators: Operators, call: Call, return_attention: bool, widen: bool):
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in call.inputs
    ):
        return _Attention.apply(operators, return_attention, widen, *call)
    with torch._C._AutoDispatchBelowAutograd():
        return operators.forward(*call, return_attention, widen)


def _batched_backward(backward: torch._ops.OpOverload, info, in_dims, *args):
    """One call for each element of the batch."""
    results = []
    for k in range(info.batch_size):
        single = (
            value.select(dim, k) if isinstance(dim, int) else value
            for value, dim in zip(args, in_dims, strict=True)
        )
        results.append(backward(*single))
    stacked = tuple(torch.stack(grads) for grads in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _register(prefix: str, kernels: dict[str, str]) -> Operators:
    """Defines ``{prefix}attention`` and its backward; ``kernels`` by dispatch key."""
    forward, backward = f"{prefix}attention", f"{prefix}attention_backward"
    size = len(Call._fields)
    _lib.define(
        f"{forward}({SCHEMA}, bool return_attention, bool widen) "
        "-> (Tensor out, Tensor exact, Tensor lse, Tensor alpha)"
    )
    _lib.define(
        f"{backward}(Tensor? grad_out, Tensor? grad_alpha, {SCHEMA}, "
        "Tensor out, Tensor lse, Tensor? alpha, bool[] needs) "
        f"-> ({', '.join(f'Tensor {name}' for name in Inputs._fields)})"
    )
    namespace = torch.ops.gatv2_pyg
    operators = Operators(getattr(namespace, forward).default, getattr(namespace, backward).default)

    def forward_by(name):
        return lambda *args: _forward(name, Call(*args[:size]), *args[size:])

    def backward_by(name):
        return lambda *args: _backward(name, *_backward_arguments(*args))

    for key, name in kernels.items():
        _lib.impl(forward, forward_by(name), key)
        _lib.impl(backward, backward_by(name), key)
    _lib.impl(
        forward,
        lambda *args: _autograd(operators, Call(*args[:size]), *args[size:]),
        "Autograd",
    )
    torch.library.register_fake(
        f"gatv2_pyg::{forward}",
        lambda *args: _forward_fake(Call(*args[:size]), *args[size:]),
        lib=_lib,
    )
    torch.library.register_fake(
        f"gatv2_pyg::{backward}",
        lambda *args: _backward_fake(Needs(*args[-1]), Call(*args[2 : 2 + size])),
        lib=_lib,
    )
    torch.library.register_vmap(
        f"gatv2_pyg::{backward}", functools.partial(_batched_backward, operators.backward), lib=_lib
    )
    return operators


def _backward_arguments(grad_out, grad_alpha, *args):
    *flat, out, lse, alpha, needs = args
    if len(needs) != len(Needs._fields):
        raise ValueError(
            f"Expected 'needs' to have {len(Needs._fields)} elements, got {len(needs)}"
        )
    return OutputGrads(grad_out, grad_alpha), Outputs(out, lse, alpha), Needs(*needs), Call(*flat)


NATIVE = _register("", {"CPU": "cpu", "CUDA": "triton"})
INTERPRETED = _register("triton_", {"CPU": "triton"})
