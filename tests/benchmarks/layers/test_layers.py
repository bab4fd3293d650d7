"""The layers that are compared: each is what it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GATConv

from benchmarks.layers import contestants, networks
from benchmarks.layers.attention_alone import attention_alone
from benchmarks.layers.dense import DenseGATv2Conv, dense_bias
from benchmarks.layers.fused_gat import FusedGATConv
from benchmarks.layers.networks import TwoLayerGAT


def awkward_graph() -> Tensor:
    """Duplicate edges, a self-loop, an isolated node (5), a node without incoming edges (4)."""
    return torch.tensor([[0, 1, 1, 2, 2, 3, 4, 4], [1, 0, 0, 1, 2, 0, 3, 2]])


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("add_self_loops", [True, False])
def test_dense_attention_is_the_sparse_layer(
    concat: bool, share_weights: bool, add_self_loops: bool
) -> None:
    from gatv2_pyg import GATv2Conv

    torch.manual_seed(0)
    options = {"heads": 3, "concat": concat, "share_weights": share_weights}
    sparse = GATv2Conv(5, 4, add_self_loops=add_self_loops, **options).double()
    dense = DenseGATv2Conv(5, 4, **options).double()
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(6, 5, dtype=torch.float64)
    edge_index = awkward_graph()
    bias = dense_bias(edge_index, 6, add_self_loops=add_self_loops, dtype=x.dtype)
    expected, out = sparse(x, edge_index), dense(x, bias)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(out)
    (expected * weight).sum().backward()
    (out * weight).sum().backward()
    for name, parameter in dense.named_parameters():
        reference = sparse.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, reference, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"concat": False, "residual": True},
        {"add_self_loops": False, "bias": False, "negative_slope": 0.4},
        {"residual": True, "flow": "target_to_source"},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_fused_gat_is_the_gat_of_pyg(options: dict[str, Any], backend: str) -> None:
    torch.manual_seed(0)
    theirs = GATConv(7, 5, heads=3, **options).double()
    ours = FusedGATConv(7, 5, heads=3, backend=backend, **options).double()
    ours.load_state_dict(theirs.state_dict())
    edge_index = torch.randint(20, (2, 90))
    results = []
    for layer in (theirs, ours):
        x = torch.randn(20, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1))
        inputs = [x.requires_grad_(), *layer.parameters()]
        out = layer(x, edge_index)
        weight = torch.linspace(-1, 2, out.numel(), dtype=torch.double).view_as(out)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for value, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-10)


def test_fused_gat_takes_a_bipartite_graph() -> None:
    torch.manual_seed(0)
    theirs = GATConv(7, 5, heads=3, add_self_loops=False).double()
    ours = FusedGATConv(7, 5, heads=3, add_self_loops=False).double()
    ours.load_state_dict(theirs.state_dict())
    x = (torch.randn(12, 7).double(), torch.randn(20, 7).double())
    edge_index = torch.stack([torch.randint(12, (90,)), torch.randint(20, (90,))])
    found, wanted = (
        [out := layer(x, edge_index), *torch.autograd.grad(out.square().sum(), layer.parameters())]
        for layer in (ours, theirs)
    )
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-10)


def test_dropout_of_sparse_features() -> None:
    x = torch.rand(300, 40) * (torch.rand(300, 40) < 0.3)
    sparse = x.to_sparse_csr()
    out = networks.drop(sparse, 0.75, True).to_dense()
    kept = out != 0
    torch.testing.assert_close(out[kept], 4 * x[kept])
    assert 0.2 < kept.sum() / (x != 0).sum() < 0.3
    assert torch.equal(networks.drop(sparse, 0.75, False).to_dense(), x)


def test_fused_gat_drops_attention_in_training_only() -> None:
    layer = FusedGATConv(7, 5, heads=3, dropout=0.5)
    x, edge_index = torch.randn(20, 7), torch.randint(20, (2, 90))
    assert not torch.equal(layer(x, edge_index), layer(x, edge_index))
    layer.eval()
    assert torch.equal(layer(x, edge_index), layer(x, edge_index))


def test_contestants_share_their_first_weights() -> None:
    """Layers of equal shape start from equal weights, so seeds are comparable."""
    made = []
    for contestant in (contestants.OURS, contestants.PYG_GATV2):
        torch.manual_seed(3)
        made.append(TwoLayerGAT(contestant, 12, 4))
    first, second = (model.state_dict() for model in made)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("fresh", [True, False])
def test_attention_alone_gives_edges_anew_where_it_is_asked_to(fresh: bool) -> None:
    """Another tensor in each step, of which no cache knows; the same for layers that share it."""
    torch.manual_seed(0)
    layers = [GATConv(4, 3, heads=2), GATConv(4, 3, heads=2)]
    edges = torch.randint(9, (2, 20))
    seen: list[Tensor] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    step = attention_alone(layers, 9, edges, fresh=fresh)
    seen.clear()
    for _ in range(2):
        step()
    assert [torch.equal(one, edges) for one in seen] == [True] * 4
    assert seen[0] is seen[1]
    assert seen[2] is seen[3]
    assert (seen[0] is not seen[2]) == fresh
    assert all((one is not edges) == fresh for one in seen)
