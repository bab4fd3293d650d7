// The softmax of a row, tile by tile.
#pragma once

#include "layout/score_layout.h"

GATV2_BEGIN

// The running softmax of a row: maximum (up to kSlack), and the denominator lane by lane.
template <class A>
struct RunningSoftmax {
  static constexpr A kSlack = 2;
  A* max;
  A* sum;

  // `least`: what no score is below.
  void reset(const ScoreLayout<A>& layout, A least) const {
    using V = typename Simd<A>::V;
    for (int k = 0; k < layout.spread_size(); k += ScoreLayout<A>::W) {
      store(max + k, broadcast<V>(least));
      store(sum + k, V{});
    }
  }
  // Replaces the n edges' scores by exp(s - max); `rescale` is what earlier sums must be multiplied
  // by. A score may exceed max by kSlack before max follows: mostly no tile waits for the maximum
  // of its scores.
  GATV2_INLINE void add(const ScoreLayout<A>& layout, A* s, int n, A* rescale) const {
    using V = typename Simd<A>::V;
    constexpr int W = Simd<A>::W;
    const int count = layout.vectors(n);
    for (int k = n * layout.stride; k < count * W; ++k) s[k] = -(A)__builtin_inf();
    for (int b = 0; b < layout.blocks; ++b) {
      V top = load(s + b * W);
      for (int k = b + layout.blocks; k < count; k += layout.blocks)
        top = max_of(top, load(s + k * W));
      const V before = load(max + b * W);
      V scale = broadcast<V>((A)1), total = load(sum + b * W);
      V above = top - (before + kSlack);
      if (b == layout.blocks - 1) above += load(layout.no_head);
      if (any_lane(above_zero(above))) {
        top = max_of(layout.fold_max(top), before);
        scale = exp(before - top);
        total *= scale;
        store(max + b * W, top);
      } else {
        top = before;
      }
      for (int k = b; k < count; k += layout.blocks) {
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
