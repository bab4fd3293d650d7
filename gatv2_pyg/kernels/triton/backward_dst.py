"""Backward by destination: D_i of (5), then (4)-(7) and the gradients of the edge features."""

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


@triton.jit(do_not_specialize=["num_rows", "num_pieces", "num_ids", "num_programs"])
def row_dot_kernel(
    grad_out,
    out,
    grad_alpha,
    alpha,
    ptr,
    eid,
    pieces,
    delta,
    piece_delta,
    num_rows,
    num_pieces,
    num_ids,
    num_programs,
    H: tl.constexpr,
    C: tl.constexpr,
    BR: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
    BC: tl.constexpr,
):
    """(5): D_i = <g_i, out_i> + sum_e (keep_e alpha_e) grad_alpha_e.

    Pieces of a long row leave their part of the sum, the first of them with <g_i, out_i>.
    """
    F: tl.constexpr = H * C
    element, group = element_of(num_programs)
    grad_out += element * num_rows * F
    out += element * num_rows * F
    delta += element * num_rows * H
    if piece_delta is not None:
        piece_delta += element * num_pieces * H
    if grad_alpha is not None:
        grad_alpha += element * num_ids * H
        alpha += element * num_ids * H
    row, piece, begin, degree, is_row, is_piece = load_items(
        group, tl.arange(0, BR), ptr, pieces, num_rows, num_pieces, BR
    )
    h0 = tl.program_id(1) * BH
    h = h0 + tl.arange(0, BH)
    f, f_mask = features_of(h0, H, C, BH, BC)
    item = is_row | is_piece
    first = item & (begin == tl.load(ptr + row, mask=item, other=-1))
    g = load_rows(grad_out, row, first, f, f_mask, F, BR, BH, BC)
    o = load_rows(out, row, first, f, f_mask, F, BR, BH, BC)
    acc = tl.sum(g * o, 2)
    h_mask = (h < H)[None, :]
    if grad_alpha is not None:
        edge = tl.arange(0, BE)
        for start in range(0, tl.max(degree, 0), BE):
            position = begin[:, None] + start + edge[None, :]
            mask = start + edge[None, :] < degree[:, None]
            cell = edge_ids(eid, position, mask)[:, :, None] * H + h[None, None, :]
            cell_mask = mask[:, :, None] & h_mask[None, :, :]
            value = tl.load(alpha + cell, mask=cell_mask, other=0.0)
            value *= tl.load(grad_alpha + cell, mask=cell_mask, other=0.0)
            acc += tl.sum(value, 1)
    head = row[:, None] * H + h[None, :]
    tl.store(delta + head, acc, mask=is_row[:, None] & h_mask)
    if piece_delta is not None:
        head = piece[:, None] * H + h[None, :]
        tl.store(piece_delta + head, acc, mask=is_piece[:, None] & h_mask)


@triton.jit(
    do_not_specialize=[
        "num_rows",
        "num_pieces",
        "num_groups",
        "num_src",
        "num_ids",
        "num_programs",
        "bias_rows",
        "seed",
        "threshold",
    ]
)
def backward_dst_kernel(
    grad_out,
    grad_alpha,
    x_src,
    x_dst,
    att,
    edge_attr,
    edge_weight,
    attn_bias,
    out,
    lse,
    delta,
    ptr,
    idx,
    eid,
    pieces,
    d_x_dst,
    piece_d_x_dst,
    d_att,
    d_edge_attr,
    d_edge_weight,
    d_attn_bias,
    num_rows,
    num_pieces,
    num_groups,
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
    """A program takes every ``num_programs``-th group of an element of the batch, so that pieces of
    long rows, the first groups, are spread over the programs.

    A row's ds_e sum to zero but for rounding, which a part of x_src that neighbours share makes
    large; so (7) sums ds_e (f(z_e) - f(x_dst + out)) for f = LeakyReLU and its slope, which is the
    same in exact arithmetic.

    ``d_att [B * programs, H * C]`` and ``d_edge_weight [B * programs, D, H * C]`` (zero before)
    receive one partial sum per program; ``d_edge_attr [B * head groups, num_ids, D]``, and with one
    bias for all heads ``d_attn_bias [B * head groups, bias_rows]``, one per group of heads; with a
    bias of each head that is ``[B, bias_rows, H]``.
    """
    F: tl.constexpr = H * C
    element, program = element_of(num_programs)
    part = element * num_programs + program
    head_part = element * tl.num_programs(1) + tl.program_id(1)
    x_src += element * num_src * F
    x_dst += element * num_rows * F
    grad_out += element * num_rows * F
    out += element * num_rows * F
    lse += element * num_rows * H
    delta += element * num_rows * H
    if grad_alpha is not None:
        grad_alpha += element * num_ids * H
    if d_x_dst is not None:
        d_x_dst += element * num_rows * F
    if piece_d_x_dst is not None:
        piece_d_x_dst += element * num_pieces * F
    if d_attn_bias is not None:
        if BIAS_H == 1:
            d_attn_bias += head_part * bias_rows
        else:
            d_attn_bias += element * bias_rows * H
    h0 = tl.program_id(1) * BH
    h = h0 + tl.arange(0, BH)
    f, f_mask = features_of(h0, H, C, BH, BC)
    a = load_weights(att, f, f_mask, BH, BC)
    if DROPOUT:
        key = load_seed(seed)
    edge = tl.arange(0, BE)
    d_a = tl.zeros([BR, BH, BC], tl.float32)
    if d_edge_weight is not None:
        d_edge_weight += part * (D * F)
    if d_edge_attr is not None:
        d_edge_attr += head_part * num_ids * D

    for group in range(program, num_groups, num_programs):
        row, piece, begin, degree, is_row, is_piece = load_items(
            group, tl.arange(0, BR), ptr, pieces, num_rows, num_pieces, BR
        )
        if DROPOUT:
            q_begin, q_degree, q_edge, quad = load_quads(
                group, ptr, pieces, num_rows, num_pieces, BR, BE, BH
            )
        xd = load_rows(x_dst, row, is_row | is_piece, f, f_mask, F, BR, BH, BC)
        g = load_rows(grad_out, row, is_row | is_piece, f, f_mask, F, BR, BH, BC)
        head = row[:, None] * H + h[None, :]
        head_mask = (degree > 0)[:, None] & (h < H)[None, :]
        row_lse = finite_lse(tl.load(lse + head, mask=head_mask, other=0.0))
        row_delta = tl.load(delta + head, mask=head_mask, other=0.0)

        acc = tl.zeros([BR, BH, BC], tl.float32)
        sum_ds = tl.zeros([BR, BH], tl.float32)
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
            s = tl.where(mask[:, :, None], s - row_lse[:, None, :], float("-inf"))
            weight = tl.exp(s)
            d_weight = tl.sum(g[:, None, :, :] * x, 3)  # (4)
            if grad_alpha is not None:
                d_weight += tl.load(
                    grad_alpha + ids[:, :, None] * H + h[None, None, :],
                    mask=mask[:, :, None] & (h < H)[None, None, :],
                    other=0.0,
                )
            if DROPOUT:
                q_ids = edge_ids(eid, q_begin + start + q_edge, start + q_edge < q_degree)
                d_weight *= keep_of(q_ids, quad, h0, element, key, threshold, scale, BR, BE, BH)
            ds = weight * (d_weight - row_delta[:, None, :])  # (5)
            if d_attn_bias is not None:  # (9)
                biased = mask & (ids < bias_rows)
                if BIAS_H == 1:
                    of_heads = tl.where((h < H)[None, None, :], ds, 0.0)
                    tl.store(d_attn_bias + ids, tl.sum(of_heads, 2), mask=biased)
                else:
                    tl.store(
                        d_attn_bias + ids[:, :, None] * H + h[None, None, :],
                        ds,
                        mask=biased[:, :, None] & (h < H)[None, None, :],
                    )
            du = times_slope(ds, z, negative_slope)  # (6)
            acc += tl.sum(du, 1)
            sum_ds += tl.sum(ds, 1)
            d_a += tl.sum(du * z, 1)
            if D > 0:
                dz = du * a[None, None, :, :]
                for d in range(D):
                    if d_edge_attr is not None:
                        w = load_weights(edge_weight + d * F, f, f_mask, BH, BC)
                        de = tl.sum(tl.sum(dz * w[None, None, :, :], 3), 2)
                        tl.store(d_edge_attr + ids * D + d, de, mask=mask)
                    if d_edge_weight is not None:
                        e = tl.load(edge_attr + ids * D + d, mask=mask, other=0.0)
                        e = e.to(tl.float32)[:, :, None, None]
                        cell = d_edge_weight + d * F + f
                        dw = tl.reshape(tl.sum(tl.sum(dz * e, 1), 0), [BH * BC])
                        dw += tl.load(cell, mask=f_mask, other=0.0)
                        tl.store(cell, dw, mask=f_mask)
                if d_edge_weight is not None:
                    # The next tile reads what other threads wrote.
                    tl.debug_barrier()
            position += BE
            mask = ahead

        middle = xd + load_rows(out, row, is_row | is_piece, f, f_mask, F, BR, BH, BC)
        common = tl.where(middle > 0, 1.0, negative_slope) * sum_ds[:, :, None]
        acc = (acc - common) * a[None, :, :]  # (7)
        d_a -= common * middle
        if d_x_dst is not None:
            store_rows(d_x_dst, row, acc, is_row, f, f_mask, F, BR, BH, BC)
        if piece_d_x_dst is not None:
            store_rows(piece_d_x_dst, piece, acc, is_piece, f, f_mask, F, BR, BH, BC)
    if d_att is not None:
        tl.store(d_att + part * F + f, tl.reshape(tl.sum(d_a, 0), [BH * BC]), mask=f_mask)
