"""Transforms over the backward of a call that was made outside of them."""

from __future__ import annotations

import torch


def agree(out, leaves):
    """Gradients within vmap and forward mode are those of each vector alone."""
    vectors = torch.randn(2, *out.shape, dtype=out.dtype)

    def pulled(vector, **options):
        return torch.autograd.grad(out, leaves, vector, retain_graph=True, **options)

    def stacked(found):
        return [torch.stack(parts) for parts in zip(*found, strict=True)]

    want = stacked(map(pulled, vectors))
    for found in (
        torch.func.vmap(pulled)(vectors),
        torch.func.vmap(lambda vector: pulled(vector, create_graph=True))(vectors),
        stacked(torch.func.jvp(pulled, (vector,), (vector,))[1] for vector in vectors),
    ):
        for got, part in zip(found, want, strict=True):
            torch.testing.assert_close(got, part)
