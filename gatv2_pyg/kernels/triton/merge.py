"""Merges what the pieces of a long row left, in the order of the pieces."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_cuts", "num_pieces", "num_rows"])
def merge_kernel(
    cuts,
    pieces,
    piece_lse,
    out,
    lse,
    num_cuts,
    num_pieces,
    num_rows,
    H: tl.constexpr,
    C: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """``out[row] = sum_p w_p pieces[p]`` for an entry ``(row, first piece, end)`` of ``cuts``.

    With ``piece_lse``, ``w_p = exp(piece_lse[p] - lse[row])`` and ``lse[row]`` is the logarithm of
    the sum of their exponentials; without, ``w_p = 1``.  A program takes ``BC`` channels of a head,
    for one element of a batch.
    """
    program = tl.program_id(0).to(tl.int64)
    element = program // num_cuts
    pieces += element * num_pieces * (H * C)
    out += element * num_rows * (H * C)
    if piece_lse is not None:
        piece_lse += element * num_pieces * H
        lse += element * num_rows * H
    entry = cuts + program % num_cuts * 3
    row = tl.load(entry).to(tl.int64)
    first = tl.load(entry + 1)
    last = tl.load(entry + 2)
    h = tl.program_id(1)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    m = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([BC], tl.float32)
    for start in range(first, last, BP):
        piece = (start + tl.arange(0, BP)).to(tl.int64)
        mask = piece < last
        value = tl.load(
            pieces + (piece[:, None] * H + h) * C + c[None, :],
            mask=mask[:, None] & (c < C)[None, :],
            other=0.0,
        )
        if piece_lse is not None:
            s = tl.load(piece_lse + piece * H + h, mask=mask, other=float("-inf"))
            top = tl.maximum(m, tl.max(s, 0))
            # A row whose scores are all -inf keeps m = -inf.
            shift = tl.where(top == float("-inf"), 0.0, top)
            rescale = tl.exp(m - shift)
            weight = tl.exp(s - shift)
            total = total * rescale + tl.sum(weight, 0)
            acc = acc * rescale + tl.sum(weight[:, None] * value, 0)
            m = top
        else:
            acc += tl.sum(value, 0)
    mask = c < tl.where(row >= 0, C, 0)  # an unused entry has row -1
    if piece_lse is not None:
        total = tl.where(total == 0.0, 1.0, total)
        acc = acc / total
        tl.store(lse + row * H + h + c * 0, m + tl.log(total), mask=mask & (c == 0))
    tl.store(out + (row * H + h) * C + c, acc, mask=mask)
