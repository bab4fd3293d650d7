// The micro-kernels: one segment of up to eight vectors over a tile, the edges of one row or of
// several short ones. A row's sums stay in registers, and in tiles of one row its own vectors too;
// sums over channels are kept as vectors and a whole vector of them is reduced at once by a
// transpose.
#pragma once

#include "layout/plan.h"
#include "layout/tile.h"

GATV2_BEGIN

enum Direction { kForward, kByDestination };  // the passes that need scores
enum TileRows { kOneRow, kShortRows };        // the rows whose edges are a tile

// The partial sums of (2) and of (4) for one edge and head.
template <class V>
struct Scores {
  V s, d;
};

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

// A segment of HB heads: of CV vectors each, or P to a vector of W / P lanes each (then CV is 1).
// Or CV vectors of a flat row, of a unit of up to `Flat` heads; these have no scores here (see
// flat.h).
template <class T, int HB, int CV, bool Ragged, int P = 1, int Flat = 0>
struct Micro {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  static constexpr int S = W / P;   // lanes of a head in a vector
  static constexpr int U = HB / P;  // what is reduced apart: heads, or vectors of heads
  static constexpr int N = U * CV;  // vectors
  // Whether half of a row is prefetched with the scores, half with the sums: the scores of several
  // heads take time enough.
  static constexpr bool kSpread = U < 4;
  // Vectors whose two sums stay in registers.
  static constexpr int kAtOnce = kManyRegisters ? N : min_of(N, 4);
  template <int from = 0, class F>
  static GATV2_INLINE void by_parts(const F& f) {
    f(Int<from>());
    if constexpr (from + kAtOnce < N) by_parts<from + kAtOnce>(f);
  }

  static GATV2_INLINE V leaky(V z, V slope) { return z > V{} ? z : z * slope; }

  // Vector v of the segment in a packed row. Where that is ragged the last vector of each head is
  // partial, or with P every vector, and its heads lie apart.
  struct Access {
    LanesInUse tail;
    HeadLanes lanes;
    int64_t step;                      // from head to head, or vector to vector
    const typename Simd<A>::I* heads;  // of flat rows: see FlatHeads::lanes
    GATV2_INLINE Access(const Segment& s, const Weights<A>& r)
        : tail(s.tail),
          lanes(S, s.channels),
          step(P > 1 ? P * s.channels : s.channels),
          heads(Flat > 0 ? r.flat->lanes(s.padded / W) : nullptr) {}
    static constexpr bool partial(int v) { return Ragged && (P > 1 || v % CV == CV - 1); }
    GATV2_INLINE int64_t at(int v) const {
      return Ragged && U > 1 ? v / CV * step + v % CV * W : (int64_t)v * W;
    }
    template <class E>
    GATV2_INLINE V get(const E* p, int v) const {
      const V x = partial(v) ? load(p + at(v), tail) : load(p + at(v));
      return P > 1 && Ragged ? expand(x, lanes) : x;
    }
    template <class E>
    GATV2_INLINE void put(E* p, int v, V x, bool past_caches) const {
      if (partial(v))
        store(p + at(v), P > 1 ? compress(x, lanes) : x, tail);
      else if (!Ragged && past_caches)
        store_past_caches(p + at(v), x);
      else
        store(p + at(v), x);
    }
    // The number of vector v's heads in their lanes, from [head].
    GATV2_INLINE V by_head(const A* of_heads, int v) const {
      if constexpr (Flat > 0)
        return permute(load_repeated<Flat>(of_heads), heads[v]);
      else if constexpr (P > 1)
        return spread_runs<S>(of_heads + v * P);
      else
        return broadcast<V>(of_heads[v / CV]);
    }
  };

  // The cache line that vector v begins, if it begins one.
  static GATV2_INLINE void prefetch_vector(const T* p, int v) {
    if (v * W * sizeof(T) % 64 == 0) prefetch(p + v * W);
  }

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
  // tiles of one row. att_below: att times the slope, for weights that go by sign.
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
      if (!kSpread || line % 2 == 0) prefetch_vector(ahead.next_x, line);
      const V xv = access.get(t.x, v);
      V z = xv + (keeps_row(R) ? shared.own[v] : load(t.own + v * W));
      if constexpr (Edge) z += load(projected + v * W);
      // Their product is att LeakyReLU(z).
      V y, att;
      if constexpr (kBlendsBySign) {
        y = z;
        att = by_sign(z, shared.att[v], shared.att_below[v]);
      } else {
        y = leaky(z, slope);
        att = shared.att[v];
      }
      sum.s = c ? fma(y, att, sum.s) : y * att;
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
      if constexpr (kBlendsBySign) shared.att_below[v] = shared.att[v] * slope;
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

  // Adds weight * x_src of edges [begin, end) of a tile to `sum`.
  static GATV2_INLINE void add_rows(const Tile<T>& t, const Segment& seg, const Access& access,
                                    const A* weights, int stride, int begin, int end, V (&sum)[N]) {
    const A* we = weights + begin * stride + seg.head;
    for (int e = begin; e < end; ++e, we += stride) {
      const T* x = t.rows[e] + seg.offset;
      const T* const next = one_address(t.next_rows[e] + seg.offset);
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        if (kSpread && v % 2) prefetch_vector(next, v);
        sum[v] = fma(access.by_head(we, v), access.get(x, v), sum[v]);
      }
    }
  }

  // (3): acc = acc * scale + sum_e p[e][h] x_src; the first tile of a row starts from 0.
  static void accumulate_forward(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                                 const A* p, const A* scale, A* acc) {
    const Access access(seg, r);
    V sum[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v)
      sum[v] = scale ? load(acc + seg.padded + v * W) * access.by_head(scale + seg.head, v) : V{};
    add_rows(t, seg, access, p, r.head_stride, 0, t.n, sum);
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) store(acc + seg.padded + v * W, sum[v]);
  }
  // (3) of short rows, alpha[e][h] at hand.
  static void forward_rows(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                           const A* alpha, const ForwardOut<A>& out) {
    const Access access(seg, r);
    for (int row = 0; row < t.num_rows; ++row) {
      V sum[N];
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) sum[v] = V{};
      add_rows(t, seg, access, alpha, r.head_stride, t.begin[row], t.begin[row + 1], sum);
      put_forward(access, seg, row, sum, out);
    }
  }
  // (3) of one row to out, and (10).
  static GATV2_INLINE void put_forward(const Access& access, const Segment& seg, int row,
                                       const V (&sum)[N], const ForwardOut<A>& out) {
    const int64_t at = row * out.row + seg.offset;
    if (out.plain) {
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) access.put(out.plain + at, v, sum[v], out.past_caches);
    }
    if (out.biased) {
      GATV2_UNROLL
      for (int v = 0; v < N; ++v)
        access.put(out.biased + at, v, sum[v] + load(out.bias + seg.padded + v * W),
                   out.past_caches);
    }
  }

  // A tile's sum goes into a row's sum as one: fewer roundings than edge by edge.
  static GATV2_INLINE void add(A* to, V tile) { store(to, load(to) + tile); }

  // (6), (7): slope_sum += sum_e ds LeakyReLU'(z), leaky_sum += sum_e ds LeakyReLU(z), over edges
  // [begin, end) of one row; att comes last. Where z is above 0 goes to the tile's masks, the terms
  // of slope_sum to its slopes.
  template <bool Edge>
  static GATV2_INLINE void add_slopes(const Tile<T>& t, const Segment& seg, const Access& access,
                                      const Weights<A>& r, const A* ds, int begin, int end,
                                      V (&slope_sum)[N], V (&leaky_sum)[N]) {
    if (begin == end) return;
    const V slope = broadcast<V>(r.slope);
    const A* const own_row = t.own[begin] + seg.padded;
    by_parts([&](auto part) GATV2_LAMBDA_INLINE {
      constexpr int from = decltype(part)::value, count = min_of(kAtOnce, N - from);
      V own[count];
      GATV2_UNROLL
      for (int v = 0; v < count; ++v) own[v] = load(own_row + (from + v) * W);
      const A* de = ds + begin * r.head_stride + seg.head;
      uint8_t* masks = t.masks + begin * t.mask_row + seg.padded / W * kMaskBytes<A>;
      for (int e = begin; e < end; ++e, de += r.head_stride, masks += t.mask_row) {
        const T* x = t.rows[e] + seg.offset;
        const T* const next = one_address(t.next_rows[e] + seg.offset);
        V ds_above{}, ds_below{};  // ds LeakyReLU'(z) where z is above 0, and elsewhere
        GATV2_UNROLL
        for (int v = from; v < from + count; ++v) {
          if (kSpread && v % 2) prefetch_vector(next, v);
          if (v == from || Flat > 0 || v % CV == 0) {
            ds_above = access.by_head(de, v);
            ds_below = ds_above * slope;
          }
          V z = access.get(x, v) + own[v - from];
          if constexpr (Edge)
            z += load(t.projected + (int64_t)e * r.padded_row + seg.padded + v * W);
          const auto above = above_zero(z);
          store_mask(masks + v * kMaskBytes<A>, above);
          const V w = select(above, ds_above, ds_below);
          if constexpr (Edge)
            if (t.slopes) store(t.slopes + (int64_t)e * r.padded_row + seg.padded + v * W, w);
          slope_sum[v] += w;
          leaky_sum[v] = fma(w, z, leaky_sum[v]);
        }
      }
    });
  }
  template <bool Edge>
  static void accumulate_by_destination(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                                        const A* ds, A* slope_sum, A* leaky_sum) {
    const Access access(seg, r);
    V a[N], b[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) a[v] = b[v] = V{};
    add_slopes<Edge>(t, seg, access, r, ds, 0, t.n, a, b);
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      add(slope_sum + seg.padded + v * W, a[v]);
      add(leaky_sum + seg.padded + v * W, b[v]);
    }
  }
  // (7) of short rows: d x_dst where `out` has a place for it, and leaky_sum of all of them.
  template <bool Edge>
  static void destination_rows(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                               const A* ds, const RowsOut<T>& out, A* leaky_sum) {
    const Access access(seg, r);
    V b[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) b[v] = V{};
    for (int row = 0; row < t.num_rows; ++row) {
      V a[N];
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) a[v] = V{};
      add_slopes<Edge>(t, seg, access, r, ds, t.begin[row], t.begin[row + 1], a, b);
      if (!out.first) continue;
      T* const to = out.first + row * out.row + seg.offset;
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) a[v] *= load(r.att + seg.padded + v * W);
      put_gradient(access, seg, to, a, out);
    }
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) add(leaky_sum + seg.padded + v * W, b[v]);
  }

  // A row of a gradient, and (11).
  template <class E>
  static GATV2_INLINE void put_gradient(const Access& access, const Segment& seg, E* to,
                                        const V (&row)[N], const RowsOut<E>& out) {
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) access.put(to, v, row[v], out.past_caches);
    if (out.sum) {
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) add(out.sum + seg.padded + v * W, row[v]);
    }
  }

  // (8): grad_sum += sum_e keep alpha g_i, slope_sum += sum_e ds LeakyReLU'(z), over edges
  // [begin, end).
  static GATV2_INLINE void add_records(const Tile<T>& t, const Segment& seg, const Access& access,
                                       const Weights<A>& r, int begin, int end, V (&grad_sum)[N],
                                       V (&slope_sum)[N]) {
    const V one = broadcast<V>((A)1), slope = broadcast<V>(r.slope);
    const int64_t masks_at = seg.padded / W * kMaskBytes<A>;
    by_parts([&](auto part) GATV2_LAMBDA_INLINE {
      constexpr int from = decltype(part)::value, count = min_of(kAtOnce, N - from);
      for (int e = begin; e < end; ++e) {
        const T* const g = t.rows[e] + seg.offset;
        const T* const next = one_address(t.next_rows[e] + seg.offset);
        const A* const keep_alpha = t.records[e] + seg.head;
        const A* const ds = keep_alpha + r.head_stride;
        const uint8_t* const masks = t.record_masks[e] + masks_at;
        GATV2_UNROLL
        for (int v = from; v < from + count; ++v) {
          prefetch_vector(next, v);
          grad_sum[v] = fma(access.by_head(keep_alpha, v), access.get(g, v), grad_sum[v]);
          const V w = select_stored<A>(masks + v * kMaskBytes<A>, one, slope);
          slope_sum[v] = fma(access.by_head(ds, v), w, slope_sum[v]);
        }
      }
    });
  }
  static void accumulate_by_source(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                                   A* grad_sum, A* slope_sum) {
    const Access access(seg, r);
    V a[N], b[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) a[v] = b[v] = V{};
    add_records(t, seg, access, r, 0, t.n, a, b);
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      add(grad_sum + seg.padded + v * W, a[v]);
      add(slope_sum + seg.padded + v * W, b[v]);
    }
  }
  // (8) of short rows, which go to `out` or are added to what is there.
  template <class E>
  static void source_rows(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                          const RowsOut<E>& out) {
    const Access access(seg, r);
    for (int row = 0; row < t.num_rows; ++row) {
      E* const to = out.first + row * out.row + seg.offset;
      V a[N], b[N];
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        a[v] = out.accumulate ? access.get(to, v) : V{};
        b[v] = V{};
      }
      add_records(t, seg, access, r, t.begin[row], t.begin[row + 1], a, b);
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) a[v] = fma(load(r.att + seg.padded + v * W), b[v], a[v]);
      put_gradient(access, seg, to, a, out);
    }
  }
};

// A segment's micro-kernels; of [2] the second are those with edge features.
template <class T>
struct MicroTable {
  using A = Acc<T>;
  // [Direction][TileRows]
  void (*score[2][2][2])(const Tile<T>&, const Segment&, const Weights<A>&, A* s, A* d);
  void (*dot)(const A* x, const A* grad, const Segment&, const Weights<A>&, A* d);
  void (*accumulate_forward)(const Tile<T>&, const Segment&, const Weights<A>&, const A* p,
                             const A* scale, A* acc);
  void (*accumulate_by_destination[2])(const Tile<T>&, const Segment&, const Weights<A>&,
                                       const A* ds, A* slope_sum, A* leaky_sum);
  void (*accumulate_by_source)(const Tile<T>&, const Segment&, const Weights<A>&, A* grad_sum,
                               A* slope_sum);
  // Whole short rows.
  void (*forward_rows)(const Tile<T>&, const Segment&, const Weights<A>&, const A* alpha,
                       const ForwardOut<A>&);
  void (*destination_rows[2])(const Tile<T>&, const Segment&, const Weights<A>&, const A* ds,
                              const RowsOut<T>&, A* leaky_sum);
  void (*source_rows)(const Tile<T>&, const Segment&, const Weights<A>&, const RowsOut<T>&);
  void (*source_rows_wide)(const Tile<T>&, const Segment&, const Weights<A>&, const RowsOut<A>&);
};

// M adds up rows, S scores them.
template <class T, class M, class S>
const MicroTable<T>* table_of() {
  using A = Acc<T>;
  constexpr TileRows one = S::kOneRowAs, several = kShortRows;
  static constexpr MicroTable<T> table = {
      {{{S::template score<kForward, false, one>, S::template score<kForward, true, one>},
        {S::template score<kForward, false, several>, S::template score<kForward, true, several>}},
       {{S::template score<kByDestination, false, one>,
         S::template score<kByDestination, true, one>},
        {S::template score<kByDestination, false, several>,
         S::template score<kByDestination, true, several>}}},
      S::dot,
      M::accumulate_forward,
      {M::template accumulate_by_destination<false>, M::template accumulate_by_destination<true>},
      M::accumulate_by_source,
      M::forward_rows,
      {M::template destination_rows<false>, M::template destination_rows<true>},
      M::template source_rows<T>,
      M::template source_rows<A>};
  return &table;
}
template <class T, int HB, int CV, bool Ragged, int P = 1>
const MicroTable<T>* micro_table() {
  using M = Micro<T, HB, CV, Ragged, P>;
  return table_of<T, M, M>();
}

// The most heads a segment may have. Several at once pay where a reduction takes many vectors; the
// rest is kept small to build. With four lanes a reduction takes four heads.
template <class T>
constexpr int kMostHeads = Simd<Acc<T>>::W * sizeof(Acc<T>) == 16
                               ? (Simd<Acc<T>>::W == 4 ? 4 : 1)
                               : (Simd<Acc<T>>::W >= (sizeof(T) == 4 ? 8 : 16) ? 8 : 1);

// Heads that share vectors, P to each; of several segments the vectors are 4, 2 and 1.
template <class T, int P>
const MicroTable<T>* find_shared(const Segment& s) {
  constexpr int W = Simd<Acc<T>>::W, S = W / P;
  const bool full = s.tail == W;
  if constexpr (S >= 4) {
    if (s.heads == 4 * P)
      return full ? micro_table<T, 4 * P, 1, false, P>() : micro_table<T, 4 * P, 1, true, P>();
    if (full)
      return s.heads == 2 * P ? micro_table<T, 2 * P, 1, false, P>()
                              : micro_table<T, P, 1, false, P>();
  }
  return s.heads == 2 * P ? micro_table<T, 2 * P, 1, true, P>() : micro_table<T, P, 1, true, P>();
}

template <class T>
const MicroTable<T>* find_micro(const Segment& s) {
  constexpr int W = Simd<Acc<T>>::W;
  if constexpr (W >= 4)
    if (s.sharing == 2) return find_shared<T, 2>(s);
  if constexpr (W >= 8)
    if (s.sharing == 4) return find_shared<T, 4>(s);
  if constexpr (W >= 16)
    if (s.sharing == 8) return find_shared<T, 8>(s);
  const bool ragged = s.tail != W;
  if constexpr (kMostHeads<T> == 8)
    if (s.heads == 8) return ragged ? micro_table<T, 8, 1, true>() : micro_table<T, 8, 1, false>();
  if constexpr (kMostHeads<T> >= 4) {
    if (ragged) switch (s.heads * 16 + s.vectors) {
        case 32 + 1: return micro_table<T, 2, 1, true>();
        case 32 + 2: return micro_table<T, 2, 2, true>();
        case 32 + 3: return micro_table<T, 2, 3, true>();
        case 64 + 1: return micro_table<T, 4, 1, true>();
        case 64 + 2: return micro_table<T, 4, 2, true>();
      }
  }
  if (ragged) switch (s.vectors) {
      case 1: return micro_table<T, 1, 1, true>();
      case 2: return micro_table<T, 1, 2, true>();
      default: return micro_table<T, 1, 3, true>();
    }
  if constexpr (kMostHeads<T> >= 4) {
    switch (s.heads * 16 + s.vectors) {
      case 32 + 1: return micro_table<T, 2, 1, false>();
      case 32 + 2: return micro_table<T, 2, 2, false>();
      case 32 + 3: return micro_table<T, 2, 3, false>();
      case 32 + 4: return micro_table<T, 2, 4, false>();
      case 64 + 1: return micro_table<T, 4, 1, false>();
      case 64 + 2: return micro_table<T, 4, 2, false>();
    }
  }
  switch (s.vectors) {
    case 1: return micro_table<T, 1, 1, false>();
    case 2: return micro_table<T, 1, 2, false>();
    case 3: return micro_table<T, 1, 3, false>();
    case 4: return micro_table<T, 1, 4, false>();
    default: return micro_table<T, 1, 8, false>();
  }
}

GATV2_END
