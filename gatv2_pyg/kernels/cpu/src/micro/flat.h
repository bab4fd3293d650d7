// Micro-kernels of flat rows: what adds up rows permutes the numbers of heads to their lanes, and a
// score takes up to four heads at once, whose places in their vectors are constants.
#pragma once

#include "micro/micro.h"

GATV2_BEGIN

// The terms of (2) and (4) of edge e by N vectors of its row, which starts at `offset` in rows and
// at `padded` in padded ones; `get` gives a vector of a row that has no padding.
template <Direction D, bool Edge, int N, class T, class V, class Get>
GATV2_INLINE void edge_terms(const Tile<T>& t, int e, int64_t offset, int64_t padded,
                             const Weights<Acc<T>>& r, V slope, const V (&att)[N],
                             const V (&att_below)[N], const Get& get, V (&s)[N], V (&d)[N]) {
  using A = Acc<T>;
  constexpr int W = Simd<A>::W;
  const T* const x = one_address(t.rows[e] + offset);
  const T* const next = one_address(t.next_rows[e] + offset);
  const A* const own = one_address(t.own[e] + padded);
  const A* const grad = D == kForward ? nullptr : one_address(t.grad[e] + padded);
  const A* const projected = Edge ? t.projected + (int64_t)e * r.padded_row + padded : nullptr;
  GATV2_UNROLL
  for (int v = 0; v < N; ++v) {
    // Every other vector's line; the rest with the sums.
    if (v % 2 == 0 && v * W * sizeof(T) % 64 == 0) prefetch(next + v * W);
    const V xv = get(x, v);
    V z = xv + load(own + v * W);
    if constexpr (Edge) z += load(projected + v * W);
    const auto f = leaky_factors(z, slope, att[v], att_below[v]);
    s[v] = f.y * f.att;
    if constexpr (D != kForward) d[v] = xv * load(grad + v * W);
  }
}

// H heads of Q quarters of a vector.
template <class T, int H, int Q>
struct FlatScore {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  static constexpr int N = (H * Q + 3) / 4;  // vectors
  static constexpr bool Ragged = H * Q % 4 != 0;
  static constexpr int group = W / H;  // edges
  static constexpr TileRows kOneRowAs = kShortRows;

  template <class E>
  static GATV2_INLINE V get(const E* p, int v, const LanesInUse& tail) {
    return Ragged && v == N - 1 ? load(p + v * W, tail) : load(p + v * W);
  }
  // A vector that adds up to what vectors of the row hold of head h: its parts in them from v on.
  template <int h, int v = h* Q / 4>
  static GATV2_INLINE V head(const V (&row)[N], V sum = V{}) {
    constexpr int first = max_of(0, h * Q - v * 4) * W / 4;
    constexpr int end = min_of(4, (h + 1) * Q - v * 4) * W / 4;
    if constexpr (v == h * Q / 4)
      sum = take_lanes<A, first, end>(row[v]);
    else
      sum = add_taken<A, first, end>(sum, row[v]);
    if constexpr ((v + 1) * 4 < (h + 1) * Q)
      return head<h, v + 1>(row, sum);
    else
      return sum;
  }
  template <int h = 0>
  static GATV2_INLINE void each_head(const V (&row)[N], V* to) {
    to[h] = head<h>(row);
    if constexpr (h + 1 < H) each_head<h + 1>(row, to);
  }

  // (2) and (4) for a tile: s[e][h] = <att, LeakyReLU(z)>, d[e][h] = <g, x_src>.
  template <Direction D, bool Edge, TileRows>
  static void score(const Tile<T>& t, const Segment& seg, const Weights<A>& r, A* s, A* d) {
    const V slope = broadcast<V>(r.slope);
    const LanesInUse tail(seg.tail);
    V att[N], att_below[N], of_s[W], of_d[W];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      att[v] = load(r.att + seg.padded + v * W);
      att_below[v] = att[v] * slope;
    }
    GATV2_UNROLL
    for (int k = H * group; k < W; ++k) of_s[k] = of_d[k] = V{};
    const auto row = [&](const T* x, int v) GATV2_LAMBDA_INLINE { return get(x, v, tail); };
#pragma GCC unroll 1
    for (int e0 = 0; e0 < t.n; e0 += group) {
      const int count = min_of(group, t.n - e0);
#pragma GCC unroll 1
      for (int k = 0; k < count; ++k) {
        V s_terms[N], d_terms[N];
        edge_terms<D, Edge>(t, e0 + k, seg.offset, seg.padded, r, slope, att, att_below, row,
                            s_terms, d_terms);
        each_head(s_terms, of_s + k * H);
        if constexpr (D != kForward) each_head(d_terms, of_d + k * H);
      }
      for (int k = count * H; k < group * H; ++k) of_s[k] = of_d[k] = V{};
      put_scores<A, H * group, H>(s, reduce_stored<A, W>(of_s), e0, seg, r.head_stride);
      if constexpr (D != kForward)
        put_scores<A, H * group, H>(d, reduce_stored<A, W>(of_d), e0, seg, r.head_stride);
    }
  }

  // d[h] = <grad, x> for a packed row x and a padded row grad.
  static void dot(const A* x, const A* grad, const Segment& seg, const Weights<A>&, A* d) {
    const LanesInUse tail(seg.tail);
    V terms[N], sums[W] = {};
    GATV2_UNROLL
    for (int v = 0; v < N; ++v)
      terms[v] = get(x + seg.offset, v, tail) * load(grad + seg.padded + v * W);
    each_head(terms, sums);
    scatter_scores<A>(d + seg.head, reduce_stored<A, W>(sums), 1, H, 0, false);
  }
};

// Narrow heads, whose rows are turned to [C][HS] to be added up: HS lanes of scores; N vectors of a
// row.
template <class T, int HS, int N>
struct NarrowScore {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  using I = typename Simd<A>::I;
  static constexpr int W = Simd<A>::W;
  static constexpr int group = W / HS;  // edges
  static constexpr TileRows kOneRowAs = kShortRows;

  template <class E>
  static GATV2_INLINE V get(const E* p, int v, const LanesInUse& tail) {
    return v == N - 1 ? load(p + v * W, tail) : load(p + v * W);
  }
  static GATV2_INLINE V take(const V (&row)[N], const I* lanes) {
    if constexpr (N == 1) return permute(row[0], *lanes);
    V taken = permute(row[0], row[N > 1], lanes[0]);
    GATV2_UNROLL
    for (int v = 2; v < N; ++v) taken = permute(taken, row[v], lanes[v - 1]);
    return taken;
  }
  // The sums over channels, of each head in lanes that repeat. As many vectors as the row has, or
  // where heads fill no power of two (Square is false) some more.
  template <bool Square>
  static GATV2_INLINE V fold(const V (&row)[N], const FlatHeads<A>& heads) {
    constexpr int step = N > 1 ? N - 1 : 1;
    const I* const lanes = heads.transposed();
    V sum = take(row, lanes);
    if constexpr (Square) {
      GATV2_UNROLL
      for (int k = 1; k < N; ++k) sum += take(row, lanes + k * step);
    } else {
      for (int k = 1; k < heads.folds(); ++k) sum += take(row, lanes + k * step);
    }
    return sum;
  }

  // (2) and (4) for a tile: s[e][h] = <att, LeakyReLU(z)>, d[e][h] = <g, x_src>.
  template <Direction D, bool Edge, TileRows>
  static void score(const Tile<T>& t, const Segment& seg, const Weights<A>& r, A* s, A* d) {
    if (r.flat->folds() == N)
      score_tile<D, Edge, true>(t, seg, r, s, d);
    else
      score_tile<D, Edge, false>(t, seg, r, s, d);
  }
  template <Direction D, bool Edge, bool Square>
  static GATV2_INLINE void score_tile(const Tile<T>& t, const Segment& seg, const Weights<A>& r,
                                      A* s, A* d) {
    const V slope = broadcast<V>(r.slope);
    const LanesInUse tail(seg.tail);
    V att[N], att_below[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) {
      att[v] = load(r.att + v * W);
      att_below[v] = att[v] * slope;
    }
    const auto row = [&](const T* x, int v) GATV2_LAMBDA_INLINE { return get(x, v, tail); };
    const auto terms = [&](int e) GATV2_LAMBDA_INLINE {
      V of_s[N], of_d[N];
      edge_terms<D, Edge>(t, e, 0, 0, r, slope, att, att_below, row, of_s, of_d);
      Scores<V> sum{};
      sum.s = fold<Square>(of_s, *r.flat);
      if constexpr (D != kForward) sum.d = fold<Square>(of_d, *r.flat);
      return sum;
    };
#pragma GCC unroll 1
    for (int e0 = 0; e0 < t.n; e0 += group) {
      Scores<V> sums[group];
      GATV2_UNROLL
      for (int k = 0; k < group; ++k) sums[k] = terms(e0 + k);
      store(s + e0 * HS, add_lanes<A, HS, 0, HS>([&](auto k) GATV2_LAMBDA_INLINE {
              return sums[decltype(k)::value].s;
            }));
      if constexpr (D != kForward)
        store(d + e0 * HS, add_lanes<A, HS, 0, HS>([&](auto k) GATV2_LAMBDA_INLINE {
                return sums[decltype(k)::value].d;
              }));
    }
  }

  // d[h] = <grad, x> for a packed row x and a padded row grad.
  static void dot(const A* x, const A* grad, const Segment& seg, const Weights<A>& r, A* d) {
    const LanesInUse tail(seg.tail);
    V terms[N];
    GATV2_UNROLL
    for (int v = 0; v < N; ++v) terms[v] = get(x, v, tail) * load(grad + v * W);
    const V sum = fold<false>(terms, *r.flat);
    const V sums = add_lanes<A, HS, 0, HS>(
        [&](auto k) GATV2_LAMBDA_INLINE { return decltype(k)::value ? V{} : sum; });
    scatter_scores<A>(d, sums, 1, seg.heads, 0, false);
  }
};

template <class T, int HS, int N>
const MicroTable<T>* narrow_table() {
  return table_of<T, MicroSums<T, 1, N, true, 1, HS>, NarrowScore<T, HS, N>>();
}
template <class T, int HS>
const MicroTable<T>* find_narrow(const Segment& s) {
  switch (s.vectors) {
    case 1: return narrow_table<T, HS, 1>();
    case 2: return narrow_table<T, HS, 2>();
    case 3: return narrow_table<T, HS, 3>();
    case 4: return narrow_table<T, HS, 4>();
    default: return narrow_table<T, HS, 5>();
  }
}

template <class T, int H, int Q>
const MicroTable<T>* flat_table() {
  using S = FlatScore<T, H, Q>;
  return table_of<T, MicroSums<T, 1, S::N, S::Ragged, 1, FlatHeads<Acc<T>>::kUnit>, S>();
}

template <class T, int Q>
const MicroTable<T>* find_flat_heads(const Segment& s) {
  switch (s.heads) {
    case 1: return micro_table<T, 1, (Q + 3) / 4, true>();
    case 2: return flat_table<T, 2, Q>();
    case 3: return flat_table<T, 3, Q>();
    default: return flat_table<T, 4, Q>();
  }
}

template <class T>
const MicroTable<T>* find_flat(const Segment& s, int quarters, int stride) {
  if constexpr (FlatHeads<Acc<T>>::kTaken) {
    if (quarters == 3) return find_flat_heads<T, 3>(s);
    if (quarters == 5) return find_flat_heads<T, 5>(s);
    if (quarters == 6) return find_flat_heads<T, 6>(s);
  }
  if constexpr (FlatHeads<Acc<T>>::kNarrow) {
    switch (stride) {
      case 2: return find_narrow<T, 2>(s);
      case 4: return find_narrow<T, 4>(s);
      case 8: return find_narrow<T, 8>(s);
      case 16: return find_narrow<T, 16>(s);
    }
  }
  return nullptr;
}

GATV2_END
