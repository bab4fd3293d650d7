// The softmax of several short rows in a tile, and its derivative. Scores of an edge are
// [head_stride] lanes, as are the numbers kept of a row. All loops run over the edges of the tile,
// whatever row they belong to: a loop over each row's edges would end at a place that no processor
// foresees.
#pragma once

#include "layout/score_layout.h"
#include "layout/tile.h"

GATV2_BEGIN

// The lanes of an edge or row: head_stride of them, in blocks of W where there are more.
template <class A, int HS>
struct EdgeLanes {
  typedef A V __attribute__((vector_size(sizeof(A) * HS)));
  typedef typename Simd<A>::Int I __attribute__((vector_size(sizeof(A) * HS)));
  static GATV2_INLINE V load(const A* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static GATV2_INLINE void store(A* p, V v) { memcpy(p, &v, sizeof v); }
  // v where the two are the same, else 0.
  static GATV2_INLINE V if_same(I a, I b, V v) { return (V)((I)v & (a == b)); }
};
// Compilers keep vectors of one lane in memory.
template <class A>
struct EdgeLanes<A, 1> {
  typedef A V;
  typedef typename Simd<A>::Int I;
  static GATV2_INLINE V load(const A* p) { return *p; }
  static GATV2_INLINE void store(A* p, V v) { *p = v; }
  static GATV2_INLINE V if_same(I a, I b, V v) { return a == b ? v : (A)0; }
};

template <class T>
class ShortRows {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  using I = typename Simd<A>::I;
  static constexpr int W = Simd<A>::W;

 public:
  // `memory`: [kBatchSlots][head_stride] of scratch.
  ShortRows(const ScoreLayout<A>& layout, const Tile<T>& tile, A* memory)
      : stride_(layout.stride), tile_(tile), running_(memory) {}

  // The largest of each row in max[row].
  void find_max(const A* s, A* max) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE { find_max(hs, s, max); });
  }
  // s -> s - of_rows[row]
  void subtract(A* s, const A* of_rows) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      using L = EdgeLanes<A, decltype(hs)::value>;
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        L::store(s + edge, L::load(s + edge) - L::load(of_rows + row));
      });
    });
  }
  // s -> s * of_rows[row]
  void multiply(A* s, const A* of_rows) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      using L = EdgeLanes<A, decltype(hs)::value>;
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        L::store(s + edge, L::load(s + edge) * L::load(of_rows + row));
      });
    });
  }
  // sum[row] = the sum of p over the row.
  void add_up(const A* p, A* sum) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE { find_sum(hs, p, sum); });
  }
  // (5), (6) from p = exp(s - lse) and da = keep d: p -> alpha = p / sum of p, da -> ds = alpha (da
  // - D), where D = sum of alpha da. By (5) the ds of a row add up to 0; what they add up to is the
  // rounding of D, and taken out. `of_rows` is scratch of the rows, `of_edges` of the edges.
  void differentiate(A* p, A* da, const A* inverse_sum, A* of_edges, A* of_rows) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      using L = EdgeLanes<A, decltype(hs)::value>;
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        const auto alpha = L::load(p + edge) * L::load(inverse_sum + row);
        L::store(p + edge, alpha);
        L::store(of_edges + edge, alpha * L::load(da + edge));
      });
      find_sum(hs, of_edges, of_rows);
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        const auto D = L::load(of_rows + row);
        L::store(da + edge, L::load(p + edge) * (L::load(da + edge) - D));
      });
      find_sum(hs, da, of_rows);
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        const auto residual = L::load(of_rows + row);
        L::store(da + edge, L::load(da + edge) - L::load(p + edge) * residual);
      });
    });
  }

 private:
  template <class F>
  GATV2_INLINE void by_stride(const F& f) const {
    switch (stride_) {
      case 1: return f(Int<1>());
      case 2: return f(Int<2>());
      case 4: return f(Int<(W >= 4 ? 4 : W)>());
      case 8: return f(Int<(W >= 8 ? 8 : W)>());
      default: return f(Int<W>());
    }
  }
  // f(where the edge's lanes lie, where those of its row lie)
  template <int HS, class F>
  GATV2_INLINE void each_edge(Int<HS>, const F& f) const {
    for (int block = 0; block < stride_; block += HS)
      for (int e = 0; e < tile_.n; ++e)
        f((int64_t)e * stride_ + block, (int64_t)tile_.row_of[e] * stride_ + block);
  }
  // of_rows[row] = the sum over the row's edges, in their order: it does not depend on what other
  // rows share the tile. Rows without edges get any number.
  template <int HS>
  GATV2_INLINE void find_sum(Int<HS>, const A* from, A* of_rows) const {
    using L = EdgeLanes<A, HS>;
    for (int block = 0; block < stride_; block += HS) {
      typename L::V sum{};
      typename L::I row = typename L::I{} - 1;
      for (int e = 0; e < tile_.n; ++e) {
        const auto row_here = typename L::I{} + tile_.row_of[e];
        sum = L::if_same(row_here, row, sum) + L::load(from + (int64_t)e * stride_ + block);
        L::store(running_ + e * HS, sum);
        row = row_here;
      }
      take_last<HS>(of_rows + block);
    }
  }
  // Likewise the largest, which no order changes: whole vectors at once.
  template <int HS>
  GATV2_INLINE void find_max(Int<HS>, const A* from, A* of_rows) const {
    for (int block = 0; block < stride_; block += HS) {
      if constexpr (HS < W) {
        constexpr int edges = W / HS;
        V before{};
        I row_before = I{} - 1;
        for (int e = 0; e < tile_.n; e += edges) {
          V x = load(from + (int64_t)e * HS);
          I rows;
          memcpy(&rows, tile_.row_of + e, sizeof rows);
          rows = repeat_each<HS>(rows, LaneNumbers<A>());
          max_over_lanes<HS>(x, rows);
          x = rows == row_before ? larger(before, x) : x;
          store(running_ + (int64_t)e * HS, x);
          before = repeat_last<HS>(x, LaneNumbers<A>());
          row_before = repeat_last<HS>(rows, LaneNumbers<A>());
        }
      } else {
        V so_far{};
        I row = I{} - 1;
        for (int e = 0; e < tile_.n; ++e) {
          const I row_here = I{} + tile_.row_of[e];
          const V x = load(from + (int64_t)e * stride_ + block);
          so_far = row_here == row ? larger(so_far, x) : x;
          store(running_ + e * W, so_far);
          row = row_here;
        }
      }
      take_last<HS>(of_rows + block);
    }
  }
  // The first where the second is NaN.
  static GATV2_INLINE V larger(V a, V b) { return b > a ? b : a; }
  // Lane by lane the largest of the lanes of the same head and row up to it.
  template <int shift>
  static GATV2_INLINE void max_over_lanes(V& x, I rows) {
    const V earlier = shift_lanes<shift>(x, x, LaneNumbers<A>());
    x = shift_lanes<shift>(I{} - 1, rows, LaneNumbers<A>()) == rows ? larger(earlier, x) : x;
    if constexpr (2 * shift < W) max_over_lanes<2 * shift>(x, rows);
  }
  // What `running_` holds at the last edge of each row.
  template <int HS>
  GATV2_INLINE void take_last(A* of_rows) const {
    using L = EdgeLanes<A, HS>;
    for (int r = 0; r < tile_.num_rows; ++r)
      L::store(of_rows + (int64_t)r * stride_,
               L::load(running_ + max_of(0, tile_.begin[r + 1] - 1) * HS));
  }

  const int stride_;
  const Tile<T>& tile_;
  A* const running_;
};

GATV2_END
