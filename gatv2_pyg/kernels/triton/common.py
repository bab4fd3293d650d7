"""What the kernels share.  ``(n)`` is a formula of :mod:`gatv2_pyg.ops.reference`.

Tiles are ``[BR, BE, BH, BC]``: rows, edges of each row, heads, channels.  They are loaded and
stored as ``[BR, BE, BH * BC]``, so that neighbouring lanes get neighbouring features of one edge
whatever order the compiler gives the other axes; the reshapes cost nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

LONG_ROW = tl.constexpr(512)


@triton.jit
def load_items(group, offset, ptr, pieces, num_rows, num_pieces, BR: tl.constexpr):
    """The work items ``offset`` of a group: pieces of long rows in the first groups, then rows.

    Returns ``(row, piece, begin, degree, is_row, is_piece)``.  Long rows are no items (their pieces
    are), and neither are the table's unused entries; such items have degree 0.
    """
    piece_groups = tl.cdiv(num_pieces, BR)
    piece = group * BR + offset
    row = piece - piece_groups * BR
    is_piece = piece < num_pieces
    is_row = (row >= 0) & (row < num_rows)
    begin = tl.load(ptr + row, mask=is_row, other=0)
    end = tl.load(ptr + row + 1, mask=is_row, other=0)
    is_row = is_row & (end - begin <= LONG_ROW)
    entry = pieces + piece * 3
    cut_row = tl.load(entry, mask=is_piece, other=-1)
    cut_begin = tl.load(entry + 1, mask=is_piece, other=0)
    cut_end = tl.load(entry + 2, mask=is_piece, other=0)
    is_piece = cut_row >= 0
    degree = tl.where(is_piece, cut_end - cut_begin, tl.where(is_row, end - begin, 0))
    begin = tl.where(is_piece, cut_begin, tl.where(is_row, begin, 0))
    row = tl.where(is_piece, cut_row.to(tl.int64), tl.where(is_row, row, 0))
    return row, piece, begin, degree.to(tl.int32), is_row, is_piece


@triton.jit
def features_of(h0, H: tl.constexpr, C: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr):
    """The features of heads ``h0`` to ``h0 + BH`` within a row, ``[BH * BC]``, and their mask."""
    k = tl.arange(0, BH * BC)
    h = h0 + k // BC
    c = k % BC
    return h * C + c, (h < H) & (c < C)


@triton.jit
def gather(
    base,
    index,
    mask,
    f,
    f_mask,
    F: tl.constexpr,
    BR: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
    BC: tl.constexpr,
):
    """Rows ``index [BR, BE]`` of ``base``, as a tile in float32."""
    value = tl.load(
        base + index.to(tl.int64)[:, :, None] * F + f[None, None, :],
        mask=mask[:, :, None] & f_mask[None, None, :],
        other=0.0,
    )
    return tl.reshape(value.to(tl.float32), [BR, BE, BH, BC])


@triton.jit
def load_rows(
    base,
    row,
    mask,
    f,
    f_mask,
    F: tl.constexpr,
    BR: tl.constexpr,
    BH: tl.constexpr,
    BC: tl.constexpr,
):
    """Rows ``row [BR]`` of ``base``, ``[BR, BH, BC]`` in float32."""
    value = tl.load(
        base + row[:, None] * F + f[None, :], mask=mask[:, None] & f_mask[None, :], other=0.0
    )
    return tl.reshape(value.to(tl.float32), [BR, BH, BC])


@triton.jit
def store_rows(
    base,
    row,
    value,
    mask,
    f,
    f_mask,
    F: tl.constexpr,
    BR: tl.constexpr,
    BH: tl.constexpr,
    BC: tl.constexpr,
):
    """Stores ``[BR, BH, BC]`` to rows ``row [BR]`` of ``base``."""
    tl.store(
        base + row[:, None] * F + f[None, :],
        tl.reshape(value, [BR, BH * BC]),
        mask=mask[:, None] & f_mask[None, :],
    )


@triton.jit
def load_weights(base, f, f_mask, BH: tl.constexpr, BC: tl.constexpr):
    """One row of float32 weights, ``[BH, BC]``."""
    return tl.reshape(tl.load(base + f, mask=f_mask, other=0.0), [BH, BC])


@triton.jit
def edge_ids(eid, position, mask):
    ids = position
    if eid is not None:
        ids = tl.load(eid + position, mask=mask, other=0)
    return ids.to(tl.int64)


@triton.jit
def score(z, a, negative_slope):
    """s_e of (2) for a tile ``z`` and ``a = att [BH, BC]``.

    LeakyReLU(z) = (1 + slope) / 2 z + (1 - slope) / 2 |z|: two operations a channel.
    """
    linear = a * (0.5 + 0.5 * negative_slope)
    absolute = a * (0.5 - 0.5 * negative_slope)
    return tl.sum(linear[None, None, :, :] * z + absolute[None, None, :, :] * tl.abs(z), 3)


@triton.jit
def times_slope(ds, z, negative_slope):
    """ds_e LeakyReLU'(z_e), a tile: (6) without att, which is the same for all edges."""
    return tl.where(z > 0, ds[:, :, :, None], (ds * negative_slope)[:, :, :, None])


@triton.jit
def add_edge_features(
    z,
    edge_attr,
    edge_weight,
    ids,
    mask,
    f,
    f_mask,
    D: tl.constexpr,
    F: tl.constexpr,
    BH: tl.constexpr,
    BC: tl.constexpr,
):
    """(1): z + edge_attr[ids] @ W_edge^T; ``edge_weight`` is transposed, ``[D, F]``."""
    for d in range(D):
        value = tl.load(edge_attr + ids * D + d, mask=mask, other=0.0).to(tl.float32)
        weight = load_weights(edge_weight + d * F, f, f_mask, BH, BC)
        z += value[:, :, None, None] * weight[None, None, :, :]
    return z


@triton.jit
def element_of(num_programs):
    """The element of a batch that a program works on, and its number among the element's."""
    program = tl.program_id(0).to(tl.int64)
    return program // num_programs, program % num_programs


@triton.jit
def load_bias(attn_bias, ids, mask, h, bias_rows, H: tl.constexpr, BIAS_H: tl.constexpr):
    """The biases of a tile's edges, ``[BR, BE, BH]``; 0 for ids that have none."""
    if BIAS_H == 1:
        value = tl.load(attn_bias + ids, mask=mask & (ids < bias_rows), other=0.0)
        return value[:, :, None] + tl.zeros_like(h).to(tl.float32)[None, None, :]
    return tl.load(
        attn_bias + ids[:, :, None] * H + h[None, None, :],
        mask=(mask & (ids < bias_rows))[:, :, None] & (h < H)[None, None, :],
        other=0.0,
    )


@triton.jit
def finite_lse(lse):
    """Logarithms of sums, 0 for -inf: a row all of whose scores are -inf has weights of 0."""
    return tl.where(lse == float("-inf"), 0.0, lse)


@triton.jit
def load_quads(
    group, ptr, pieces, num_rows, num_pieces, BR: tl.constexpr, BE: tl.constexpr, BH: tl.constexpr
):
    """What :func:`keep_of` needs of a group: ``(begin, degree, edge, quad)``.

    One Philox call gives four heads of an edge, so the words are made in one dimension, with one
    entry per edge and four heads, where no thread repeats another's.
    """
    QUADS: tl.constexpr = (BH + 3) // 4
    k = tl.arange(0, BR * BE * QUADS)
    _, _, begin, degree, _, _ = load_items(
        group, k // (BE * QUADS), ptr, pieces, num_rows, num_pieces, BR
    )
    return begin, degree, k // QUADS % BE, k % QUADS


@triton.jit
def load_seed(seed):
    """The dropout seed: ``seed`` is an integer, or points to one on the device."""
    return tl.load(seed) if seed.dtype.is_ptr() else seed


@triton.jit
def keep_of(
    ids,
    quad,
    h0,
    element,
    seed,
    threshold,
    scale,
    BR: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
):
    """keep_e of (3) for a tile, ``[BR, BE, BH]``; ``ids`` and ``quad`` as in :func:`load_quads`."""
    low = (ids & 0xFFFFFFFF).to(tl.uint32)
    high = (ids >> 32).to(tl.uint32)
    quad = (h0 // 4 + quad).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, quad, low * 0 + element.to(tl.uint32))
    limit = threshold.to(tl.uint32)
    k0 = tl.where(w0 >= limit, scale, 0.0)
    k1 = tl.where(w1 >= limit, scale, 0.0)
    k2 = tl.where(w2 >= limit, scale, 0.0)
    k3 = tl.where(w3 >= limit, scale, 0.0)
    keep = tl.join(tl.join(k0, k2), tl.join(k1, k3))
    if BH < 4:
        # A sum, which the compiler does not repeat for every thread that needs the result.
        keep = tl.reshape(keep, [BR * BE, 4 // BH, BH])
        mine = tl.arange(0, 4 // BH) == h0 % 4 // BH
        keep = tl.sum(tl.where(mine[None, :, None], keep, 0.0), 1)
    return tl.reshape(keep, [BR, BE, BH])
