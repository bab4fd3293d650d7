"""The segment operations that the scatter backend takes, from either library.

pyg-lib stands in by a module with its two functions, made of plain torch.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from gatv2_pyg import GATv2Conv, backends, env, use_backend
from gatv2_pyg.ops import scatter

CPU = torch.device("cpu")


def segment_csr(src, indptr, out=None, reduce="sum"):
    assert out is None
    assert indptr.dtype == torch.int64
    reduced = torch.segment_reduce(src, reduce, offsets=indptr, axis=0)
    return reduced if reduce == "sum" else torch.nan_to_num(reduced, neginf=0.0)


def gather_csr(src, indptr, out=None):
    assert out is None
    return src.repeat_interleave(indptr.diff(), dim=0)


@pytest.fixture
def pyg_lib(monkeypatch):
    """pyg-lib is here, and torch_scatter is not."""
    module = ModuleType("pyg_lib")
    module.ops = ModuleType("pyg_lib.ops")
    module.calls = []

    def noted(function):
        def call(*args, **kwargs):
            module.calls.append(function.__name__)
            return function(*args, **kwargs)

        return call

    module.ops.segment_csr = noted(segment_csr)
    module.ops.gather_csr = noted(gather_csr)
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    monkeypatch.setitem(sys.modules, "pyg_lib", module)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pyg_lib_in_the_place_of_torch_scatter(pyg_lib, dtype):
    torch.manual_seed(0)
    conv = GATv2Conv(6, 5, heads=3, edge_dim=2, dropout=0.4).to(dtype)
    x, edge_attr = torch.randn(40, 6, dtype=dtype), torch.randn(200, 2, dtype=dtype)
    edge_index = torch.stack([torch.randint(40, (200,)), torch.randint(30, (200,))])
    found = {}
    for backend in ("scatter", "reference"):
        torch.manual_seed(1)
        conv.zero_grad()
        with use_backend(backend):
            out, (_, alpha) = conv(x, edge_index, edge_attr, return_attention_weights=True)
        (out.square().sum() + alpha.square().sum()).backward()
        found[backend] = [out, alpha, *(value.grad for value in conv.parameters())]
    assert set(pyg_lib.calls) == {"segment_csr", "gather_csr"}
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_auto_takes_it_and_says_so(pyg_lib, monkeypatch):
    monkeypatch.setattr(backends, "_unavailable", lambda name: "it rained")
    chosen = backends.select_backend("auto", CPU, torch.float32)
    assert chosen.name == "scatter"
    assert chosen.reason == "not fused: it rained"
    assert env.backends("cpu")["scatter"] == "available"


def test_an_old_pyg_lib_is_a_reason(pyg_lib):
    del pyg_lib.ops.segment_csr
    reason = backends.refusal("scatter", CPU, torch.float32)
    assert "torch_scatter can't be imported" in reason
    assert "pyg_lib can't be imported (this version has no segment_csr and gather_csr)" in reason
    with (
        pytest.raises(RuntimeError, match="this version has no segment_csr"),
        use_backend("scatter"),
    ):
        GATv2Conv(3, 2)(torch.randn(4, 3), torch.tensor([[0], [1]]))


def test_neither_is_there(monkeypatch):
    for name in ("torch_scatter", "pyg_lib"):
        monkeypatch.setitem(sys.modules, name, None)
    reason = backends.refusal("scatter", CPU, torch.float32)
    assert reason.index("torch_scatter can't") < reason.index("; pyg_lib can't")


def test_torch_scatter_goes_first(monkeypatch):
    torch_scatter = pytest.importorskip("torch_scatter")
    monkeypatch.setitem(sys.modules, "pyg_lib", None)
    assert scatter._operations() is torch_scatter
    assert backends.refusal("scatter", CPU, torch.float32) is None


@pytest.mark.parametrize("vectorize", [False, True])
def test_second_derivatives_are_those_of_the_reference(vectorize):
    """Of a batch, with edge features, biases, a destination whose edges take no part."""
    reason = backends.refusal("scatter", CPU, torch.float64)
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    conv = GATv2Conv(3, 2, heads=2, edge_dim=2, add_self_loops=False).double()
    edge_index, edge_attr = torch.randint(5, (2, 12)), torch.randn(12, 2).double()
    bias = torch.randn(12, 2).double().masked_fill(edge_index[1, :, None] == 2, -torch.inf)
    found = {}
    for backend in ("scatter", "reference"):
        conv.backend = backend

        def loss(x):
            return conv(x, edge_index, edge_attr, attn_bias=bias).sin().sum()

        x = torch.linspace(-1, 1, 30, dtype=torch.float64).view(2, 5, 3)
        found[backend] = torch.autograd.functional.hessian(loss, x, vectorize=vectorize)
    assert found["reference"].abs().max() > 0.01
    torch.testing.assert_close(found["scatter"], found["reference"], rtol=1e-10, atol=1e-12)
