"""Merges what the pieces of a long row left, in the order of the pieces."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge_kernel(
    cuts,
    pieces,
    piece_lse,
    out,
    lse,
    H: tl.constexpr,
    C: tl.constexpr,
    BP: tl.constexpr,
    BF: tl.constexpr,
):
    """``out[row] = sum_p w_p pieces[p]`` for one entry ``(row, first piece, end piece)`` of ``cuts``.

    With ``piece_lse``, ``w_p = exp(piece_lse[p] - lse[row])`` and ``lse[row]`` is the logarithm of
    the sum of their exponentials; without, ``w_p = 1``.
    """
    F: tl.constexpr = H * C
    entry = cuts + tl.program_id(0).to(tl.int64) * 3
    row = tl.load(entry).to(tl.int64)
    first = tl.load(entry + 1)
    last = tl.load(entry + 2)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    h = f // C
    m = tl.full([BF], float("-inf"), tl.float32)
    total = tl.zeros([BF], tl.float32)
    acc = tl.zeros([BF], tl.float32)
    for start in range(first, last, BP):
        piece = start + tl.arange(0, BP)
        mask = (piece < last)[:, None] & (f < F)[None, :]
        piece = piece.to(tl.int64)[:, None]
        value = tl.load(pieces + piece * F + f[None, :], mask=mask, other=0.0)
        if piece_lse is not None:
            s = tl.load(piece_lse + piece * H + h[None, :], mask=mask, other=float("-inf"))
            top = tl.maximum(m, tl.max(s, 0))
            shift = tl.where(top == float("-inf"), 0.0, top)
            rescale = tl.exp(m - shift)
            weight = tl.exp(s - shift[None, :])
            total = total * rescale + tl.sum(weight, 0)
            acc = acc * rescale + tl.sum(weight * value, 0)
            m = top
        else:
            acc += tl.sum(value, 0)
    mask = f < tl.where(row >= 0, F, 0)  # an unused entry has row -1
    if piece_lse is not None:
        total = tl.where(total == 0.0, 1.0, total)
        acc = acc / total
        tl.store(lse + row * H + h, m + tl.log(total), mask=mask & (f == h * C))
    tl.store(out + row * F + f, acc, mask=mask)
