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
  static GATV2_INLINE V load(const A* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static GATV2_INLINE void store(A* p, V v) { memcpy(p, &v, sizeof v); }
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

  // (3): s -> s - max, the largest of each row in max[row].
  void subtract_max(A* s, A* max) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      scan(hs, s, max, [](auto a, auto b) GATV2_LAMBDA_INLINE { return b > a ? b : a; });
    });
    subtract(s, max);
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
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      scan(hs, p, sum, [](auto a, auto b) GATV2_LAMBDA_INLINE { return a + b; });
    });
  }
  // (5), (6) from p = exp(s - lse) and da = keep d: p -> alpha = p / sum of p, da -> ds = alpha (da
  // - D), where D = sum of alpha da. By (5) the ds of a row add up to 0; what they add up to is the
  // rounding of D, and taken out. `of_rows` is scratch of the rows, `of_edges` of the edges.
  void differentiate(A* p, A* da, const A* inverse_sum, A* of_edges, A* of_rows) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      using L = EdgeLanes<A, decltype(hs)::value>;
      auto add = [](auto a, auto b) GATV2_LAMBDA_INLINE { return a + b; };
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        const auto alpha = L::load(p + edge) * L::load(inverse_sum + row);
        L::store(p + edge, alpha);
        L::store(of_edges + edge, alpha * L::load(da + edge));
      });
      scan(hs, of_edges, of_rows, add);
      each_edge(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        const auto D = L::load(of_rows + row);
        L::store(da + edge, L::load(p + edge) * (L::load(da + edge) - D));
      });
      scan(hs, da, of_rows, add);
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
  // of_rows[row] = op over the row's edges. Rows without edges get any number.
  template <int HS, class Op>
  GATV2_INLINE void scan(Int<HS> hs, const A* from, A* of_rows, const Op& op) const {
    using L = EdgeLanes<A, HS>;
    for (int block = 0; block < stride_; block += HS) {
      if constexpr (HS < W)
        scan_vectors(hs, from, op);
      else
        scan_edges(hs, from + block, op);
      for (int r = 0; r < tile_.num_rows; ++r)
        L::store(of_rows + (int64_t)r * stride_ + block,
                 L::load(running_ + max_of(0, tile_.begin[r + 1] - 1) * HS));
    }
  }
  // running[edge] = op over the edges of its row up to it.
  template <class Op>
  GATV2_INLINE void scan_edges(Int<W>, const A* from, const Op& op) const {
    V so_far = load(from);
    for (int e = 0; e < tile_.n; ++e) {
      const V x = load(from + (int64_t)e * stride_);
      const bool follows = e > 0 && tile_.row_of[e] == tile_.row_of[e - 1];
      so_far = follows ? op(so_far, x) : x;
      store(running_ + e * W, so_far);
    }
  }
  template <int HS, class Op>
  GATV2_INLINE void scan_vectors(Int<HS>, const A* from, const Op& op) const {
    constexpr int edges = W / HS;
    V before{};
    I row_before = I{} - 1;
    for (int e = 0; e < tile_.n; e += edges) {
      V x = load(from + (int64_t)e * HS);
      I rows;
      memcpy(&rows, tile_.row_of + e, sizeof rows);
      rows = repeat_each<HS>(rows, LaneNumbers<A>());
      scan_lanes<HS>(x, rows, op);
      x = rows == row_before ? op(before, x) : x;
      store(running_ + (int64_t)e * HS, x);
      before = repeat_last<HS>(x, LaneNumbers<A>());
      row_before = repeat_last<HS>(rows, LaneNumbers<A>());
    }
  }
  template <int shift, class Op>
  static GATV2_INLINE void scan_lanes(V& x, I rows, const Op& op) {
    const V earlier = shift_lanes<shift>(x, x, LaneNumbers<A>());
    x = shift_lanes<shift>(I{} - 1, rows, LaneNumbers<A>()) == rows ? op(earlier, x) : x;
    if constexpr (2 * shift < W) scan_lanes<2 * shift>(x, rows, op);
  }

  const int stride_;
  const Tile<T>& tile_;
  A* const running_;
};

GATV2_END
