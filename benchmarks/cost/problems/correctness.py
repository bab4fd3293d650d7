"""The check before the clock: outputs and gradients against float64.

The truth is PyG's GATv2Conv in float64 on the same weights and inputs, its linear maps rounded as
every contestant's are (to float32; in bfloat16 and under autocast, to that). An error is the
largest deviation from it, relative to the largest value of the tensor.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cost.problems.cases import Problem
from benchmarks.cost.problems.runners import make_layer
from benchmarks.layers.contestants import PYG_GATV2

# Allowed beyond the yardstick: a few units in the last place.
FLOOR_EPS = 8
# Peers need only compute the same function, not be as accurate as PyG's eager layer.
PEER_FACTOR = 10


def truth(problem: Problem) -> dict[str, Tensor]:
    """What :func:`evaluate` should give for a problem, in float64.

    The values of ``lin_l(x)`` and ``lin_r(x)`` are those of the case's precision (the gradient is
    that of the exact map). Their sum then has the same sign in every precision; without it the
    derivative of LeakyReLU would differ by 0.8 wherever rounding moves the sum across zero, and
    that would hide all other errors.
    """
    layer = make_layer(PYG_GATV2, problem)
    rounded = {name: copy.deepcopy(getattr(layer, name)) for name in ("lin_l", "lin_r")}
    layer = layer.double()

    def rounding(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], exact: Tensor) -> Tensor:
            with torch.no_grad(), problem.autocast():
                error = rounded[name](inputs[0].to(problem.dtype)).double() - exact
            return exact + error

        return hook

    for name in rounded:
        getattr(layer, name).register_forward_hook(rounding(name))
    return evaluate(layer, problem, torch.float64)


def evaluate(module: nn.Module, problem: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output and the gradients of features, edge features and parameters, by name.

    ``dtype`` is that of the module; the problem is cast to it.
    """

    def leaf(value: Tensor) -> Tensor:
        return value.to(dtype).detach().clone().requires_grad_()

    pair = isinstance(problem.x, tuple)
    features = [leaf(x) for x in (problem.x if pair else (problem.x,))]
    leaves = {f"grad x[{place}]" if pair else "grad x": x for place, x in enumerate(features)}
    arguments: list[Any] = [tuple(features) if pair else features[0], problem.edge_index]
    if problem.edge_attr is not None:
        arguments.append(leaf(problem.edge_attr))
        leaves["grad edge_attr"] = arguments[-1]
    for name, value in module.named_parameters():
        leaves[f"grad {name.removeprefix('_orig_mod.')}"] = value
    with contextlib.nullcontext() if dtype == torch.float64 else problem.autocast():
        out = module(*arguments)
    grads = torch.autograd.grad(out, list(leaves.values()), problem.grad.to(out.dtype))
    return {"out": out.detach()} | dict(zip(leaves, grads, strict=True))


def errors(got: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """The error of each tensor; infinite where a value is not finite."""
    found = {}
    for name, want in truth.items():
        error = (got[name].to(want.dtype) - want).abs().amax() if want.numel() else torch.tensor(0)
        scale = want.abs().amax() if want.numel() else torch.tensor(1.0)
        value = float(error / scale.clamp(min=torch.finfo(torch.float32).tiny))
        found[name] = value if value == value else float("inf")
    return found


def failure(
    found: dict[str, float],
    yardstick: dict[str, float],
    *,
    factor: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> str | None:
    """What is wrong with the errors of a layer, or None.

    Args:
        found: its errors.
        yardstick: those of PyG's eager layer in the same precision.
        factor: how many times as large they may be.
        dtype: that of results.
    """
    floor = FLOOR_EPS * torch.finfo(dtype).eps
    for name, error in found.items():
        allowed = factor * yardstick[name] + floor
        if not error <= allowed:
            return f"{name} errs by {error:.3g}, allowed {allowed:.3g}"
    return None
