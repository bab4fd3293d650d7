// The softmax of several short rows in a tile, and its derivative. Scores of an edge are
// [head_stride] lanes, as are the numbers kept of a row. A row's edges are taken by whole vectors,
// lanes past its last being left out: what a row gets does not depend on the rows beside it.
#pragma once

#include "layout/score_layout.h"
#include "layout/tile.h"
#include "simd/partial.h"

GATV2_BEGIN

template <class T>
class ShortRows {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  ShortRows(const ScoreLayout<A>& layout, const Tile<T>& tile) : layout_(layout), tile_(tile) {}

  // Whether no score is far from 0: exp then takes all as they are. Lanes past the tile's edges
  // become 0.
  bool near_zero(A* s) const {
    store(s + tile_.n * layout_.stride, V{});
    const int count = layout_.vectors(tile_.n);
    V most{};
    for (int b = 0; b < layout_.blocks; ++b)
      for (int k = b; k < count; k += layout_.blocks) {
        const V score = load(s + k * W);
        V size = max_of(score, -score);
        if (b == layout_.blocks - 1) size = load(layout_.no_head) < V{} ? V{} : size;
        most = size > most ? size : most;
      }
    return !any_lane(above_zero(most - kNear));
  }
  // What exp takes the scores of a row less than: their maximum, or 0 where that is near it.
  void find_shifts(const A* s, A* of_rows) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE { find_max(hs, s, of_rows); });
    const V near = broadcast<V>(kNear);
    for (int k = 0; k < tile_.num_rows * layout_.stride; k += W) {
      const V most = load(of_rows + k);
      store(of_rows + k, max_of(most, -most) <= near ? V{} : most);
    }
  }
  // to = s - of_rows[row]
  void subtract(const A* s, const A* of_rows, A* to) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      each_part(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        store(to + edge, load(s + edge) - of_row(hs, of_rows + row));
      });
    });
  }
  // to = p * of_rows[row]
  void multiply(const A* p, const A* of_rows, A* to) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      each_part(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        store(to + edge, load(p + edge) * of_row(hs, of_rows + row));
      });
    });
  }
  // sum[row] = the sum of p over the row.
  void add_up(const A* p, A* sum) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      find_sums(
          hs, [&](int64_t edge, int64_t) GATV2_LAMBDA_INLINE { return Sums<1>{{load(p + edge)}}; },
          {sum});
    });
  }
  // sum[row] = the sum of p over the row, product[row] that of p da.
  void add_up(const A* p, const A* da, A* sum, A* product) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      find_sums(hs,
                [&](int64_t edge, int64_t) GATV2_LAMBDA_INLINE {
                  const V weight = load(p + edge);
                  return Sums<2>{{weight, weight * load(da + edge)}};
                },
                {sum, product});
    });
  }
  // (5), (6) from p and da = keep d, of each row 1 / sum of p and D = sum of alpha da: alpha = p /
  // sum of p, da -> ds = alpha (da - D). By (5) the ds of a row add up to 0; what they add up to is
  // the rounding of D, and taken out. `of_edges` and `of_rows` are scratch.
  void differentiate(const A* p, A* da, const A* inverse, const A* D, A* alpha, A* of_edges,
                     A* of_rows) const {
    by_stride([&](auto hs) GATV2_LAMBDA_INLINE {
      find_sums(hs,
                [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
                  const V weight = load(p + edge) * of_row(hs, inverse + row);
                  const V ds = weight * (load(da + edge) - of_row(hs, D + row));
                  store(alpha + edge, weight);
                  store(of_edges + edge, ds);
                  return Sums<1>{{ds}};
                },
                {of_rows});
      each_part(hs, [&](int64_t edge, int64_t row) GATV2_LAMBDA_INLINE {
        store(da + edge, load(of_edges + edge) - load(alpha + edge) * of_row(hs, of_rows + row));
      });
    });
  }

 private:
  // exp(kNear) leaves room for any sum, exp(-kNear) for scores 70 below.
  static constexpr A kNear = 16;

  template <int M>
  struct Sums {
    V v[M];
  };
  template <class F>
  GATV2_INLINE void by_stride(const F& f) const {
    switch (layout_.stride) {
      case 1: return f(Int<1>());
      case 2: return f(Int<2>());
      case 4: return f(Int<(W >= 4 ? 4 : W)>());
      case 8: return f(Int<(W >= 8 ? 8 : W)>());
      default: return f(Int<W>());
    }
  }
  // A row's numbers in the lanes of its edges.
  template <int HS>
  static GATV2_INLINE V of_row(Int<HS>, const A* of_rows) {
    return load_repeated<HS>(of_rows);
  }
  // f(where a vector of a row's edges lies, where the row's lanes do), row by row. Results go where
  // nothing is read: the next row's take the place of those in lanes past a row.
  template <int HS, class F>
  GATV2_INLINE void each_part(Int<HS>, const F& f) const {
    const int step = HS < W ? W : layout_.stride;
    for (int block = 0; block < layout_.stride; block += HS)
      for (int r = 0; r < tile_.num_rows; ++r) {
        const int end = tile_.begin[r + 1] * layout_.stride;
        for (int edge = tile_.begin[r] * layout_.stride; edge < end; edge += step)
          f(edge + block, (int64_t)r * layout_.stride + block);
      }
  }
  // to[m][row] = the sum over the row of terms(edge, row)[m], vectors as of each_part.
  template <int M, int HS, class F>
  GATV2_INLINE void find_sums(Int<HS>, const F& terms, A* const (&to)[M]) const {
    if constexpr (HS < W) {
      // As many rows as fill a vector of sums.
      constexpr int rows = W / HS;
      for (int first = 0; first < tile_.num_rows; first += rows) {
        V sums[M][rows];
        for (int k = 0; k < rows; ++k) {
          const int row = first + k, end = tile_.begin[row + 1] * HS;
          int edge = tile_.begin[row] * HS;
          Sums<M> sum{};
          for (; edge + W < end; edge += W) {
            const Sums<M> part = terms(edge, (int64_t)row * HS);
            for (int m = 0; m < M; ++m) sum.v[m] += part.v[m];
          }
          const Sums<M> part = terms(edge, (int64_t)row * HS);
          for (int m = 0; m < M; ++m) sums[m][k] = sum.v[m] + first_lanes<A>(part.v[m], end - edge);
        }
        for (int m = 0; m < M; ++m)
          store(to[m] + first * HS, add_lanes<A, HS, 0, HS>([&](auto k) GATV2_LAMBDA_INLINE {
                  return sums[m][decltype(k)::value];
                }));
      }
    } else {
      for (int block = 0; block < layout_.stride; block += W)
        for (int r = 0; r < tile_.num_rows; ++r) {
          const int64_t row = (int64_t)r * layout_.stride + block;
          Sums<M> sum{};
          for (int e = tile_.begin[r]; e < tile_.begin[r + 1]; ++e) {
            const Sums<M> part = terms((int64_t)e * layout_.stride + block, row);
            for (int m = 0; m < M; ++m) sum.v[m] += part.v[m];
          }
          for (int m = 0; m < M; ++m) store(to[m] + row, sum.v[m]);
        }
    }
  }
  // Likewise the largest of each head, NaN left out; -inf where there is nothing else.
  template <int HS>
  GATV2_INLINE void find_max(Int<HS>, const A* from, A* of_rows) const {
    const V lowest = broadcast<V>(-(A)__builtin_inf());
    const int step = HS < W ? W : layout_.stride;
    for (int block = 0; block < layout_.stride; block += HS)
      for (int r = 0; r < tile_.num_rows; ++r) {
        const int end = tile_.begin[r + 1] * layout_.stride;
        V most = lowest;
        for (int edge = tile_.begin[r] * layout_.stride; edge < end; edge += step) {
          const V score = load(from + edge + block);
          most = max_of(HS < W ? first_lanes<A>(score, end - edge, lowest) : score, most);
        }
        store(of_rows + (int64_t)r * layout_.stride + block, layout_.fold_max(most));
      }
  }

  const ScoreLayout<A>& layout_;
  const Tile<T>& tile_;
};

GATV2_END
