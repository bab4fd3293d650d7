// The micro-kernels: one segment of up to eight vectors over a tile of edges of one row.
// The row's own vectors and its sums stay in registers; sums over channels are kept as vectors and
// a whole vector of them is reduced at once by a transpose.
#pragma once

#include "layout/plan.h"
#include "layout/tile.h"

GATV2_BEGIN

enum Direction { kForward, kByDestination };  // the passes that need scores

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

// Reduces vectors leaf(0), ..., leaf(L - 1) to one whose lane k is the sum of leaf(k), L <= W a
// power of two; with L < W the result repeats.
template <class A, int L, int k, int bit, class Leaf>
GATV2_INLINE auto reduce(const Leaf& leaf) {
  if constexpr (bit == Simd<A>::W) {
    return leaf(Int<k>());
  } else if constexpr (bit >= L) {
    return fold<A, bit>(reduce<A, L, k, bit * 2>(leaf));
  } else {
    const auto a = reduce<A, L, k, bit * 2>(leaf);
    return merge<A, bit>(a, reduce<A, L, k + bit, bit * 2>(leaf));
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
  return reduce<A, L, 0, 1>([=](auto k) GATV2_LAMBDA_INLINE { return v[decltype(k)::value]; });
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
  if (HB == stride && !s.continues)
    store(to + e * stride, v);
  else
    scatter_scores(to + e * stride + s.head, v, L / HB, HB, stride, s.continues);
}

template <class T, int HB, int CV, bool Ragged>
struct Micro {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  static constexpr int N = HB * CV;
  // Whether half of a row is prefetched with the scores, half with the sums: the scores of several
  // heads take time enough.
  static constexpr bool kSpread = HB < 4;

  static GATV2_INLINE V leaky(V z, V slope) { return z > V{} ? z : z * slope; }

  // Vector v of the segment; only the last of a ragged one is partial.
  template <class U>
  static GATV2_INLINE V get(const U* p, int v, LanesInUse tail) {
    return Ragged && v == N - 1 ? load(p + v * W, tail) : load(p + v * W);
  }

  // The cache line that vector v begins, if it begins one.
  static GATV2_INLINE void prefetch_vector(const T* p, int v) {
    if (v * W * sizeof(T) % 64 == 0) prefetch(p + v * W);
  }

  // The row's own vectors, in registers where they fit.
  template <Direction D>
  struct Own {
    V own[N], att[N], grad[N], slope;
    LanesInUse tail;
    GATV2_INLINE Own(const Segment& seg, const RowData<A>& r)
        : slope(broadcast<V>(r.slope)), tail(seg.tail) {
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        own[v] = load(r.own + seg.padded + v * W);
        att[v] = load(r.att + seg.padded + v * W);
        if constexpr (D == kByDestination) grad[v] = load(r.grad + seg.padded + v * W);
      }
    }
  };

  // An edge's row, and that of the edge to prefetch.
  struct Edges {
    const T *x, *next_x;
  };

  // (2) and (4) of one edge and head h of the segment, lanes not yet added up. The prefetches, here
  // of `ahead` and its head, are spread over the work, for the processor tracks few misses at a
  // time.
  template <Direction D, bool Edge>
  static GATV2_INLINE Scores<V> terms(const Own<D>& o, const Edges& t, const A* projected, int h,
                                      const Edges& ahead, int ahead_h) {
    Scores<V> sum{};
    GATV2_UNROLL
    for (int c = 0; c < CV; ++c) {
      const int v = h * CV + c;
      const int line = ahead_h * CV + c;
      if (!kSpread || line % 2 == 0) prefetch_vector(ahead.next_x, line);
      const V xv = get(t.x, v, o.tail);
      V z = xv + o.own[v];
      if constexpr (Edge) z += load(projected + v * W);
      const V y = leaky(z, o.slope);
      sum.s = c ? fma(y, o.att[v], sum.s) : y * o.att[v];
      if constexpr (D == kByDestination) sum.d = c ? fma(xv, o.grad[v], sum.d) : xv * o.grad[v];
    }
    return sum;
  }

  // (2) and (4) for a tile: s[e][h] = <att, LeakyReLU(z)>, d[e][h] = <g, x_src>.
  template <Direction D, bool Edge>
  static void score(const Tile<T>& t, const Segment& seg, const RowData<A>& r, A* s, A* d) {
    const A* const projected = Edge ? t.projected + seg.padded : nullptr;
    auto edges_at = [&](int e) GATV2_LAMBDA_INLINE {
      return Edges{one_address(t.rows[e] + seg.offset), one_address(t.next_rows[e] + seg.offset)};
    };
    auto edge_terms = [&](const Own<D>& o, const Edges& edges, int e, int h, const Edges& ahead,
                          int ahead_h) GATV2_LAMBDA_INLINE {
      return terms<D, Edge>(o, edges, Edge ? projected + (int64_t)e * r.padded_row : nullptr, h,
                            ahead, ahead_h);
    };
    // Up to L sums over channels at once, of L / HB edges. Where reductions are calls, which keep
    // no vectors, the row's own are read again: that takes less than to save and restore them.
    constexpr bool inline_reduction = HB >= 4 && !Edge;
    const Own<D> shared(seg, r);
    auto group = [&](auto count, int e0) GATV2_LAMBDA_INLINE {
      constexpr int L = decltype(count)::value;
      V rs, rd;
      if constexpr (inline_reduction) {
        Edges edges[L / HB];
        GATV2_UNROLL
        for (int e = 0; e < L / HB; ++e) edges[e] = edges_at(e0 + e);
        auto leaf = [&](auto k) GATV2_LAMBDA_INLINE {
          // The leaves come in the order of their reversed bits, the lines of a row are prefetched
          // in theirs.
          constexpr int e = decltype(k)::value / HB, line = reversed<L>(decltype(k)::value);
          return edge_terms(shared, edges[e], e0 + e, decltype(k)::value % HB, edges[line / HB],
                            line % HB);
        };
        if constexpr (D == kForward) {
          rs = reduce<A, L, 0, 1>([&](auto k) GATV2_LAMBDA_INLINE { return leaf(k).s; });
        } else {
          const Scores<V> sum = reduce<A, L, 0, 1>(leaf);
          rs = sum.s;
          rd = sum.d;
        }
      } else {
        V ps[L], pd[L];
        const Own<D> own(*one_address(&seg), *one_address(&r));
        const int count = min_of(L / HB, t.n - e0);
#pragma GCC unroll 1
        for (int e = 0; e < count; ++e) {
          const Edges edges = edges_at(e0 + e);
          GATV2_UNROLL
          for (int h = 0; h < HB; ++h) {
            const Scores<V> sum = edge_terms(own, edges, e0 + e, h, edges, h);
            ps[e * HB + h] = sum.s;
            if constexpr (D != kForward) pd[e * HB + h] = sum.d;
          }
        }
        for (int k = count * HB; k < L; ++k) ps[k] = pd[k] = V{};
        rs = reduce_stored<A, L>(ps);
        if constexpr (D != kForward) rd = reduce_stored<A, L>(pd);
      }
      put_scores<A, L, HB>(s, rs, e0, seg, r.head_stride);
      if constexpr (D != kForward) put_scores<A, L, HB>(d, rd, e0, seg, r.head_stride);
    };
    constexpr int few = HB >= W / 4 ? HB : W / 4;
#pragma GCC unroll 1
    for (int e = 0; e < t.n;) {
      if (few < W && (t.n - e) * HB <= few) {
        group(Int<few>(), e);
        e += few / HB;
      } else {
        group(Int<W>(), e);
        e += W / HB;
      }
    }
  }

  // d[h] = <grad, x> for a packed row x.
  static void dot(const A* x, const Segment& seg, const RowData<A>& r, A* d) {
    const LanesInUse tail(seg.tail);
    const V sums = reduce<A, HB, 0, 1>([&](auto h) GATV2_LAMBDA_INLINE {
      V sum{};
      GATV2_UNROLL
      for (int v = decltype(h)::value * CV; v < (decltype(h)::value + 1) * CV; ++v)
        sum = fma(load(r.grad + seg.padded + v * W), get(x + seg.offset, v, tail), sum);
      return sum;
    });
    scatter_scores<A>(d + seg.head, sums, 1, HB, 0, seg.continues);
  }

  // (3): acc = acc * scale + sum_e p[e][h] x_src; the first tile of a row starts from 0.
  static void accumulate_forward(const Tile<T>& t, const Segment& seg, const RowData<A>& r,
                                 const A* p, const A* scale, A* acc) {
    const LanesInUse tail(seg.tail);
    V sum[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v)
      sum[v] = scale ? load(acc + seg.padded + v * W) * scale[seg.head + v / CV] : V{};
    const A* pe = p + seg.head;
    for (int e = 0; e < t.n; ++e, pe += r.head_stride) {
      const T* x = t.rows[e] + seg.offset;
      const T* const next = one_address(t.next_rows[e] + seg.offset);
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        if (kSpread && v % 2) prefetch_vector(next, v);
        sum[v] = fma(broadcast<V>(pe[v / CV]), get(x, v, tail), sum[v]);
      }
    }
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) store(acc + seg.padded + v * W, sum[v]);
  }

  // A tile's sum goes into a row's sum as one: fewer roundings than edge by edge.
  static GATV2_INLINE void add(A* to, V tile) { store(to, load(to) + tile); }

  // (6), (7): acc_slope += sum_e ds LeakyReLU'(z), acc_att += sum_e ds LeakyReLU(z); att comes
  // last. Where z is above 0 goes to the tile's masks.
  template <bool Edge>
  static void accumulate_by_destination(const Tile<T>& t, const Segment& seg, const RowData<A>& r,
                                        const A* ds, A* acc_slope, A* acc_att) {
    const LanesInUse tail(seg.tail);
    const V one = broadcast<V>((A)1), slope = broadcast<V>(r.slope);
    V own[N], a[N], b[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      own[v] = load(r.own + seg.padded + v * W);
      a[v] = b[v] = V{};
    }
    const A* de = ds + seg.head;
    uint8_t* masks = t.masks + seg.padded / W * kMaskBytes<A>;
    for (int e = 0; e < t.n; ++e, de += r.head_stride, masks += t.mask_row) {
      const T* x = t.rows[e] + seg.offset;
      const T* const next = one_address(t.next_rows[e] + seg.offset);
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        if (kSpread && v % 2) prefetch_vector(next, v);
        V z = get(x, v, tail) + own[v];
        if constexpr (Edge) z += load(t.projected + (int64_t)e * r.padded_row + seg.padded + v * W);
        const auto above = above_zero(z);
        store_mask(masks + v * kMaskBytes<A>, above);
        const V w = select(above, one, slope) * de[v / CV];
        a[v] += w;
        b[v] = fma(w, z, b[v]);
      }
    }
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      add(acc_slope + seg.padded + v * W, a[v]);
      add(acc_att + seg.padded + v * W, b[v]);
    }
  }

  // (8): acc_grad += sum_e keep alpha g_i, acc_slope += sum_e ds LeakyReLU'(z).
  static void accumulate_by_source(const Tile<T>& t, const Segment& seg, const RowData<A>& r,
                                   A* acc_grad, A* acc_slope) {
    const LanesInUse tail(seg.tail);
    const V one = broadcast<V>((A)1), slope = broadcast<V>(r.slope);
    V a[N], b[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) a[v] = b[v] = V{};
    for (int e = 0; e < t.n; ++e) {
      const T* const g = t.rows[e] + seg.offset;
      const T* const next = one_address(t.next_rows[e] + seg.offset);
      const A* const keep_alpha = t.records[e] + seg.head;
      const A* const ds = keep_alpha + r.head_stride;
      const uint8_t* const masks = t.record_masks[e] + seg.padded / W * kMaskBytes<A>;
      GATV2_UNROLL
      for (int v = 0; v < N; ++v) {
        prefetch_vector(next, v);
        a[v] = fma(broadcast<V>(keep_alpha[v / CV]), get(g, v, tail), a[v]);
        b[v] = fma(broadcast<V>(ds[v / CV]),
                   select(load_mask<A>(masks + v * kMaskBytes<A>), one, slope), b[v]);
      }
    }
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      add(acc_grad + seg.padded + v * W, a[v]);
      add(acc_slope + seg.padded + v * W, b[v]);
    }
  }
};

// A segment's micro-kernels; [1] are those with edge features.
template <class T>
struct MicroTable {
  using A = Acc<T>;
  void (*score[2][2])(const Tile<T>&, const Segment&, const RowData<A>&, A* s, A* d);
  void (*dot)(const A* x, const Segment&, const RowData<A>&, A* d);
  void (*accumulate_forward)(const Tile<T>&, const Segment&, const RowData<A>&, const A* p,
                             const A* scale, A* acc);
  void (*accumulate_by_destination[2])(const Tile<T>&, const Segment&, const RowData<A>&,
                                       const A* ds, A* acc_slope, A* acc_att);
  void (*accumulate_by_source)(const Tile<T>&, const Segment&, const RowData<A>&, A* acc_grad,
                               A* acc_slope);
};

template <class T, int HB, int CV, bool Ragged>
const MicroTable<T>* micro_table() {
  using M = Micro<T, HB, CV, Ragged>;
  static constexpr MicroTable<T> table = {
      {{M::template score<kForward, false>, M::template score<kForward, true>},
       {M::template score<kByDestination, false>, M::template score<kByDestination, true>}},
      M::dot,
      M::accumulate_forward,
      {M::template accumulate_by_destination<false>, M::template accumulate_by_destination<true>},
      M::accumulate_by_source};
  return &table;
}

// The most heads a segment may have. Several at once pay where a reduction takes many vectors; the
// rest is kept small to build.
template <class T>
constexpr int kMostHeads = Simd<Acc<T>>::W >= (sizeof(T) == 4 ? 8 : 16) ? 8 : 1;

template <class T>
const MicroTable<T>* find_micro(const Segment& s) {
  constexpr int W = Simd<Acc<T>>::W;
  if (s.tail != W)
    return s.vectors == 1 ? micro_table<T, 1, 1, true>() : micro_table<T, 1, 2, true>();
  if constexpr (kMostHeads<T> == 8) {
    switch (s.heads * 16 + s.vectors) {
      case 32 + 1: return micro_table<T, 2, 1, false>();
      case 32 + 2: return micro_table<T, 2, 2, false>();
      case 32 + 4: return micro_table<T, 2, 4, false>();
      case 64 + 1: return micro_table<T, 4, 1, false>();
      case 64 + 2: return micro_table<T, 4, 2, false>();
      case 128 + 1: return micro_table<T, 8, 1, false>();
    }
  }
  switch (s.vectors) {
    case 1: return micro_table<T, 1, 1, false>();
    case 2: return micro_table<T, 1, 2, false>();
    case 4: return micro_table<T, 1, 4, false>();
    default: return micro_table<T, 1, 8, false>();
  }
}

GATV2_END
