"""Backward by source: (4)-(6) again, and (8)."""

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
    times_slope,
)


@triton.jit(
    do_not_specialize=[
        "num_rows",
        "num_pieces",
        "num_src",
        "num_dst",
        "num_ids",
        "num_programs",
        "bias_rows",
        "seed",
        "threshold",
    ]
)
def backward_src_kernel(
    grad_out,
    grad_alpha,
    x_src,
    x_dst,
    att,
    edge_attr,
    edge_weight,
    attn_bias,
    lse,
    delta,
    ptr,
    idx,
    edge,
    eid,
    pieces,
    d_x_src,
    piece_d_x_src,
    num_rows,
    num_pieces,
    num_src,
    num_dst,
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
    """A row leaves ``d_x_src``; a piece of a long row leaves its part of the sum, to be merged.

    Row ``b * num_src + j`` holds the edges from source ``j`` to range ``b`` of the destinations.
    ``edge`` holds positions by destination, ``eid`` the ids there.
    """
    F: tl.constexpr = H * C
    element, group = element_of(num_programs)
    x_src += element * num_src * F
    x_dst += element * num_dst * F
    grad_out += element * num_dst * F
    lse += element * num_dst * H
    delta += element * num_dst * H
    d_x_src += element * num_rows * F
    if grad_alpha is not None:
        grad_alpha += element * num_ids * H
    if piece_d_x_src is not None:
        piece_d_x_src += element * num_pieces * F
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
    x = load_rows(x_src, row % tl.maximum(num_src, 1), is_row | is_piece, f, f_mask, F, BR, BH, BC)

    acc = tl.zeros([BR, BH, BC], tl.float32)
    acc_du = tl.zeros([BR, BH, BC], tl.float32)
    k = tl.arange(0, BE)
    position = begin[:, None] + k[None, :]
    mask = k[None, :] < degree[:, None]
    i = tl.load(idx + position, mask=mask, other=0)
    for start in range(0, tl.max(degree, 0), BE):
        xd = gather(x_dst, i, mask, f, f_mask, F, BR, BE, BH, BC)
        g = gather(grad_out, i, mask, f, f_mask, F, BR, BE, BH, BC)
        head = i.to(tl.int64)[:, :, None] * H + h[None, None, :]
        head_mask = mask[:, :, None] & (h < H)[None, None, :]
        other_lse = finite_lse(tl.load(lse + head, mask=head_mask, other=0.0))
        other_delta = tl.load(delta + head, mask=head_mask, other=0.0)
        # The next tile's ends are in flight while this one is worked on.
        ahead = start + BE + k[None, :] < degree[:, None]
        i = tl.load(idx + position + BE, mask=ahead, other=0)
        ids = edge_ids(eid, edge_ids(edge, position, mask), mask)

        z = x[:, None, :, :] + xd  # (1)
        if edge_attr is not None:
            z = add_edge_features(z, edge_attr, edge_weight, ids, mask, f, f_mask, D, F, BH, BC)
        s = score(z, a, negative_slope)  # (2)
        if attn_bias is not None:
            s += load_bias(attn_bias, ids, mask, h, bias_rows, H, BIAS_H)
        weight = tl.exp(tl.where(mask[:, :, None], s - other_lse, float("-inf")))
        d_weight = tl.sum(g * x[:, None, :, :], 3)  # (4)
        if grad_alpha is not None:
            d_weight += tl.load(
                grad_alpha + ids[:, :, None] * H + h[None, None, :], mask=head_mask, other=0.0
            )
        ds = weight * -other_delta  # (5)
        if DROPOUT:
            q_mask = start + q_edge < q_degree
            q_at = edge_ids(edge, q_begin + start + q_edge, q_mask)
            q_ids = edge_ids(eid, q_at, q_mask)
            weight *= keep_of(q_ids, quad, h0, element, key, threshold, scale, BR, BE, BH)
        ds += weight * d_weight
        acc += tl.sum(weight[:, :, :, None] * g, 1)
        acc_du += tl.sum(times_slope(ds, z, negative_slope), 1)  # (6)
        position += BE
        mask = ahead

    acc += acc_du * a[None, :, :]  # (8)
    store_rows(d_x_src, row, acc, is_row, f, f_mask, F, BR, BH, BC)
    if piece_d_x_src is not None:
        store_rows(piece_d_x_src, piece, acc, is_piece, f, f_mask, F, BR, BH, BC)
