// Scores of the edges of a tile by one segment of their rows. Sums over channels are kept as
// vectors and a whole vector of them is reduced at once by a transpose.
#pragma once

#include "micro/reduce.h"
#include "micro/shape.h"

GATV2_BEGIN

template <class T, int HB, int CV, bool Ragged, int P = 1>
struct MicroScores {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  using Shape = MicroShape<T, HB, CV, Ragged, P>;
  using Access = typename Shape::Access;
  static constexpr int W = Shape::W, S = Shape::S, U = Shape::U, N = Shape::N;

  // Where no row is kept in registers the two kinds of tiles take the same code.
  static constexpr TileRows kOneRowAs = kManyRegisters ? kOneRow : kShortRows;
  // Whether the row's own vectors are kept in registers while a tile of it is scored.
  static constexpr bool keeps_row(TileRows rows) { return rows == kOneRow && kManyRegisters; }

  // An edge's rows, and the row of the edge to prefetch.
  struct Edges {
    const T *x, *next_x;
    const A *own, *grad;
  };
  // The vectors of the segment that the edges of a tile share: grad by destination, own and grad in
  // tiles of one row.
  struct Shared {
    V att[N], att_below[N], own[N], grad[N];
  };

  // (2) and (4) of one edge and unit u of the segment, lanes not yet added up. The prefetches, here
  // of `ahead` and its unit, are spread over the work, for the processor tracks few misses at a
  // time.
  template <Direction D, bool Edge, TileRows R>
  static GATV2_INLINE Scores<V> terms(const Access& access, const Shared& shared, V slope,
                                      const Edges& t, const A* projected, int u, const Edges& ahead,
                                      int ahead_u) {
    Scores<V> sum{};
    GATV2_UNROLL
    for (int c = 0; c < CV; ++c) {
      const int v = u * CV + c;
      const int line = ahead_u * CV + c;
      if (!Shape::kSpread || line % 2 == 0) Shape::prefetch_vector(ahead.next_x, line);
      const V xv = access.get(t.x, v);
      V z = xv + (keeps_row(R) ? shared.own[v] : load(t.own + v * W));
      if constexpr (Edge) z += load(projected + v * W);
      const auto f = leaky_factors(z, slope, shared.att[v], shared.att_below[v]);
      sum.s = c ? fma(f.y, f.att, sum.s) : f.y * f.att;
      if constexpr (D == kByDestination) {
        const V g = keeps_row(R) ? shared.grad[v] : load(t.grad + v * W);
        sum.d = c ? fma(xv, g, sum.d) : xv * g;
      }
    }
    return sum;
  }

  // (2) and (4) for a tile: s[e][h] = <att, LeakyReLU(z)>, d[e][h] = <g, x_src>.
  template <Direction D, bool Edge, TileRows R>
  static void score(const Tile<T>& t, const Segment& seg, const Weights<A>& r, A* s, A* d) {
    const A* const projected = Edge ? t.projected + seg.padded : nullptr;
    const Access access(seg, r);
    const V slope = broadcast<V>(r.slope);
    Shared shared;
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      shared.att[v] = load(r.att + seg.padded + v * W);
      shared.att_below[v] = shared.att[v] * slope;
      if constexpr (keeps_row(R)) {
        shared.own[v] = load(t.own[0] + seg.padded + v * W);
        if constexpr (D == kByDestination) shared.grad[v] = load(t.grad[0] + seg.padded + v * W);
      }
    }
    auto edges_at = [&](int e) GATV2_LAMBDA_INLINE {
      return Edges{one_address(t.rows[e] + seg.offset), one_address(t.next_rows[e] + seg.offset),
                   keeps_row(R) ? nullptr : one_address(t.own[e] + seg.padded),
                   keeps_row(R) || D == kForward ? nullptr : one_address(t.grad[e] + seg.padded)};
    };
    auto edge_terms = [&](const Edges& edges, int e, int u, const Edges& ahead,
                          int ahead_u) GATV2_LAMBDA_INLINE {
      return terms<D, Edge, R>(access, shared, slope, edges,
                               Edge ? projected + (int64_t)e * r.padded_row : nullptr, u, ahead,
                               ahead_u);
    };
    // Up to L sums over channels at once, of L / U edges.
    constexpr bool inline_reduction =
        P > 1 || (!Edge && (HB >= (kManyRegisters ? 4 : 2) || (N > 1 && N <= 4)));
    auto group = [&](auto count, int e0) GATV2_LAMBDA_INLINE {
      constexpr int L = decltype(count)::value;
      V rs, rd;
      if constexpr (inline_reduction) {
        Edges edges[L / U];
        GATV2_UNROLL
        for (int e = 0; e < L / U; ++e) edges[e] = edges_at(e0 + e);
        auto leaf = [&](auto k) GATV2_LAMBDA_INLINE {
          // The leaves come in the order of their reversed bits, the lines of a row are prefetched
          // in theirs.
          constexpr int e = decltype(k)::value / U, line = reversed<L>(decltype(k)::value);
          return edge_terms(edges[e], e0 + e, decltype(k)::value % U, edges[line / U], line % U);
        };
        if constexpr (D == kForward) {
          rs = reduce<A, L, S, 0, 1>([&](auto k) GATV2_LAMBDA_INLINE { return leaf(k).s; });
        } else {
          const Scores<V> sum = reduce<A, L, S, 0, 1>(leaf);
          rs = sum.s;
          rd = sum.d;
        }
      } else {
        V ps[L], pd[L];
        const int count = min_of(L / U, t.n - e0);
#pragma GCC unroll 1
        for (int e = 0; e < count; ++e) {
          const Edges edges = edges_at(e0 + e);
          GATV2_UNROLL
          for (int u = 0; u < U; ++u) {
            const Scores<V> sum = edge_terms(edges, e0 + e, u, edges, u);
            ps[e * U + u] = sum.s;
            if constexpr (D != kForward) pd[e * U + u] = sum.d;
          }
        }
        for (int k = count * U; k < L; ++k) ps[k] = pd[k] = V{};
        rs = reduce_stored<A, L>(ps);
        if constexpr (D != kForward) rd = reduce_stored<A, L>(pd);
      }
      // Lane [head of the vector][edge][vector] to lane [edge][head].
      if constexpr (P > 1) rs = interleave_runs<A, S, U>(rs);
      put_scores<A, L * P, HB>(s, rs, e0, seg, r.head_stride);
      if constexpr (D != kForward) {
        if constexpr (P > 1) rd = interleave_runs<A, S, U>(rd);
        put_scores<A, L * P, HB>(d, rd, e0, seg, r.head_stride);
      }
    };
    constexpr int few = P > 1 ? S : U >= W / 4 ? U : W / 4;
#pragma GCC unroll 1
    for (int e = 0; e < t.n;) {
      if (few < S && (t.n - e) * U <= few) {
        group(Int<few>(), e);
        e += few / U;
      } else {
        group(Int<S>(), e);
        e += S / U;
      }
    }
  }

  // d[h] = <grad, x> for a packed row x and a padded row grad.
  static void dot(const A* x, const A* grad, const Segment& seg, const Weights<A>& r, A* d) {
    const Access access(seg, r);
    V sums = reduce<A, U, S, 0, 1>([&](auto u) GATV2_LAMBDA_INLINE {
      V sum{};
      GATV2_UNROLL
      for (int v = decltype(u)::value * CV; v < (decltype(u)::value + 1) * CV; ++v)
        sum = fma(load(grad + seg.padded + v * W), access.get(x + seg.offset, v), sum);
      return sum;
    });
    if constexpr (P > 1) sums = interleave_runs<A, S, U>(sums);
    scatter_scores<A>(d + seg.head, sums, 1, HB, 0, seg.continues);
  }
};

GATV2_END
