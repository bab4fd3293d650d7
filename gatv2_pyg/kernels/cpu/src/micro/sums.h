// Sums over the edges of a tile of one segment of their rows, or of each short row. The sums stay
// in registers.
#pragma once

#include "micro/shape.h"

GATV2_BEGIN

template <class T, int HB, int CV, bool Ragged, int P = 1, int Flat = 0>
struct MicroSums {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  using Shape = MicroShape<T, HB, CV, Ragged, P, Flat>;
  using Access = typename Shape::Access;
  static constexpr int W = Shape::W, N = Shape::N;
  // Vectors whose two sums stay in registers.
  static constexpr int kAtOnce = kManyRegisters ? N : min_of(N, 4);
  template <int from = 0, class F>
  static GATV2_INLINE void by_parts(const F& f) {
    f(Int<from>());
    if constexpr (from + kAtOnce < N) by_parts<from + kAtOnce>(f);
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
        if (Shape::kSpread && v % 2) Shape::prefetch_vector(next, v);
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
          if (Shape::kSpread && v % 2) Shape::prefetch_vector(next, v);
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
          Shape::prefetch_vector(next, v);
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

GATV2_END
