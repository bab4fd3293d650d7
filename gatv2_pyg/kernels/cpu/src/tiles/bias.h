// Biases of scores, and what a row is whose scores are all -inf by them: one without edges.
#pragma once

#include "layout/memory.h"
#include "layout/parallel.h"
#include "layout/rows.h"
#include "layout/score_layout.h"
#include "tiles/edge_lanes.h"

GATV2_BEGIN

// Biases of heads alike, and their gradients, are brought into the order of positions, where a tile
// finds those of its edges together: read by id they cost a page walk an edge in every pass.
template <class A>
class ScoreBias {
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  // `ordered`: a.ordered_bias holds what it is to hold, if it is not null.
  ScoreBias(const Arguments& a, bool ordered)
      : biases_(a.bias_rows ? static_cast<const A*>(a.attn_bias) : nullptr),
        gradients_(a.bias_rows ? static_cast<A*>(a.d_attn_bias) : nullptr),
        rows_(a.bias_rows),
        row_(a.bias_heads),
        threads_(a.threads),
        edges_(a.by_dst, a.wide_index, a.num_dst),
        own_(Scratch::kBiases, a.ordered_bias ? 0 : bytes_by_position(biases_)),
        ordered_(a.ordered_bias ? static_cast<A*>(a.ordered_bias) : own_.template get<A>()),
        ordered_gradients_(Scratch::kBiasGradients, bytes_by_position(gradients_)) {
    if (!ok() || !biases_ || row_ != 1 || (ordered && a.ordered_bias)) return;
    each_id([&](int64_t p, int64_t id, int64_t) GATV2_LAMBDA_INLINE {
      const A bias = biases_[min_of(id, rows_ - 1)];
      ordered_[p] = id < rows_ ? bias : (A)0;
    });
  }
  bool ok() const { return own_.ok() && ordered_gradients_.ok(); }
  explicit operator bool() const { return biases_ != nullptr; }
  bool gradient() const { return gradients_ != nullptr; }
  // Whether edges are known by their ids here.
  bool by_id() const { return biases_ && row_ != 1; }

  // s[e][h] += b_e for n edges, that stand from position `begin` on.
  GATV2_NOINLINE void add(const ScoreLayout<A>& layout, int heads, const int64_t* ids,
                          int64_t begin, int n, A* s) const {
    if (row_ == 1) {
      const A* const b = ordered_ + begin;
      switch (layout.stride) {
        case 1: return add_runs<1>(1, b, n, s);
        case 2: return add_runs<2>(2, b, n, s);
        case 4: return add_runs<(W >= 4 ? 4 : W)>(4, b, n, s);
        case 8: return add_runs<(W >= 8 ? 8 : W)>(8, b, n, s);
        default: return add_runs<W>(layout.stride, b, n, s);
      }
    }
    if (row_ != layout.stride) return add_by_head(layout.stride, heads, ids, n, s);
    switch (layout.stride) {
      case 1: return add_lanes<1>(1, ids, n, s);
      case 2: return add_lanes<2>(2, ids, n, s);
      case 4: return add_lanes<(W >= 4 ? 4 : W)>(4, ids, n, s);
      case 8: return add_lanes<(W >= 8 ? 8 : W)>(8, ids, n, s);
      default: return add_lanes<W>(layout.stride, ids, n, s);
    }
  }
  // Brings the biases of edges [begin, begin + n) near.
  GATV2_NOINLINE void prefetch_edges(const Rows& rows, int64_t begin, int n) const {
    const int64_t end = min_of(begin + n, rows.num_edges);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = rows.id(p) * row_;
      prefetch(biases_ + at);
      if (gradients_) prefetch(gradients_ + at);
    }
  }
  // (9): d b_e = ds_e, [n][head_stride], of edges [begin, begin + n).
  GATV2_NOINLINE void put(int64_t begin, int64_t n, const A* ds, int stride, int heads) const {
    if (row_ == 1) {
      A* const to = ordered_gradients_.template get<A>() + begin;
      for (int64_t e = 0; e < n; ++e, ds += stride) {
        // Two chains of sums.
        A even = 0, odd = 0;
        int h = 0;
        for (; h + 2 <= heads; h += 2) {
          even += ds[h];
          odd += ds[h + 1];
        }
        to[e] = even + (h < heads ? odd + ds[h] : odd);
      }
      return;
    }
    for (int64_t e = 0; e < n; ++e, ds += stride) {
      const int64_t id = edges_.id(begin + e);
      if (id < rows_) memcpy(gradients_ + id * row_, ds, sizeof(A) * heads);
    }
  }
  // What `put` left by position, by id; after all edges.
  void finish() const {
    if (!gradients_ || row_ != 1) return;
    const A* const from = ordered_gradients_.template get<A>();
    each_id([&](int64_t p, int64_t id, int64_t later) GATV2_LAMBDA_INLINE {
      __builtin_prefetch(gradients_ + min_of(later, rows_ - 1), 1);
      if (id < rows_) gradients_[id] = from[p];
    });
  }
  // What an id without an edge leaves.
  void clear_gradient() const {
    if (gradients_) memset(gradients_, 0, bytes());
  }
  void prefer_huge_pages_below_gradient() const { prefer_huge_pages(gradients_, bytes()); }

  // What maxima start from: exp(-inf - kLowest) is 0.
  static constexpr A kLowest = sizeof(A) == 4 ? (A)-__FLT_MAX__ : (A)-__DBL_MAX__;
  // n maxima or logarithms of sums, which `to` takes the place of where they are -inf.
  void make_finite(A* of_rows, int64_t n, A to) const {
    for (int64_t k = 0; biases_ && k < n; k += W) {
      const V v = load(of_rows + k);
      store(of_rows + k, v == broadcast<V>(-(A)__builtin_inf()) ? broadcast<V>(to) : v);
    }
  }
  // 1 / sum; 0 for a sum of nothing.
  GATV2_INLINE V inverse(V sum) const {
    const V inverse = (A)1 / sum;
    return biases_ ? (sum == V{} ? V{} : inverse) : inverse;
  }
  // max + log(sum); -inf for a sum of nothing. The last difference is 0, and NaN where a score was.
  GATV2_INLINE V log_sum(V max, V sum) const {
    const V lse = max + log<A>(sum) + (sum - sum);
    return biases_ ? (sum == V{} ? broadcast<V>(-(A)__builtin_inf()) : lse) : lse;
  }

 private:
  size_t bytes() const { return sizeof(A) * rows_ * row_; }
  // A vector more: whole vectors are read.
  size_t bytes_by_position(const void* there) const {
    return there && row_ == 1 ? sizeof(A) * (edges_.num_edges + W) : 0;
  }
  template <class F>
  void each_id(const F& f) const {
    const int64_t count = edges_.num_edges, block = 8192;
    parallel_for((count + block - 1) / block, threads_, [&](int64_t item, int64_t) {
      edges_.each_id(item * block, min_of(count, (item + 1) * block), f);
    });
  }
  // Lanes of HS: those of an edge, or W where it has more. Lanes past its heads hold anything.
  template <int HS>
  GATV2_INLINE void add_runs(int stride, const A* b, int n, A* s) const {
    if constexpr (HS < W) {
      for (int k = 0; k < n * HS; k += W)
        store(s + k, load(s + k) + (HS == 1 ? load(b + k) : spread_runs<HS>(b + k / HS)));
    } else {
      for (int e = 0; e < n; ++e, s += stride)
        for (int k = 0; k < stride; k += W) store(s + k, load(s + k) + broadcast<V>(b[e]));
    }
  }
  template <int HS>
  GATV2_INLINE void add_lanes(int stride, const int64_t* ids, int n, A* s) const {
    using L = EdgeLanes<A, HS>;
    for (int e = 0; e < n; ++e, s += stride) {
      if (ids[e] >= rows_) continue;
      const A* const b = biases_ + ids[e] * row_;
      for (int k = 0; k < stride; k += HS) L::store(s + k, L::load(s + k) + L::load(b + k));
    }
  }
  void add_by_head(int stride, int heads, const int64_t* ids, int n, A* s) const {
    for (int e = 0; e < n; ++e, s += stride) {
      if (ids[e] >= rows_) continue;
      const A* const b = biases_ + ids[e] * row_;
      for (int h = 0; h < heads; ++h) s[h] += b[h];
    }
  }

  const A* const biases_;
  A* const gradients_;
  const int64_t rows_, row_, threads_;
  const Rows edges_;  // by destination
  const Scratch own_;
  A* const ordered_;
  const Scratch ordered_gradients_;
};

GATV2_END
