// Backward by destination: d x_dst, d att, the edge gradients, and the records the pass by source
// needs.
#pragma once

#include "passes/long_destinations.h"

GATV2_BEGIN

template <class T>
class ByDestination {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;

 public:
  // `wide`: d edge_attr is kept in A.
  ByDestination(const Context<T>& c, const Rows& rows, bool wide)
      : c_(c),
        rows_(rows),
        d_att_(static_cast<A*>(c.args.d_att)),
        d_edge_attr_(c.args.d_edge_attr),
        wide_(wide),
        d_edge_weight_(static_cast<A*>(c.args.d_edge_weight)),
        sum_grad_(static_cast<A*>(c.args.sum_grad_out)),
        sum_d_x_dst_(c.args.d_x_dst ? static_cast<A*>(c.args.sum_d_x_dst) : nullptr),
        edges_(c, rows),
        long_rows_(c, rows, edges_),
        totals_(sizeof(double) * item_size()) {
    if (!ok()) return;
    memset(totals_.template get<double>(), 0, sizeof(double) * item_size());
    if (d_edge_attr_ && c_.args.num_ids != rows.num_edges)
      memset(d_edge_attr_, 0, (wide ? sizeof(A) : sizeof(T)) * c_.args.num_ids * c_.args.edge_dim);
    c_.bias.prefer_huge_pages_below_gradient();
    if (c_.args.num_ids != rows.num_edges) c_.bias.clear_gradient();
  }
  bool ok() const { return edges_.ok() && long_rows_.ok() && totals_; }
  const T* grad_base() const { return edges_.grad_base(); }
  int64_t grad_stride() const { return edges_.grad_stride(); }

  // Some of the rows. `records` may be null; else the workers' s and d have room for the edges of a
  // row.
  int64_t run(const Rows& rows, const Workers<T>& workers, int64_t threads,
              const Records<A>* records) {
    // Sums per item take at most 64 MiB.
    const Items items(rows,
                      min_of((int64_t)256, max_of((int64_t)8, ((int64_t)8 << 20) / item_size())));
    const Buffer sums(sizeof(double) * items.count() * item_size());
    if (!sums) return kOutOfMemory;
    long_rows_.prepare(rows, workers, threads);
    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      w.tile.next_begin = -1;
      double* const sum = sums.get<double>() + item * item_size();
      memset(sum, 0, sizeof(double) * item_size());
      if (edges_.edge_gradients())
        w.staged.begin(d_edge_attr_, wide_, d_edge_weight_ ? sum + c_.plan.padded_row : nullptr);
      for_each_part(
          rows, items, item, edges_.short_row(),
          [&](int64_t first, int64_t last) {
            short_rows(w, first, last, records, sum);
            if (sum_grad_) edges_.add_grad(first, last, sum + grad_at());
          },
          [&](int64_t row, int64_t begin, int64_t end) {
            whole_row(w, row, begin, end, records, sum);
            if (sum_grad_) edges_.add_grad(row, row + 1, sum + grad_at());
          },
          [&](int64_t number, const Piece& piece) { long_rows_.add(w, number, piece, records); });
      if (edges_.edge_gradients()) w.staged.flush();
    });
    double* const totals = totals_.template get<double>();
    for (int64_t item = 0; item < items.count(); ++item)
      for (int64_t k = 0; k < item_size(); ++k)
        totals[k] += sums.get<double>()[item * item_size() + k];
    parallel_for(rows.end_cut - rows.first_cut, threads, [&](int64_t k, int64_t thread) {
      long_rows_.merge(workers[thread], rows.cut(rows.first_cut + k));
    });
    if (records)
      parallel_for(rows.end_piece() - rows.first_piece(), threads, [&](int64_t k, int64_t thread) {
        long_rows_.finish_records(workers[thread], rows.first_piece() + k, *records);
      });
    return kOk;
  }

  // d att and d W_edge from the sums over items, then the long rows', in order.
  void finish() {
    c_.bias.finish();
    double* const totals = totals_.template get<double>();
    if (d_att_) {
      long_rows_.add_att(totals);
      c_.plan.pack(d_att_, totals);
    }
    if (sum_grad_) {
      long_rows_.each_row([&](int64_t row) { edges_.add_grad(row, row + 1, totals + grad_at()); });
      c_.plan.pack(sum_grad_, totals + grad_at());
    }
    if (sum_d_x_dst_) {
      long_rows_.each_row([&](int64_t row) { edges_.add_written(row, totals + dst_at()); });
      c_.plan.pack(sum_d_x_dst_, totals + dst_at());
    }
    if (d_edge_weight_) {
      const int64_t dim = c_.args.edge_dim, row_size = c_.plan.padded_row;
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = 0; k < c_.plan.channels; ++k) {
          const int64_t at = h * c_.plan.padded_channels + k;
          for (int64_t d = 0; d < dim; ++d)
            d_edge_weight_[((int64_t)h * c_.plan.channels + k) * dim + d] =
                (A)(totals[row_size + d * row_size + at] * c_.att[at]);
        }
    }
  }

 private:
  // An item's sums: d att, d W_edge, and (11) of grad_out and of d x_dst.
  int64_t item_size() const { return dst_at() + c_.plan.padded_row * (sum_d_x_dst_ != nullptr); }
  int64_t grad_at() const {
    return c_.plan.padded_row * (1 + (d_edge_weight_ ? c_.args.edge_dim : 0));
  }
  int64_t dst_at() const { return grad_at() + c_.plan.padded_row * (sum_grad_ != nullptr); }

  void short_rows(Worker<T>& w, int64_t first, int64_t last, const Records<A>* records,
                  double* sum) const {
    const int64_t begin = rows_.ptr[first];
    w.tile.masks = records ? records->masks_at(begin) : w.masks;
    w.tile.mask_row = Records<A>::mask_row(c_.plan);
    edges_.short_rows(w, first, last);
    edges_.put_short_rows(w, first, sum, sum_d_x_dst_ ? sum + dst_at() : nullptr);
    edges_.put_bias_gradient(begin, w.tile.n, w.d);
    if (!records) return;
    const int n = w.tile.n;
    if (c_.dropout.active)
      for (int k = 0; k < c_.scores.vectors(n); ++k)
        store(w.alpha + k * W, load(w.alpha + k * W) * load(w.keep + k * W));
    records->put(records->at(begin), w.alpha, w.d, n);
  }

  void whole_row(Worker<T>& w, int64_t row, int64_t begin, int64_t end, const Records<A>* records,
                 double* sum) const {
    const int n = c_.scores.spread_size();
    if (begin == end) return edges_.put_empty(row);
    edges_.open_row(w, row);
    if (edges_.alpha_gradient()) {
      edges_.alpha_delta(w, begin, end, w.scale);
      for (int k = 0; k < n; ++k) w.delta[k] += w.scale[k];
    }
    if (edges_.edge_gradients()) {
      edges_.sum_weights(w, begin, end);
      edges_.invert(w.weights, w.norm);
      edges_.sum(w, begin, end, w.norm, records);
      for (int k = 0; k < n; ++k) w.scale[k] = 1;
    } else {
      edges_.sum(w, begin, end, nullptr, records);
      edges_.invert(w.weights, w.scale);
    }
    edges_.fold_residual(w);
    edges_.center(w, row);
    if (records)
      records->put(records->at(begin), w.s, w.d, end - begin, c_.dropout.scale, w.scale,
                   w.correction);
    edges_.put_bias_gradient(w, begin, end - begin, w.scale, w.correction);
    edges_.put_row(w, row);
    if (sum_d_x_dst_) add_scaled(w, w.sum_a, sum + dst_at());
    if (d_att_) add_scaled(w, w.sum_b, sum);
  }
  // Adds a padded row that lacks w.scale.
  void add_scaled(const Worker<T>& w, const A* row, double* sum) const {
    c_.plan.each_vector([&](const typename Plan<A>::Place& at) GATV2_LAMBDA_INLINE {
      add_doubles(sum + at.padded, load(row + at.padded) * c_.plan.by_head(w.scale, at));
    });
  }

  const Context<T>& c_;
  const Rows& rows_;
  A* const d_att_;
  void* const d_edge_attr_;
  const bool wide_;
  A* const d_edge_weight_;
  A* const sum_grad_;
  A* const sum_d_x_dst_;
  const DestinationEdges<T> edges_;
  const LongDestinations<T> long_rows_;
  const Buffer totals_;  // of all items
};

GATV2_END
