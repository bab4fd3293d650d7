"""A small forward and backward of a backend, held against the reference in float64."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from gatv2_pyg.graph import Graph
from gatv2_pyg.kernels.contract import Inputs, Options
from gatv2_pyg.ops import operators, reference, scatter
from gatv2_pyg.ops.reference import accumulation_dtype, without_autocast

TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2e-3,
    torch.bfloat16: 1.5e-2,
}
"""What a row of a result may err by, relative to its norm."""

_NODES, _EDGES, _HUB = 40, 120, 700
_SEED = 0x1234_5678_9ABC


class Problem(NamedTuple):
    """A call on a graph of 40 nodes, one of which receives 700 edges more than the others."""

    heads: int
    channels: int
    edge_dim: int | None
    dropout: float
    return_attention: bool
    bias: bool

    def __str__(self) -> str:
        return f"{self.heads} x {self.channels}"


PROBLEMS = (Problem(3, 20, 4, 0.25, True, True), Problem(8, 16, None, 0.0, False, False))
MAX_CHANNELS = max(problem.channels for problem in PROBLEMS)


class Comparison(NamedTuple):
    """How the results of a backend compare with the reference in float64."""

    errors: dict[str, float]
    """The largest relative error of a row (Euclidean norm; a row smaller than a tenth of the root
    mean square of all rows is taken for as large as that), by the name of the result."""
    failure: str | None
    """What is wrong, in words; None if nothing is."""


def compare_with_reference(kernels: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What :func:`compare` finds wrong with a backend, in words; None if nothing is."""
    return compare(kernels, device, dtype).failure


def compare(kernels: str, device: torch.device, dtype: torch.dtype) -> Comparison:
    """Runs a backend on small graphs with a hub, with and without edge features, biases, dropout.

    Args:
        kernels: ``"cpu"``, ``"triton"``, ``"scatter"`` or ``"reference"``.
        device: where to run it.
        dtype: of the features.

    Returns:
        The errors of outputs and gradients, and what failed: an exception, a result that is
        missing or of another shape, one that errs by more than :data:`TOLERANCES`, or, with fused
        kernels, one that is not bitwise the same in a second run.
    """
    errors: dict[str, float] = {}
    failures: list[str] = []
    cpu = torch.device("cpu")
    with contextlib.ExitStack() as plain:
        for mode in (torch.inference_mode(False), torch.enable_grad(), cpu):
            plain.enter_context(mode)
        for where in (cpu, device):
            plain.enter_context(without_autocast(where))
        for problem in PROBLEMS:
            inputs, edge_index = _tensors(problem, dtype)
            exact = Inputs._make(None if value is None else value.double() for value in inputs)
            wanted = _run("reference", problem, exact, edge_index, cpu)
            try:
                found = _run(kernels, problem, inputs, edge_index, device)
                again = found
                if kernels == "cpu" or (kernels == "triton" and device.type == "cuda"):
                    again = _run(kernels, problem, inputs, edge_index, device)
            except Exception as error:
                return Comparison(errors, f"{type(error).__name__}: {error}")
            for name, want in wanted.items():
                if want is None:
                    continue
                wrong, apart = _judge(found[name], again[name], want, TOLERANCES[dtype])
                if apart is not None and not apart <= errors.get(name, -1.0):
                    errors[name] = apart
                if wrong is not None:
                    failures.append(f"{name} of {problem} {wrong}")
    return Comparison(errors, ", ".join(failures) or None)


def _judge(
    found: Tensor | None, again: Tensor | None, want: Tensor, tolerance: float
) -> tuple[str | None, float | None]:
    if found is None or again is None:
        return "is missing", None
    if found.shape != want.shape:
        return f"has the shape {list(found.shape)}, not {list(want.shape)}", None
    norm = _rows(want).norm(dim=1)
    least = 0.1 * norm.square().mean().sqrt()
    error = float(((_rows(found) - _rows(want)).norm(dim=1) / norm.clamp(min=least)).max())
    if not error <= tolerance:
        return f"is off by {error:.1e}", error
    if not torch.equal(found, again):
        return "is not the same in a second run", error
    return None, error


def _rows(value: Tensor) -> Tensor:
    return value.cpu().double().flatten(1)


def _tensors(problem: Problem, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    rng = torch.Generator().manual_seed(0)
    acc = accumulation_dtype(dtype)
    heads, channels, edge_dim = problem[:3]

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    edge_index = torch.randint(_NODES, (2, _EDGES + _HUB), generator=rng)
    edge_index[1, _EDGES:] = 1
    edge_attr = edge_weight = None
    if edge_dim is not None:
        edge_attr = randn(_EDGES + _HUB + _NODES, edge_dim).to(dtype)
        edge_weight = randn(heads * channels, edge_dim).to(acc)
    attn_bias = None
    if problem.bias:
        # Some edges take no part, of one node none does.
        attn_bias = randn(_EDGES + _HUB, heads).to(acc)
        attn_bias[::5] = -torch.inf
        attn_bias[edge_index[1] == 2] = -torch.inf
    inputs = Inputs(
        x_src=randn(_NODES, heads, channels).to(dtype),
        x_dst=randn(_NODES, heads, channels).to(dtype),
        att=randn(heads, channels).div(channels**0.5).to(acc),
        edge_attr=edge_attr,
        edge_weight=edge_weight,
        attn_bias=attn_bias,
    )
    return inputs, edge_index


def _run(
    kernels: str, problem: Problem, inputs: Inputs, edge_index: Tensor, device: torch.device
) -> dict[str, Tensor | None]:
    leaves = Inputs._make(
        None if value is None else value.detach().clone().to(device).requires_grad_()
        for value in inputs
    )
    graph = Graph.from_edge_index(edge_index.to(device), _NODES, add_self_loops=True)
    options = Options(negative_slope=0.2, dropout=problem.dropout, seed=torch.tensor(_SEED))
    if kernels in ("reference", "scatter"):
        forward = scatter.forward if kernels == "scatter" else reference.forward
        edges = graph.edges(with_sources=False)
        out, _, alpha = forward(leaves, edges, options, problem.return_attention)
    else:
        edges = graph.edges(with_sources=True)
        out, alpha = operators.attention(
            leaves, edges, options, problem.return_attention, widen=False, kernels=kernels
        )
    # Integers, which every dtype holds.
    rng = torch.Generator().manual_seed(1)
    loss = out.new_zeros(())
    for value in (out, alpha):
        if value is not None:
            weight = torch.randint(-8, 9, value.shape, generator=rng)
            loss = loss + (value * weight.to(value)).sum()
    loss.backward()
    results = {"out": out.detach(), "alpha": None if alpha is None else alpha.detach()}
    for name, leaf in leaves._asdict().items():
        results[f"grad {name}"] = None if leaf is None else leaf.grad
    return results
