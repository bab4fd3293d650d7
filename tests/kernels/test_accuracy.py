"""The fused kernels err no more than PyG's layer does in the same dtype; float64 is the judge."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv

from gatv2_pyg import Graph, gatv2_attention
from gatv2_pyg.backends import refusal

REASON = refusal("fused", torch.device("cpu"), torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no fused kernels: {REASON}")

CASES = {
    "random": {},
    "8 x 16": {"heads": 8, "channels": 16},
    "1 x 128": {"heads": 1, "channels": 128},
    "3 x 20": {"heads": 3, "channels": 20},
    "edge features": {"edge_dim": 12},
    "large logits": {"scale": 1e4},
    "hub": {"num_nodes": 3000, "num_edges": 100_000, "hub": True},
    "duplicates": {"num_nodes": 4, "num_edges": 400},
}


def problem(
    seed, heads=4, channels=8, num_nodes=300, num_edges=6000, edge_dim=None, scale=1.0, hub=False
):
    rng = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    index = torch.randint(num_nodes - num_nodes // 10, (2, num_edges), generator=rng)
    if hub:
        index[1] = 0
    values = {
        "x_src": randn(num_nodes, heads, channels),
        "x_dst": randn(num_nodes, heads, channels),
        "att": scale * randn(heads, channels) / channels**0.5,
    }
    if edge_dim is not None:
        values["edge_attr"] = randn(num_edges, edge_dim)
        values["edge_weight"] = randn(heads * channels, edge_dim) / edge_dim**0.5
    return index, values, randn(num_nodes, heads, channels)


def ours(index, values, weights):
    options = {name: values[name] for name in ("edge_attr", "edge_weight") if name in values}
    graph = Graph.from_edge_index(index, weights.size(0))
    return gatv2_attention(
        values["x_src"], values["x_dst"], values["att"], graph, backend="fused", **options
    )


def pygs(index, values, weights):
    _, heads, channels = weights.shape
    edge_attr = values.get("edge_attr")
    edge_dim = None if edge_attr is None else edge_attr.size(1)
    conv = PyGGATv2Conv(1, channels, heads, add_self_loops=False, bias=False, edge_dim=edge_dim).to(
        weights.dtype
    )
    conv.lin_l = conv.lin_r = torch.nn.Identity()
    del conv.att
    conv.att = values["att"].unsqueeze(0)
    if edge_dim is not None:
        del conv.lin_edge.weight
        conv.lin_edge.weight = values["edge_weight"]
    features = values["x_src"].flatten(1), values["x_dst"].flatten(1)
    return conv(features, index, edge_attr).view_as(weights)


def results(layer, index, values, weights):
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    out = layer(index, leaves, weights)
    grads = torch.autograd.grad(out, list(leaves.values()), weights)
    return {"out": out.detach()} | dict(zip(leaves, grads, strict=True))


# One draw says little: d att has few numbers, and logits of 1e4 seldom tie.
DRAWS = 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_errs_no_more_than_pyg(name, dtype):
    if dtype == torch.float16 and name == "large logits":
        pytest.skip("logits of 1e4 are not finite in PyG's float16")
    squares: dict[str, torch.Tensor] = {}
    for seed in range(DRAWS):
        index, values, weights = problem(seed, **CASES[name])
        values = {key: value.to(dtype) for key, value in values.items()}
        weights = weights.to(dtype)
        exact = results(
            pygs, index, {key: value.double() for key, value in values.items()}, weights.double()
        )
        mine = results(ours, index, values, weights)
        theirs = results(pygs, index, values, weights)
        for key, want in exact.items():
            # Last, what the same values lose when they are rounded once.
            found = mine[key], theirs[key], want.to(dtype)
            errors = torch.stack([(value.double() - want).square().sum() for value in found])
            squares[key] = squares.get(key, 0) + errors
    for key, sums in squares.items():
        error, budget, rounding = sums.sqrt().tolist()
        slack = 1.1 if dtype == torch.float32 else 1.0
        assert error <= max(slack * budget, 2 * rounding), (
            f"{key}: error {error:.3g}, PyG's {budget:.3g}"
        )
