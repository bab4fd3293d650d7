"""Whoever waits for a call of one of the layer's linear maps gets it."""

import copy

import pytest
import torch
from torch.nn.modules import module as registry
from torch_geometric.nn.dense.linear import Linear

from gatv2_pyg import GATv2Conv

X = torch.randn(6, 5)
EDGES = torch.randint(6, (2, 20))


def by_forward_hook(lin, note, monkeypatch):
    lin.register_forward_hook(lambda module, args, out: note(module))


def by_pre_hook(lin, note, monkeypatch):
    lin.register_forward_pre_hook(lambda module, args: note(module))


def by_backward_hook(lin, note, monkeypatch):
    lin.register_full_backward_hook(lambda module, grad_in, grad_out: note(module))


def by_backward_pre_hook(lin, note, monkeypatch):
    lin.register_full_backward_pre_hook(lambda module, grad_out: note(module))


def by_own_forward(lin, note, monkeypatch):
    original = lin.forward

    def forward(x):
        note(lin)
        return original(x)

    lin.forward = forward


def by_forward_of_class(lin, note, monkeypatch):
    original = Linear.forward

    def forward(self, x):
        note(self)
        return original(self, x)

    monkeypatch.setattr(Linear, "forward", forward)


def by_call_of_class(lin, note, monkeypatch):
    original = torch.nn.Module.__call__

    def call(self, *args, **kwargs):
        note(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", call)


def by_derived_class(lin, note, monkeypatch):
    class Derived(Linear):
        def forward(self, x):
            note(self)
            return super().forward(x)

    lin.__class__ = Derived


def by_global_hook(lin, note, monkeypatch):
    handle = registry.register_module_forward_hook(lambda module, args, out: note(module))
    monkeypatch.callback(handle.remove)


def by_global_backward_hook(lin, note, monkeypatch):
    hook = registry.register_module_full_backward_hook
    monkeypatch.callback(hook(lambda module, grad_in, grad_out: note(module)).remove)


class Undoing:
    """pytest's monkeypatch, and callbacks at the end."""

    def __init__(self, monkeypatch):
        self.setattr = monkeypatch.setattr
        self.callbacks = []

    def callback(self, function):
        self.callbacks.append(function)


WATCHERS = [
    by_forward_hook,
    by_pre_hook,
    by_backward_hook,
    by_backward_pre_hook,
    by_own_forward,
    by_forward_of_class,
    by_call_of_class,
    by_derived_class,
    by_global_hook,
    by_global_backward_hook,
]


@pytest.mark.parametrize("name", ["lin_l", "lin_r", "res"])
@pytest.mark.parametrize("watch", WATCHERS)
def test_a_watched_map_is_called(watch, name, monkeypatch):
    layer = GATv2Conv(5, 3, heads=2, residual=True)
    lin = getattr(layer, name)
    expected = layer(X, EDGES)
    seen = []
    undoing = Undoing(monkeypatch)

    def note(module):
        seen.append(module)

    try:
        watch(lin, note, undoing)
        out = layer(X.clone().requires_grad_(), EDGES)
        out.sum().backward()
    finally:
        for callback in undoing.callbacks:
            callback()
    assert sum(module is lin for module in seen) == 1
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", ["lin_l", "lin_r", "res"])
def test_a_weight_that_is_no_parameter_is_used(name):
    layer = GATv2Conv(5, 3, heads=2, residual=True)
    weight = torch.randn_like(getattr(layer, name).weight)
    replaced = {f"{name}.weight": weight}
    out = torch.func.functional_call(layer, replaced, (X, EDGES))
    with torch.no_grad():
        getattr(layer, name).weight.copy_(weight)
    assert torch.equal(out, layer(X, EDGES))


@pytest.mark.parametrize("name", ["lin_l", "lin_r", "res"])
def test_a_bias_that_is_no_parameter_is_used(name):
    layer = GATv2Conv(5, 3, heads=2, residual=True)
    bias = torch.randn(6)
    usual = copy.deepcopy(layer)
    getattr(usual, name).bias = torch.nn.Parameter(bias)
    del getattr(layer, name).bias
    getattr(layer, name).bias = bias
    assert torch.equal(layer(X, EDGES), usual(X, EDGES))
