// Scores of a tile lie as [edge][head_stride]: a lane always means the same head.
#pragma once

#include "simd/partial.h"

GATV2_BEGIN

// Everything per tile is a few vectors of (edge, head); vector k belongs to heads block k % blocks.
template <class A>
struct ScoreLayout {
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  int heads, stride, blocks;
  A no_head[W];  // of the last block: -inf in lanes of no head, which hold anything; 0 in others

  ScoreLayout(int head_stride, int num_heads)
      : heads(num_heads), stride(head_stride), blocks(head_stride > W ? head_stride / W : 1) {
    const int last = min_of(stride, W), used = heads - (blocks - 1) * W;
    for (int k = 0; k < W; ++k) no_head[k] = k % last < used ? (A)0 : -(A)__builtin_inf();
  }
  // The numbers of rows' heads from rows of one length, [heads] or [stride], to those of another.
  void copy_heads(A* to, int to_row, const A* from, int from_row, int64_t rows) const {
    if (to_row == from_row) {
      memcpy(to, from, sizeof(A) * to_row * rows);
      return;
    }
    const int last = (blocks - 1) * W;
    const LanesInUse used(heads - last);
    for (int64_t row = 0; row < rows; ++row, to += to_row, from += from_row) {
      for (int k = 0; k < last; k += W) store(to + k, load(from + k));
      store(to + last, load(from + last, used), used);
    }
  }
  // 0 in lanes of no head of n edges.
  void clear_no_head(A* of_edges, int n) const {
    if (heads == stride) return;
    const V last = load(no_head);
    for (int k = blocks - 1; k < vectors(n); k += blocks)
      store(of_edges + k * W, last < V{} ? V{} : load(of_edges + k * W));
  }
  int vectors(int n) const { return (n * stride + W - 1) / W; }

  // Combines the lanes of each head, so that every lane holds its head's value.
  template <class Op>
  GATV2_INLINE V fold(V v, const Op& op) const {
    if constexpr (W > 8)
      if (stride <= 8) v = op(v, swap_lanes<A, 8 % W>(v));
    if constexpr (W > 4)
      if (stride <= 4) v = op(v, swap_lanes<A, 4 % W>(v));
    if constexpr (W > 2)
      if (stride <= 2) v = op(v, swap_lanes<A, 2 % W>(v));
    if (stride <= 1) v = op(v, swap_lanes<A, 1>(v));
    return v;
  }
  GATV2_INLINE V fold_max(V v) const {
    return fold(v, [](V a, V b) GATV2_LAMBDA_INLINE { return max_of(a, b); });
  }
  GATV2_INLINE V fold_sum(V v) const {
    return fold(v, [](V a, V b) GATV2_LAMBDA_INLINE { return a + b; });
  }

  // A vector (or, past W heads, head_stride elements) that repeats `from` over its lanes.
  void spread(A* to, const A* from, int heads) const {
    if (stride >= W) {
      memcpy(to, from, sizeof(A) * heads);
      memset(to + heads, 0, sizeof(A) * (stride - heads));
      return;
    }
    for (int k = 0; k < W; ++k) to[k] = (k & (stride - 1)) < heads ? from[k & (stride - 1)] : (A)0;
  }
  int spread_size() const { return stride > W ? stride : W; }
};

GATV2_END
