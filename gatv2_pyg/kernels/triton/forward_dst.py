"""Forward by destination: (1)-(3)."""

from __future__ import annotations

import triton
import triton.language as tl

from gatv2_pyg.kernels.triton.common import (
    add_edge_features,
    edge_ids,
    element_of,
    features_of,
    finite_lse,
    gather,
    keep_of,
    load_bias,
    load_items,
    load_quads,
    load_rows,
    load_seed,
    load_weights,
    score,
    store_rows,
)

_VARYING = [
    "num_rows",
    "num_pieces",
    "num_src",
    "num_ids",
    "num_programs",
    "bias_rows",
    "seed",
    "threshold",
]


@triton.jit(do_not_specialize=_VARYING)
def forward_dst_kernel(
    x_src,
    x_dst,
    att,
    edge_attr,
    edge_weight,
    attn_bias,
    ptr,
    idx,
    eid,
    pieces,
    out,
    lse,
    piece_out,
    piece_lse,
    scores,
    num_rows,
    num_pieces,
    num_src,
    num_ids,
    num_programs,
    bias_rows,
    negative_slope,
    seed,
    threshold,
    scale,
    H: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    BIAS_H: tl.constexpr,
    DROPOUT: tl.constexpr,
    BR: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
    BC: tl.constexpr,
):
    """A row leaves ``out`` and ``lse``; a piece of a long row leaves its own, to be merged.

    ``scores``, if given, receives s_e of (2) at ``[id, H]``.
    """
    F: tl.constexpr = H * C
    element, group = element_of(num_programs)
    x_src += element * num_src * F
    x_dst += element * num_rows * F
    out += element * num_rows * F
    lse += element * num_rows * H
    if piece_out is not None:
        piece_out += element * num_pieces * F
        piece_lse += element * num_pieces * H
    if scores is not None:
        scores += element * num_ids * H
    h0 = tl.program_id(1) * BH
    row, piece, begin, degree, is_row, is_piece = load_items(
        group, tl.arange(0, BR), ptr, pieces, num_rows, num_pieces, BR
    )
    if DROPOUT:
        key = load_seed(seed)
        q_begin, q_degree, q_edge, quad = load_quads(
            group, ptr, pieces, num_rows, num_pieces, BR, BE, BH
        )

    h = h0 + tl.arange(0, BH)
    f, f_mask = features_of(h0, H, C, BH, BC)
    a = load_weights(att, f, f_mask, BH, BC)
    xd = load_rows(x_dst, row, is_row | is_piece, f, f_mask, F, BR, BH, BC)

    m = tl.full([BR, BH], float("-inf"), tl.float32)
    total = tl.zeros([BR, BH], tl.float32)
    acc = tl.zeros([BR, BH, BC], tl.float32)
    edge = tl.arange(0, BE)
    position = begin[:, None] + edge[None, :]
    mask = edge[None, :] < degree[:, None]
    j = tl.load(idx + position, mask=mask, other=0)
    for start in range(0, tl.max(degree, 0), BE):
        x = gather(x_src, j, mask, f, f_mask, F, BR, BE, BH, BC)
        # The next tile's ends are in flight while this one is worked on.
        ahead = start + BE + edge[None, :] < degree[:, None]
        j = tl.load(idx + position + BE, mask=ahead, other=0)
        ids = edge_ids(eid, position, mask)

        z = x + xd[:, None, :, :]  # (1)
        if edge_attr is not None:
            z = add_edge_features(z, edge_attr, edge_weight, ids, mask, f, f_mask, D, F, BH, BC)
        s = score(z, a, negative_slope)  # (2)
        if attn_bias is not None:
            s += load_bias(attn_bias, ids, mask, h, bias_rows, H, BIAS_H)
        if scores is not None:
            tl.store(
                scores + ids[:, :, None] * H + h[None, None, :],
                s,
                mask=mask[:, :, None] & (h < H)[None, None, :],
            )
        s = tl.where(mask[:, :, None], s, float("-inf"))
        top = tl.maximum(m, tl.max(s, 1))
        # A row that has no edges yet keeps m = -inf; exp(-inf - 0) = 0 where -inf + inf is NaN.
        shift = tl.where(top == float("-inf"), 0.0, top)
        rescale = tl.exp(m - shift)
        weight = tl.exp(s - shift[:, None, :])
        total = total * rescale + tl.sum(weight, 1)
        if DROPOUT:
            q_ids = edge_ids(eid, q_begin + start + q_edge, start + q_edge < q_degree)
            weight *= keep_of(q_ids, quad, h0, element, key, threshold, scale, BR, BE, BH)
        acc = acc * rescale[:, :, None] + tl.sum(weight[:, :, :, None] * x, 1)  # (3)
        m = top
        position += BE
        mask = ahead

    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    acc = acc / total[:, :, None]
    row_lse = tl.where(empty, float("-inf"), m + tl.log(total))
    store_rows(out, row, acc, is_row, f, f_mask, F, BR, BH, BC)
    head = row[:, None] * H + h[None, :]
    tl.store(lse + head, row_lse, mask=is_row[:, None] & (h < H)[None, :])
    if piece_out is not None:
        store_rows(piece_out, piece, acc, is_piece, f, f_mask, F, BR, BH, BC)
        head = piece[:, None] * H + h[None, :]
        tl.store(piece_lse + head, row_lse, mask=is_piece[:, None] & (h < H)[None, :])


@triton.jit(do_not_specialize=[name for name in _VARYING if name not in ("num_src", "bias_rows")])
def attention_kernel(
    alpha,
    lse,
    ptr,
    eid,
    pieces,
    num_rows,
    num_pieces,
    num_ids,
    num_programs,
    seed,
    threshold,
    scale,
    H: tl.constexpr,
    DROPOUT: tl.constexpr,
    BR: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
):
    """Turns the s_e in ``alpha`` into keep_e alpha_e of (2) and (3), in place."""
    element, group = element_of(num_programs)
    alpha += element * num_ids * H
    lse += element * num_rows * H
    h0 = tl.program_id(1) * BH
    row, _, begin, degree, _, _ = load_items(
        group, tl.arange(0, BR), ptr, pieces, num_rows, num_pieces, BR
    )
    if DROPOUT:
        key = load_seed(seed)
        q_begin, q_degree, q_edge, quad = load_quads(
            group, ptr, pieces, num_rows, num_pieces, BR, BE, BH
        )
    h = h0 + tl.arange(0, BH)
    h_mask = (h < H)[None, :]
    edge = tl.arange(0, BE)
    row_mask = (degree > 0)[:, None] & h_mask
    row_lse = finite_lse(tl.load(lse + row[:, None] * H + h[None, :], mask=row_mask, other=0.0))
    for start in range(0, tl.max(degree, 0), BE):
        position = begin[:, None] + start + edge[None, :]
        mask = start + edge[None, :] < degree[:, None]
        cell = alpha + edge_ids(eid, position, mask)[:, :, None] * H + h[None, None, :]
        cell_mask = mask[:, :, None] & h_mask[None, :, :]
        s = tl.load(cell, mask=cell_mask, other=float("-inf"))
        weight = tl.exp(s - row_lse[:, None, :])
        if DROPOUT:
            q_ids = edge_ids(eid, q_begin + start + q_edge, start + q_edge < q_degree)
            weight *= keep_of(q_ids, quad, h0, element, key, threshold, scale, BR, BE, BH)
        tl.store(cell, weight, mask=cell_mask)
