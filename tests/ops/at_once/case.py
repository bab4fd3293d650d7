"""A layer and what it is called with, and the judge of its calls."""

from __future__ import annotations

import contextlib

import torch

from gatv2_pyg import GATv2Conv, at_once, set_graph_cache

NODES, EDGES, FEATURES, BONDS = 20, 70, 6, 3


class Case:
    """A layer and what it is called with."""

    def __init__(self, with_bonds=True, **options):
        torch.manual_seed(0)
        self.layer = GATv2Conv(
            FEATURES, 5, heads=4, edge_dim=BONDS if with_bonds else None, **options
        )
        for parameter in self.layer.parameters():
            torch.nn.init.normal_(parameter)
        self.x = torch.randn(NODES, FEATURES)
        self.edge_index = torch.randint(NODES, (2, EDGES))
        self.edge_attr = torch.randn(EDGES, BONDS) if with_bonds else None

    def __call__(self):
        torch.manual_seed(7)
        return self.layer(self.x, self.edge_index, self.edge_attr)

    def found(self):
        """The output and the gradients of all that has one, or the error."""
        try:
            out = self()
        except Exception as error:
            return type(error), str(error)
        leaves = [self.x, self.edge_attr, *self.layer.parameters()]
        leaves = [leaf for leaf in leaves if getattr(leaf, "requires_grad", False)]
        grads = ()
        if out.requires_grad:
            weights = torch.linspace(-1, 1, out.size(-1), dtype=out.dtype, device=out.device)
            grads = torch.autograd.grad(out.mul(weights).sum(), leaves, allow_unused=True)
        return out.detach(), *grads


@contextlib.contextmanager
def all_checked():
    """No call takes what one before it found."""
    again, at_once.again = at_once.again, lambda *args: None
    set_graph_cache(False)
    try:
        yield
    finally:
        set_graph_cache(True)
        at_once.again = again


def agree(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a, b)
        else:
            assert a == b
