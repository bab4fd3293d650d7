// Scores: their terms, the sums over the channels of several heads and edges at once, and where
// these go.
#pragma once

#include "layout/plan.h"

GATV2_BEGIN

// The partial sums of (2) and of (4) for one edge and head.
template <class V>
struct Scores {
  V s, d;
};

// att LeakyReLU(z) as two factors. att_below is att times the slope, and taken in place of att
// where z is negative, if that takes no comparison (kBlendsBySign).
template <class V>
struct Factors {
  V y, att;
};
template <class V>
GATV2_INLINE Factors<V> leaky_factors(V z, V slope, V att, V att_below) {
  if constexpr (kBlendsBySign)
    return {z, by_sign(z, att, att_below)};
  else
    return {z > V{} ? z : z * slope, att};
}

template <class A, int bit>
GATV2_INLINE typename Simd<A>::V fold(typename Simd<A>::V a) {
  return a + swap_lanes<A, bit>(a);
}
template <class A, int bit>
GATV2_INLINE typename Simd<A>::V merge(typename Simd<A>::V a, typename Simd<A>::V b) {
  return combine<A, bit>(a, b);
}
template <class A, int bit, class V>
GATV2_INLINE Scores<V> fold(const Scores<V>& a) {
  return {fold<A, bit>(a.s), fold<A, bit>(a.d)};
}
template <class A, int bit, class V>
GATV2_INLINE Scores<V> merge(const Scores<V>& a, const Scores<V>& b) {
  return {merge<A, bit>(a.s, b.s), merge<A, bit>(a.d, b.d)};
}

// Reduces vectors leaf(0), ..., leaf(L - 1), L <= S powers of two, over each run of S lanes: lane k
// of a run is the sum of the run in leaf(k); with L < S the result repeats.
template <class A, int L, int S, int k, int bit, class Leaf>
GATV2_INLINE auto reduce(const Leaf& leaf) {
  if constexpr (bit == S) {
    return leaf(Int<k>());
  } else if constexpr (bit >= L) {
    return fold<A, bit>(reduce<A, L, S, k, bit * 2>(leaf));
  } else {
    const auto a = reduce<A, L, S, k, bit * 2>(leaf);
    return merge<A, bit>(a, reduce<A, L, S, k + bit, bit * 2>(leaf));
  }
}
// k with its bits in reverse, k < L.
template <int L>
constexpr int reversed(int k) {
  int to = 0;
  for (int bit = 1; bit < L; bit *= 2) to = 2 * to + (k / bit) % 2;
  return to;
}
template <class A, int L>
GATV2_NOINLINE typename Simd<A>::V reduce_stored(const typename Simd<A>::V* v) {
  return reduce<A, L, Simd<A>::W, 0, 1>([=](auto k)
                                            GATV2_LAMBDA_INLINE { return v[decltype(k)::value]; });
}

// Scores of `edges` edges and `heads` heads of a segment, from the lanes of v.
template <class A>
GATV2_NOINLINE void scatter_scores(A* row, typename Simd<A>::V v, int edges, int heads, int stride,
                                   bool add) {
  A lane[Simd<A>::W];
  store(lane, v);
  const A* from = lane;
  for (int k = 0; k < edges; ++k, row += stride)
    for (int h = 0; h < heads; ++h, ++from) row[h] = add ? row[h] + *from : *from;
}
template <class A, int L, int HB>
GATV2_INLINE void put_scores(A* to, typename Simd<A>::V v, int e, const Segment& s, int stride) {
  constexpr int W = Simd<A>::W;
  if (s.continues) return scatter_scores(to + e * stride + s.head, v, L / HB, HB, stride, true);
  if (HB == stride) return store(to + e * stride, v);
  if (!kMasksAccess || stride > W) {
    A lanes[W];
    store(lanes, v);
    GATV2_UNROLL
    for (int k = 0; k < L / HB; ++k)
      memcpy(to + (e + k) * stride + s.head, lanes + k * HB, sizeof(A) * HB);
    return;
  }
  // A vector of scores holds W / stride edges; those past the last are scratch.
  unsigned bits = ((1u << HB) - 1) << s.head;
  for (int k = stride; k < W; k *= 2) bits |= bits << k;
  for (int k = 0; k < L / HB; k += W / stride)
    store_elements(to + (e + k) * stride, bits, v, k * HB);
}

GATV2_END
