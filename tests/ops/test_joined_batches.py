"""Batches on one graph in one step of autograd: they give what their elements give."""

from __future__ import annotations

import itertools

import pytest
import torch

from gatv2_pyg import GATv2Conv
from gatv2_pyg.kernels import cpu_kernels
from gatv2_pyg.ops import joined
from tests.ops.test_joined import BONDS, EDGES, FEATURES, NODES, agree, pair, problem

pytestmark = pytest.mark.skipif(cpu_kernels() is None, reason="no compiled CPU kernels")


def batch_of(lead, features=FEATURES, nodes=NODES):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(*lead, nodes, features, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("lead", [(3,), (2, 3), (1,), (0,), (2, 0), (2, 1, 2)])
@pytest.mark.parametrize(
    ("concat", "share_weights", "edge_dim", "of_x"),
    [*itertools.product((True, False), (True, False), (None, BONDS), (True, False))],
)
def test_a_batch_gives_what_its_elements_give(taken, lead, concat, share_weights, edge_dim, of_x):
    _, edge_index, edge_attr = problem()
    x = batch_of(lead).requires_grad_(of_x)
    edge_attr.requires_grad_()
    bias = torch.randn(EDGES, dtype=torch.float64, requires_grad=True)
    ours, theirs = pair(concat=concat, share_weights=share_weights, edge_dim=edge_dim)
    ours.load_state_dict(theirs.state_dict())
    extra = () if edge_dim is None else (edge_attr,)
    leaves = [*ours.parameters(), bias, *extra, *[x] * of_x]

    def one_by_one():
        nothing = sum(leaf.sum() for leaf in leaves) * ours.bias.new_zeros(0, NODES, len(ours.bias))
        elements = [
            ours(element, edge_index, *extra, attn_bias=bias) for element in x.flatten(0, -3)
        ]
        return (torch.stack(elements) if elements else nothing).view(*lead, NODES, len(ours.bias))

    found = []
    for call in (lambda: ours(x, edge_index, *extra, attn_bias=bias), one_by_one):
        out = call()
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        grads = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
        with torch.no_grad():
            found.append([out, *grads, call()])
    agree(*found)
    elements = x.numel() // (NODES * FEATURES)
    assert taken == {
        "layer": 2 + 2 * elements,
        "_gradients": 1 + elements,
        "followed": 0,
    }


@pytest.mark.parametrize("concat", [True, False])
def test_second_and_batched_derivatives_of_a_batch(concat):
    _, edge_index, edge_attr = problem()
    x = batch_of((2, 2)).requires_grad_()
    ours, _ = pair(concat=concat, edge_dim=BONDS)
    leaves, found = [x, *ours.parameters()], []
    for call in (
        lambda: ours(x, edge_index, edge_attr),
        lambda: torch.stack([ours(e, edge_index, edge_attr) for e in x.flatten(0, 1)]).unflatten(
            0, (2, 2)
        ),
    ):
        out = call()
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first), leaves, allow_unused=True
        )
        out = call()
        weights = torch.stack([torch.ones_like(out), out.detach()])
        found.append(
            [*first, *second, *torch.autograd.grad(out, leaves, weights, is_grads_batched=True)]
        )
    agree(*found)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_batch_of_any_strides_and_gradients(monkeypatch, dropout):
    _, edge_index, _ = problem()
    ours, _ = pair(dropout=dropout)
    x = batch_of((3, 2)).transpose(0, 1)[:, ::2].requires_grad_()
    found = []
    for joins in (True, False):
        if not joins:
            monkeypatch.setattr(joined, "fits", lambda *_: False)
        torch.manual_seed(4)
        out = ours(x, edge_index)
        found.append([out, *torch.autograd.grad(out.sum(), [x, *ours.parameters()])])
    agree(*found)


def test_a_batch_without_features():
    _, edge_index, _ = problem()
    ours = GATv2Conv(0, 6, heads=4).double()
    out = ours(batch_of((2,), features=0), edge_index)
    assert out.shape == (2, NODES, 24)
    assert torch.equal(out[0], ours(batch_of((), features=0), edge_index))
    out.sum().backward()
    assert ours.lin_l.weight.grad.shape == (24, 0)
