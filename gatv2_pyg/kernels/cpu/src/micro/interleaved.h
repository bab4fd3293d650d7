// Micro-kernels for rows whose heads are interleaved: [C][head_stride] in place of [H][C], so that
// a lane always means the same head. A sum over channels is then a sum of vectors, where rows by
// head take a tree of shuffles, and heads narrower than a vector waste no lanes. The gathered rows
// must be copied first.
#pragma once

#include "micro/micro.h"

GATV2_BEGIN

// HS: head_stride; N: vectors of the segment.
template <class T, int HS, int N>
struct InterleavedMicro {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  static constexpr int group = W / HS;  // edges whose scores fill a vector

  // (2) for a tile.
  static void score(const Tile<T>& t, const Segment& seg, const Weights<A>& r, A* s, A*) {
    const V slope = broadcast<V>(r.slope);
    V own[N], att[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      own[v] = load(t.own[0] + seg.padded + v * W);
      att[v] = load(r.att + seg.padded + v * W);
    }
#pragma GCC unroll 1
    for (int e0 = 0; e0 < t.n; e0 += group) {
      V scores = add_lanes<A, HS, 0, HS>([&](auto k) GATV2_LAMBDA_INLINE {
        const T* const x = one_address(t.rows[e0 + decltype(k)::value] + seg.offset);
        const T* const next = one_address(t.next_rows[e0 + decltype(k)::value] + seg.offset);
        V sums[2] = {};  // the lanes of an edge in two chains
        GATV2_UNROLL
        for (int v = 0; v < N; ++v) {
          if (v % 2 == 0 && v * W * sizeof(T) % 64 == 0) prefetch(next + v * W);
          const V z = load(x + v * W) + own[v];
          const V y = max_of(z * slope, z);
          sums[v % 2] = v > 1 ? fma(y, att[v], sums[v % 2]) : y * att[v];
        }
        return N > 1 ? sums[0] + sums[1] : sums[0];
      });
      A* const to = s + e0 * HS;
      if (seg.continues) scores += load(to);
      store(to, scores);
    }
  }

  // (3): acc = acc * scale + sum_e p[e][h] x_src; the first tile of a row starts from 0.
  static void accumulate_forward(const Tile<T>& t, const Segment& seg, const Weights<A>&,
                                 const A* p, const A* scale, A* acc) {
    V sum[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) sum[v] = scale ? load(acc + seg.padded + v * W) * load(scale) : V{};
    for (int e = 0; e < t.n; ++e) {
      const T* const x = t.rows[e] + seg.offset;
      const T* const next = one_address(t.next_rows[e] + seg.offset);
      const V weight = load_repeated<HS>(p + e * HS);
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        if (v % 2 && v * W * sizeof(T) % 64 == 0) prefetch(next + v * W);
        sum[v] = fma(weight, load(x + v * W), sum[v]);
      }
    }
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) store(acc + seg.padded + v * W, sum[v]);
  }
};

template <class T, int HS, int N>
const MicroTable<T>* interleaved_table() {
  using M = InterleavedMicro<T, HS, N>;
  static constexpr MicroTable<T> table = {
      {{{M::score}}}, nullptr, M::accumulate_forward, {}, nullptr, nullptr, {}, nullptr, nullptr};
  return &table;
}

template <class T, int HS = 2>
const MicroTable<T>* find_interleaved(const Segment& s) {
  if constexpr (HS < Simd<Acc<T>>::W)
    if (s.heads > HS) return find_interleaved<T, HS * 2>(s);
  switch (s.vectors) {
    case 1: return interleaved_table<T, HS, 1>();
    case 2: return interleaved_table<T, HS, 2>();
    case 4: return interleaved_table<T, HS, 4>();
    default: return interleaved_table<T, HS, 8>();
  }
}

GATV2_END
