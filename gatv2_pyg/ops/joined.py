"""A layer's linear maps, its attention and its bias as one step of autograd, on the CPU.

On a graph of some hundred edges, what autograd does for each of them takes as long as the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gatv2_pyg.kernels.contract import (
    Edges,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
)
from gatv2_pyg.kernels.plain import are_plain, has_function_mode, have_plain_types, unwrapped
from gatv2_pyg.ops import direct, followed, native, operators
from gatv2_pyg.ops.dropout import options_of


class Arguments(NamedTuple):
    """The tensors of a layer on one set of nodes; all of the dtype of ``x``, float32 or float64."""

    x: Tensor
    """``[*, N, F]``."""
    weight_l: Tensor
    """``[H * C, F]``."""
    bias_l: Tensor | None
    """``[H * C]``."""
    weight_r: Tensor | None
    """``[H * C, F]``; None where it is ``weight_l``, and ``bias_r`` is ``bias_l``."""
    bias_r: Tensor | None
    """``[H * C]``."""
    att: Tensor
    """``[1, H, C]``."""
    bias: Tensor
    """``[H * C]``, or ``[C]`` where heads are averaged."""
    edge_attr: Tensor | None
    """``[num_ids, D]``."""
    edge_weight: Tensor | None
    """``[H * C, D]``."""
    attn_bias: Tensor | None
    """``[K, H]`` or ``[K, 1]``: as :class:`gatv2_pyg.kernels.contract.Inputs` has it."""


_LINEAR: Any = torch._C._nn.linear  # its types lack `out`
# What glibc keeps, at most, when it is freed: pages that the system hands out anew cost more than
# what is written to them.
_KEPT_BYTES = 32 << 20


def takes(x: Tensor) -> bool:
    """Whether a call on such features may take this way: told before all else is at hand."""
    return (
        unwrapped()
        and not has_function_mode()
        and F.linear is _LINEAR
        and are_plain((x,))
        and x.dim() >= 2
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


class Call(NamedTuple):
    """A call of a layer on features that this way :func:`takes`."""

    arguments: Arguments
    """Tensors, not known to fit each other."""
    edges: Edges
    """Those of a :class:`gatv2_pyg.Graph`."""
    num_src: int
    """Its number of source nodes."""
    concat: bool
    """Whether heads are concatenated, else averaged."""
    heads: int
    channels: int
    negative_slope: float
    dropout: float
    """The probability; the seed is drawn where the output is computed."""


class Origin(NamedTuple):
    """What a graph and its features were made of; it must have the hashes that it had then."""

    edge_index: Tensor
    hash_of_edges: int
    edge_attr: Tensor | None
    """The edges' own features, where those of self-loops are below them in the call."""
    hash_of_features: int


def step(call: Call, origin: Origin | None = None) -> Tensor | None:
    """The output of a layer by the step in C++; None where it does not take the call.

    Args:
        call: what is computed.
        origin: what is to be confirmed, if anything.

    Returns:
        ``[N, H * C]``.
    """
    arguments, (by_dst, by_src, num_ids), num_src, concat, *shape, slope, dropout = call
    # It tells by itself what tensors fit, if their types are none that hide what they do.
    if (
        arguments.x.dim() != 2
        or arguments.attn_bias is not None
        or not _has_bias_by_head(concat, arguments)
        or arguments.att.shape != (1, *shape)
        or not have_plain_types(arguments)
    ):
        return None
    compiled = native.operators()
    if compiled is None:
        return None
    numbers = num_src, num_ids, float(slope), float(dropout)
    return compiled.layer_step(*arguments[:-1], by_dst, by_src or (), *numbers, *(origin or ()))


def layer(call: Call) -> Tensor | None:
    """``[*, N, H * C]``, or ``[*, N, C]``; None where others must compute it."""
    arguments, edges, num_src, concat, *shape, slope, dropout = call
    if not fits(arguments, edges, num_src, concat, *shape):
        return None
    options = options_of(slope, dropout, arguments.x.device)
    if _is_followed(arguments):
        return _Joined.apply(edges, options, concat, *arguments)
    return _attended(arguments, edges, options, concat, keep=False)[0]


def fits(
    arguments: Arguments, edges: Edges, num_src: int, concat: bool, heads: int, channels: int
) -> bool:
    """Whether a call may take this way, as :class:`Call` has it."""
    x, weight_l, bias_l, weight_r, bias_r, att, bias = arguments[:7]
    if not are_plain(arguments[1:]):
        return False
    dtype, shape = x.dtype, x.shape
    width = heads * channels
    of_map = (width, shape[-1])
    return (
        width > 0  # kernels take no rows of nothing
        and weight_l.shape == of_map
        and (weight_r is None or (weight_r.shape == of_map and weight_r.dtype == dtype))
        and (bias_l is None or (bias_l.dtype == dtype and bias_l.shape == (width,)))
        and (bias_r is None or (bias_r.dtype == dtype and bias_r.shape == (width,)))
        and weight_l.dtype == att.dtype == bias.dtype == dtype
        and att.shape == (1, heads, channels)
        and bias.shape == (width if concat else channels,)
        and shape[-2] == num_src == edges.by_dst.ptr.numel() - 1
        and direct.fit_edges(*arguments[7:], x, att, edges.num_ids)
        and not _leaves_features_alone(arguments)
    )


def _leaves_features_alone(arguments: Arguments) -> bool:
    """Whether backward needs no features, as their maps are frozen: nobody keeps them then."""
    frozen = not (
        arguments.weight_l.requires_grad
        or (arguments.weight_r is not None and arguments.weight_r.requires_grad)
    )
    return frozen and _is_followed(arguments)


def _is_followed(arguments: Arguments) -> bool:
    return torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in arguments
    )


def _averaged(out: Tensor, arguments: Arguments) -> Tensor:
    """The mean over heads of ``[*, N, H * C]``, with the layer's bias."""
    out = out.view(*out.shape[:-1], *arguments.att.shape[1:]).mean(dim=-2)
    return out + arguments.bias


def _has_bias_by_head(concat: bool, arguments: Arguments) -> bool:
    """Whether the layer's bias is one of the rows that the kernels give."""
    return concat or arguments.att.size(1) == 1


def _for_kernels(rows: Tensor, arguments: Arguments) -> Tensor:
    """``[N, H * C]``, or ``[B, N, H, C]`` of a batch, of as many rows."""
    x, att = arguments.x, arguments.att
    if x.dim() == 2:
        return rows
    return rows.reshape(math.prod(x.shape[:-2]), x.size(-2), *att.shape[1:])


def _attended(
    arguments: Arguments, edges: Edges, options: Options, concat: bool, keep: bool
) -> tuple[Tensor, Inputs, Outputs, Tensor | None]:
    """The output of the layer, and what the kernels took and, if ``keep``, gave.

    The last is ``attn_bias`` as they read it, where that is kept.
    """
    x, weight_l, bias_l, weight_r, _, att, _, *of_edges = arguments
    kernels = operators.load_kernels("cpu")
    size = *x.shape[:-1], att.numel()
    x_src = x_dst = _LINEAR(x, weight_l, bias_l, out=kernels.room_for_rows(x, size))
    if weight_r is not None:
        x_dst = _LINEAR(x, weight_r, None, out=kernels.room_for_rows(x, size))
    x_src, x_dst = _for_kernels(x_src, arguments), _for_kernels(x_dst, arguments)
    inputs = operators.contiguous(Inputs(x_src, x_dst, att, *of_edges))
    fused = _has_bias_by_head(concat, arguments)
    ordered = kernels.ordered_bias(inputs, edges) if keep else None
    out, outputs = kernels.forward_biased(
        inputs,
        edges,
        options,
        None if arguments.bias_r is None else arguments.bias_r.contiguous(),
        arguments.bias.contiguous() if fused else None,
        keep,
        ordered,
    )
    if x.dim() > 2:
        out = out.view(size)
    return out if fused else _averaged(out, arguments), inputs, outputs, ordered


def _followed(
    grad: Tensor,
    arguments: Arguments,
    needs: dict[str, bool],
    edges: Edges,
    options: Options,
    outputs: Outputs,
    concat: bool = True,
) -> list[Tensor | None]:
    """The gradients of :func:`layer` by operations that autograd follows, on the same edges.

    ``outputs`` is what the kernels gave, in any shape.
    """
    dtype = arguments.x.dtype
    if arguments.bias.dtype != dtype:  # hooks made all that was saved wider
        arguments = Arguments._make(
            None if value is None else value.to(dtype) for value in arguments
        )
    x, weight_l, bias_l, weight_r, bias_r, att, _, *of_edges = arguments
    lead, heads = x.shape[:-2], att.size(1)
    rows = *(math.prod(lead),) * bool(lead), x.size(-2), *att.shape[1:]
    shared = weight_r is None
    need_l = needs["x"] or needs["weight_l"] or needs["bias_l"]
    need_r = need_l if shared else needs["x"] or needs["weight_r"] or needs["bias_r"]
    x_l = F.linear(x, weight_l, bias_l)
    x_r = x_l if weight_r is None else F.linear(x, weight_r, bias_r)
    of_out = grad if concat else (grad.unsqueeze(-2) / heads).expand(*grad.shape[:-1], heads, -1)
    d_src, d_dst, *of_inputs = operators.gradients(
        operators.NATIVE,
        OutputGrads(of_out.reshape(rows), None),
        Inputs(x_l.view(rows), x_r.view(rows), att.squeeze(0), *of_edges),
        edges,
        options,
        Outputs(outputs.out.view(rows), outputs.lse.view(rows[:-1]), None),
        Needs(need_l, need_r, *(needs[name] for name in Needs._fields[2:])),
        False,
    )
    d_l, d_r = (None if d is None else d.reshape(-1, att.numel()) for d in (d_src, d_dst))
    if shared and d_l is not None and d_r is not None:
        d_l, d_r = d_l + d_r, None
    flat = x.reshape(-1, x.size(-1))
    own: dict[str, Tensor | None] = dict(zip(Inputs._fields[2:], of_inputs, strict=True))
    if own["att"] is not None:
        own["att"] = own["att"].view(att.shape)
    if needs["bias"]:
        own["bias"] = grad.sum(tuple(range(grad.dim() - 1)))
    for side, d in (("l", d_l), ("r", d_r)):
        if d is not None:
            own[f"weight_{side}"] = d.t() @ flat if needs[f"weight_{side}"] else None
            own[f"bias_{side}"] = d.sum(0) if needs[f"bias_{side}"] else None
    if needs["x"] and d_l is not None:
        d_x = d_l @ weight_l
        d_x = d_x if d_r is None or weight_r is None else d_x + d_r @ weight_r
        own["x"] = d_x.view(x.shape)
    return [own.get(name) for name in Arguments._fields]


class _Joined(torch.autograd.Function):
    """Keeps its arguments, what the maps gave, ``out``, ``lse``, and biases of edges in order.

    Saved, so that a change is an error, is what the separate steps save: biases are not, and
    weights only where ``x`` needs a gradient.
    """

    @staticmethod
    def forward(ctx, edges: Edges, options: Options, concat: bool, *flat):
        arguments = Arguments(*flat)
        if arguments.bias_r is not None:  # it may be another by the time of backward
            arguments = arguments._replace(bias_r=arguments.bias_r.clone())
        out, inputs, outputs, ordered = _attended(arguments, edges, options, concat, keep=True)
        ctx.call = edges, options, concat
        ctx.shared, ctx.bias_r = arguments.weight_r is None, arguments.bias_r
        ctx.kept = kept = _KEPT_FOR_X if ctx.needs_input_grad[3] else _KEPT
        saved = (*(flat[at] for at in kept), *inputs[:2], *outputs[:2], ordered)
        ctx.forms = direct.forms(saved)
        ctx.save_for_backward(*saved)
        ctx.unsaved = [None if at in kept else value for at, value in enumerate(flat)]
        ctx.versions = _versions(ctx.unsaved)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * (3 + len(Arguments._fields))
        if torch.is_autocast_enabled("cpu") or has_function_mode():
            # Forward was without them.
            with torch.autocast("cpu", enabled=False), torch._C.DisableTorchFunction():
                found = _Joined._found(ctx, grad)
        else:
            found = _Joined._found(ctx, grad)
        return (None, None, None, *found)

    @staticmethod
    def _found(ctx, grad: Tensor) -> list[Tensor | None]:
        # Checkpointing allows one look at what was saved.
        saved = ctx.saved_tensors
        flat: list[Any] = [None] * len(Arguments._fields)
        for at, value in zip(ctx.kept, saved, strict=False):
            flat[at] = value
        needs = dict(zip(Arguments._fields, ctx.needs_input_grad[3:], strict=True))
        if (
            torch.is_grad_enabled()
            or not unwrapped()
            or not are_plain((*saved, grad))
            or direct.forms(saved) != ctx.forms
        ):
            if _versions(ctx.unsaved) != ctx.versions:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an "
                    "inplace operation: a weight or a bias of the layer"
                )
            for at, value in enumerate(ctx.unsaved):
                flat[at] = flat[at] if value is None else value
            edges, options, concat = ctx.call
            out, lse, _ = saved[-3:]
            outputs = Outputs(out, lse, None)
            return _followed(grad, Arguments(*flat), needs, edges, options, outputs, concat)
        arguments = Arguments(*flat)._replace(bias_r=ctx.bias_r)
        return _gradients(grad, arguments, needs, ctx.shared, *saved[-5:], *ctx.call)


_KEPT = tuple(map(Arguments._fields.index, ("x", "att", *Arguments._fields[7:])))
_KEPT_FOR_X = (*_KEPT, *map(Arguments._fields.index, ("weight_l", "weight_r")))


def _versions(values: Iterable[Tensor | None]) -> list[int | None]:
    return [None if value is None or value.is_inference() else value._version for value in values]


def _gradients(
    grad: Tensor,
    arguments: Arguments,
    needs: dict[str, bool],
    shared: bool,
    x_src: Tensor,
    x_dst: Tensor,
    out: Tensor,
    lse: Tensor,
    ordered: Tensor | None,
    edges: Edges,
    options: Options,
    concat: bool,
) -> list[Tensor | None]:
    x, weight_l, _, weight_r, bias_r, att, _, *of_edges = arguments
    need_l = needs["x"] or needs["weight_l"] or needs["bias_l"]
    need_r = need_l if shared else needs["x"] or needs["weight_r"] or needs["bias_r"]
    heads = att.size(1)
    fused = _has_bias_by_head(concat, arguments)
    of_out = grad
    if not fused:
        of_out = (grad.unsqueeze(-2) / heads).expand(*grad.shape[:-1], heads, -1)
    inputs = operators.contiguous(Inputs(x_src, x_dst, att, *of_edges))
    kernels = operators.load_kernels("cpu")
    by_src = edges if need_l else edges._replace(by_src=None)
    of_l = needs["bias_l"]
    pair = None
    if needs["weight_l"] and needs["weight_r"] and 2 * x_src.nbytes <= _KEPT_BYTES:
        pair = x_src.new_empty((2, *x_src.shape))
    found, sums = kernels.backward_summed(
        OutputGrads(_for_kernels(of_out, arguments).contiguous(), None),
        inputs,
        operators.contiguous(Outputs(out, lse, None)),
        by_src,
        options,
        Needs(need_l, need_r, *(needs[name] for name in Needs._fields[2:])),
        bias_r,
        (needs["bias"] and fused, of_l, (of_l and shared) or needs["bias_r"]),
        ordered,
        pair,
    )
    del of_out, inputs
    d_l, d_r = found.x_src, found.x_dst
    if shared and d_l is not None and d_r is not None:
        d_l, d_r = d_l.add_(d_r), None
    own: dict[str, Tensor | None] = {"bias": sums.out, "bias_l": sums.x_src, "bias_r": sums.x_dst}
    if shared and of_l:
        own |= {"bias_l": sums.x_src.add_(sums.x_dst), "bias_r": None}
    if needs["bias"] and not fused:
        own["bias"] = grad.sum(tuple(range(grad.dim() - 1)))
    shape = x.shape
    if x.dim() > 2:
        x = x.flatten(0, -2)
        d_l, d_r = (None if d is None else d.flatten(2).flatten(0, 1) for d in (d_l, d_r))
    if pair is not None:
        # One product takes less time than two.
        if pair.dim() > 3:
            pair = pair.view(2, -1, att.numel())
        of_weights = pair.transpose(1, 2).bmm(x.expand(2, *x.shape))
        # Each in memory of its own, as all gradients.
        own["weight_l"], own["weight_r"] = (of_weight.clone() for of_weight in of_weights.unbind())
    else:
        for side, rows in (("l", d_l), ("r", d_r)):
            if rows is not None:
                own[f"weight_{side}"] = rows.t().mm(x) if needs[f"weight_{side}"] else None
    if needs["x"] and d_l is not None and weight_l is not None:
        d_x = d_l.mm(weight_l)
        d_x = d_x if d_r is None or weight_r is None else d_x.addmm_(d_r, weight_r)
        own["x"] = d_x if len(shape) == 2 else d_x.view(shape)
    own |= zip(Inputs._fields[2:], found[2:], strict=True)
    return [own.get(name) for name in Arguments._fields]


followed.register("layer_gradients", Arguments, lambda *call: _followed(*call))
