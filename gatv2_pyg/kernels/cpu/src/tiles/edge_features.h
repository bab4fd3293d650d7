// Edge features: W_edge edge_attr[e] for a window of edges at a time, and the gradients through it.
#pragma once

#include "layout/plan.h"
#include "layout/rows.h"
#include "tiles/product.h"

GATV2_BEGIN

constexpr int kWindow = 64;
static_assert(kWindow >= kBatch, "a window holds the edges of a tile");

// W_edge in the layouts the products want: [D][padded row], and [padded row][D rounded up] where
// att is a factor of each row.
template <class T>
struct EdgeWeight {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;
  int64_t dim = 0, padded_dim = 0, ids = 0;
  const T* attr = nullptr;
  A* by_feature = nullptr;
  A* att_by_channel = nullptr;

  static size_t elements(const Plan<A>& plan, int64_t dim) {
    return (size_t)plan.padded_row * (dim + (dim + W - 1) / W * W) + 64;
  }
  void fill(const Plan<A>& plan, const Arguments& args, A* memory) {
    dim = args.edge_dim;
    padded_dim = (dim + W - 1) / W * W;
    attr = static_cast<const T*>(args.edge_attr);
    by_feature = memory;
    att_by_channel = memory + plan.padded_row * dim;
    memset(memory, 0, sizeof(A) * plan.padded_row * (dim + padded_dim));
    const A* w = static_cast<const A*>(args.edge_weight);
    const A* att = static_cast<const A*>(args.att);
    for (int h = 0; h < plan.heads; ++h)
      for (int c = 0; c < plan.channels; ++c) {
        const int64_t to = (int64_t)h * plan.padded_channels + c;
        const int64_t from = (int64_t)h * plan.channels + c;
        const A* row = w + from * dim;
        for (int64_t k = 0; k < dim; ++k) {
          by_feature[k * plan.padded_row + to] = row[k];
          att_by_channel[to * padded_dim + k] = att[from] * row[k];
        }
      }
  }
};

// Projected features of up to kWindow consecutive positions; belongs to one thread.
template <class T>
class EdgeWindow {
  using A = Acc<T>;

 public:
  static size_t elements(const Plan<A>& plan, int64_t dim) {
    return (size_t)(kWindow + kMaxLanes) * plan.padded_row + kWindow * dim + 64;
  }
  void attach(const Plan<A>& plan, const EdgeWeight<T>& weight, A* memory) {
    plan_ = &plan;
    weight_ = &weight;
    projected_ = memory;
    attr_ = memory + (size_t)(kWindow + kMaxLanes) * plan.padded_row;
    begin_ = end_ = 0;
  }
  // Rows of the projection of positions [begin, begin + n), n <= kBatch.
  const A* at(const Rows& rows, int64_t begin, int n) {
    if (begin < begin_ || begin + n > end_) slide(rows, begin);
    return projected_ + (begin - begin_) * plan_->padded_row;
  }
  const A* attr(int64_t position) const { return attr_ + (position - begin_) * weight_->dim; }

 private:
  void slide(const Rows& rows, int64_t begin) {
    begin_ = begin;
    end_ = min_of(begin + kWindow, rows.num_edges);
    const int n = (int)(end_ - begin_);
    const int64_t dim = weight_->dim;
    A* to = attr_;
    const T* const attr = weight_->attr;
    rows.each_id(begin_, end_, [&](int64_t, int64_t id, int64_t later) GATV2_LAMBDA_INLINE {
      prefetch(attr + later * dim);
      for (int64_t d = 0; d < dim; ++d) *to++ = to_float(attr[id * dim + d]);
    });
    A* const out = projected_;
    const int64_t row = plan_->padded_row;
    multiply(attr_, dim, 1, n, weight_->by_feature, row, dim, row,
             [=](int k, int64_t c, typename Simd<A>::V v)
                 GATV2_LAMBDA_INLINE { store(out + k * row + c, v); });
  }
  const Plan<A>* plan_ = nullptr;
  const EdgeWeight<T>* weight_ = nullptr;
  A* projected_ = nullptr;
  A* attr_ = nullptr;
  int64_t begin_ = 0, end_ = 0;
};

// dz without att of up to kWindow edges, staged so that its two products run over many at once.
template <class T>
class EdgeGradients {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  static size_t elements(const Plan<A>& plan, int64_t dim) {
    const int64_t padded = (dim + W - 1) / W * W;
    return (size_t)kWindow * (plan.padded_row + dim + padded) + plan.padded_row + 128;
  }
  void attach(const Plan<A>& plan, const EdgeWeight<T>& weight, A* memory) {
    plan_ = &plan;
    weight_ = &weight;
    slopes_ = memory;
    attr_ = slopes_ + (size_t)kWindow * plan.padded_row;
    result_ = attr_ + kWindow * weight.dim;
  }
  // `d_attr` is of A where it is `wide`, else of T.
  void begin(void* d_attr, bool wide, double* d_weight) {
    d_attr_ = d_attr;
    wide_ = wide;
    d_weight_ = d_weight;
    n_ = 0;
  }
  // Where ds_e LeakyReLU'(z_e) of the next n edges goes, n <= kBatch.
  A* room(int n) {
    if (n_ + n > kWindow) flush();
    return slopes_ + (int64_t)n_ * plan_->padded_row;
  }
  // Takes what was put there, and the edges' ids and features.
  void add(const int64_t* ids, const A* attr, int n) {
    memcpy(ids_ + n_, ids, sizeof *ids * n);
    if (d_weight_) memcpy(attr_ + n_ * weight_->dim, attr, sizeof(A) * weight_->dim * n);
    n_ += n;
  }
  // (6) d edge_attr[e] = dz_e W_edge;  d W_edge += dz_e^T edge_attr[e], kept as [D][padded row] in
  // double, without att.
  void flush() {
    const int64_t row = plan_->padded_row, dim = weight_->dim, padded = weight_->padded_dim;
    if (d_attr_ && n_) {
      A* const out = result_;
      multiply(slopes_, row, 1, n_, weight_->att_by_channel, padded, row, padded,
               [=](int k, int64_t c, V v) GATV2_LAMBDA_INLINE { store(out + k * padded + c, v); });
      for (int k = 0; k < n_; ++k)
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t to = ids_[k] * dim + d;
          if (wide_)
            static_cast<A*>(d_attr_)[to] = out[k * padded + d];
          else
            from_float(out[k * padded + d], static_cast<T*>(d_attr_)[to]);
        }
    }
    if (d_weight_ && n_) {
      double* const sum = d_weight_;
      for (int64_t d = 0; d < dim; d += kWindow)
        multiply(attr_ + d, 1, dim, (int)min_of((int64_t)kWindow, dim - d), slopes_, row, n_, row,
                 [=](int k, int64_t c, V v)
                     GATV2_LAMBDA_INLINE { add_doubles(sum + (d + k) * row + c, v); });
    }
    n_ = 0;
  }

 private:
  const Plan<A>* plan_ = nullptr;
  const EdgeWeight<T>* weight_ = nullptr;
  A* slopes_ = nullptr;
  A* attr_ = nullptr;
  A* result_ = nullptr;
  void* d_attr_ = nullptr;
  bool wide_ = false;
  double* d_weight_ = nullptr;
  int64_t ids_[kWindow];
  int n_ = 0;
};

GATV2_END
