"""Sparse node features in half precision and under autocast."""

from __future__ import annotations

import pytest
import torch
from torch_geometric import nn as pyg

from gatv2_pyg import GATv2Conv
from gatv2_pyg.maps import linear_maps
from tests.maps.problems import (
    FEATURES,
    LAYOUTS,
    NODES,
    assert_same,
    compiled,
    edges,
    features,
    layouts,
    pair_of_layers,
    step,
)

HALVES = (torch.bfloat16, torch.float16)


@compiled
@layouts
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("options", [{}, {"residual": True}, {"share_weights": True}], ids=str)
def test_lazy_size_under_autocast(layout, dtype, options):
    """torch has no such product for a module's own first call."""
    x = features(dtype=torch.float32)
    made = []
    for cls, given in ((GATv2Conv, LAYOUTS[layout](x)), (pyg.GATv2Conv, x)):
        torch.manual_seed(0)
        layer = cls(-1, 4, **options)
        with torch.autocast("cpu", dtype):
            made.append((layer, layer(given, edges())))
    (ours, out), (theirs, want) = made
    assert torch.equal(ours.lin_l.weight, theirs.lin_l.weight)
    assert not ours.lin_l._forward_pre_hooks
    assert not ours.lin_r._forward_pre_hooks
    torch.testing.assert_close(out, want, rtol=0.03, atol=0.03)


@compiled
@layouts
@pytest.mark.parametrize("dtype", HALVES)
def test_lazy_size_in_half_precision(layout, dtype):
    layer = GATv2Conv((-1, -1), 4).to(dtype)
    x = features(dtype=dtype)
    out = layer((LAYOUTS[layout](x), x), edges())
    assert layer.lin_l.weight.shape == layer.lin_r.weight.shape == (4, FEATURES)
    torch.testing.assert_close(out, layer((x, x), edges()), rtol=0.03, atol=0.03)


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@layouts
def test_half_precision(layout, dtype):
    """A map, held to float64 on the same rounded numbers: one rounding of the result."""
    lin = pyg.Linear(FEATURES, 15).to(dtype)
    exact = pyg.Linear(FEATURES, 15).double()
    exact.load_state_dict({name: value.double() for name, value in lin.state_dict().items()})
    x = features(dtype=dtype)
    grad = torch.randn(NODES, 15, generator=torch.manual_seed(0)).to(dtype)
    out = linear_maps(LAYOUTS[layout](x))(lin)
    want = exact(x.double())
    got = [out, *torch.autograd.grad(out, list(lin.parameters()), grad)]
    want = [want, *torch.autograd.grad(want, list(exact.parameters()), grad.double())]
    eps = torch.finfo(dtype).eps
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= 2 * eps * b.abs().max()


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_half_precision(dtype):
    ours, _ = pair_of_layers()
    ours = ours.to(dtype)
    x = features(dtype=dtype)
    sparse, dense = step(ours, x.to_sparse_csr(), edges()), step(ours, x, edges())
    assert sparse[0].dtype == dtype
    torch.testing.assert_close(sparse[0], dense[0], rtol=0.05, atol=0.05)


@compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes_under_autocast(dtype):
    """That of the dense product: autocast leaves float64 as it is."""
    linear, x = torch.nn.Linear(FEATURES, 4, dtype=dtype), features(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear_maps(x.to_sparse_csr())(linear).dtype == linear(x).dtype


@layouts
def test_features_wider_than_the_layer_under_autocast(layout):
    ours, _ = pair_of_layers(dtype=torch.float32)
    for x in (features(), LAYOUTS[layout](features())):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError):
            ours(x, edges())


@compiled
@layouts
def test_autocast(layout):
    ours, _ = pair_of_layers(dtype=torch.float32)
    x = features(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = ours(x, edges())
        got = ours(LAYOUTS[layout](x), edges())
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


@compiled
@layouts
def test_half_precision_features_under_autocast(layout):
    """As dense ones, they need not have the dtype of the weights."""
    ours, _ = pair_of_layers(dtype=torch.float32)
    x = features(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = step(ours, x, edges())
        got = step(ours, LAYOUTS[layout](x), edges())
    assert_same(got, want, rtol=0.05, atol=0.3)  # of 13
