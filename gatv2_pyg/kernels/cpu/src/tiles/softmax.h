// What the passes do with scores of a tile, laid out [edge][head_stride].
#pragma once

#include "layout/rows.h"

GATV2_BEGIN

// Everything per tile is a few vectors of (edge, head); vector k belongs to heads block k % blocks.
template <class A>
struct HeadLanes {
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  int stride, blocks;

  explicit HeadLanes(int head_stride)
      : stride(head_stride), blocks(head_stride > W ? head_stride / W : 1) {}
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

// The running softmax of a row: maximum (up to kSlack), and the denominator lane by lane.
template <class A>
struct RunningSoftmax {
  static constexpr A kSlack = 2;
  A* max;
  A* sum;

  void reset(const HeadLanes<A>& lanes) const {
    using V = typename Simd<A>::V;
    for (int k = 0; k < lanes.spread_size(); k += HeadLanes<A>::W) {
      store(max + k, broadcast<V>(-(A)__builtin_inf()));
      store(sum + k, V{});
    }
  }
  // Replaces the n edges' scores by exp(s - max); `rescale` is what earlier sums must be multiplied
  // by. A score may exceed max by kSlack before max follows: mostly no tile waits for the maximum
  // of its scores.
  GATV2_INLINE void add(const HeadLanes<A>& lanes, A* s, int n, A* rescale) const {
    using V = typename Simd<A>::V;
    constexpr int W = Simd<A>::W;
    const int count = lanes.vectors(n);
    for (int k = n * lanes.stride; k < count * W; ++k) s[k] = -(A)__builtin_inf();
    for (int b = 0; b < lanes.blocks; ++b) {
      V top = load(s + b * W);
      for (int k = b + lanes.blocks; k < count; k += lanes.blocks)
        top = max_of(top, load(s + k * W));
      const V before = load(max + b * W);
      V scale = broadcast<V>((A)1), total = load(sum + b * W);
      if (any_lane(above_zero(top - (before + kSlack)))) {
        top = max_of(lanes.fold_max(top), before);
        scale = exp(before - top);
        total *= scale;
        store(max + b * W, top);
      } else {
        top = before;
      }
      for (int k = b; k < count; k += lanes.blocks) {
        const V p = exp(load(s + k * W) - top);
        total += p;
        store(s + k * W, p);
      }
      store(sum + b * W, total);
      store(rescale + b * W, scale);
    }
  }
};

GATV2_END
