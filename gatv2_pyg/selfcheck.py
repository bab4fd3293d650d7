"""A small forward and backward of a backend, held against the reference in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from gatv2_pyg.graph import Graph
from gatv2_pyg.kernels.contract import Inputs, Options
from gatv2_pyg.ops import operators, reference, scatter
from gatv2_pyg.ops.reference import accumulation_dtype

_HEADS, _CHANNELS, _EDGE_DIM = 3, 20, 4
_NODES, _EDGES, _HUB = 40, 120, 700
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_SEED = 0x1234_5678_9ABC


def compare_with_reference(kernels: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Runs a backend on a small graph with a hub, edge features and dropout.

    Args:
        kernels: ``"cpu"``, ``"triton"`` or ``"scatter"``.
        device: where to run it.
        dtype: of the features.

    Returns:
        What failed, in words; None if outputs and gradients agree with the reference in float64,
        relative to their largest element, within 1e-10 (float64), 1e-4 (float32), 1e-2 (float16) or
        4e-2 (bfloat16).
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        inputs, edge_index = _problem(dtype)
        try:
            found = _run(kernels, inputs, edge_index, device)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        exact = Inputs(*(value.double() for value in inputs))
        wanted = _run("reference", exact, edge_index, torch.device("cpu"))
    failures = []
    for name, value in found.items():
        error = (value.cpu().double() - wanted[name]).abs().max() / wanted[name].abs().max()
        if not error <= _TOLERANCE[dtype]:
            failures.append(f"{name} is off by {float(error):.1e}")
    return ", ".join(failures) or None


def _problem(dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    rng = torch.Generator().manual_seed(0)
    acc = accumulation_dtype(dtype)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    edge_index = torch.randint(_NODES, (2, _EDGES + _HUB), generator=rng)
    edge_index[1, _EDGES:] = 1
    inputs = Inputs(
        x_src=randn(_NODES, _HEADS, _CHANNELS).to(dtype),
        x_dst=randn(_NODES, _HEADS, _CHANNELS).to(dtype),
        att=randn(_HEADS, _CHANNELS).to(acc),
        edge_attr=randn(_EDGES + _HUB + _NODES, _EDGE_DIM).to(dtype),
        edge_weight=randn(_HEADS * _CHANNELS, _EDGE_DIM).to(acc),
    )
    return inputs, edge_index


def _run(
    kernels: str, inputs: Inputs, edge_index: Tensor, device: torch.device
) -> dict[str, Tensor]:
    leaves = Inputs(*(value.to(device).requires_grad_() for value in inputs))
    graph = Graph.from_edge_index(edge_index.to(device), _NODES, add_self_loops=True)
    options = Options(negative_slope=0.2, dropout=0.25, seed=torch.tensor(_SEED))
    if kernels in ("reference", "scatter"):
        forward = scatter.forward if kernels == "scatter" else reference.forward
        out, _, alpha = forward(leaves, graph.edges(with_sources=False), options, True)
    else:
        edges = graph.edges(with_sources=True)
        out, alpha = operators.attention(leaves, edges, options, True, widen=False, kernels=kernels)
    rng = torch.Generator().manual_seed(1)
    loss = out.new_zeros(())
    for value in (out, alpha):
        weight = torch.randn(value.shape, generator=rng, dtype=torch.float64)
        loss = loss + (value * weight.to(inputs.x_src.dtype).to(value)).sum()
    loss.backward()
    grads = {f"grad {name}": leaf.grad for name, leaf in leaves._asdict().items()}
    return {"out": out.detach(), "alpha": alpha.detach(), **grads}
