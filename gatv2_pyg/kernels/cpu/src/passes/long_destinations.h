// Long rows by destination: what their pieces leave, and how it is added up.
#pragma once

#include "passes/destination_edges.h"

GATV2_BEGIN

template <class T>
class LongDestinations {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;

  // What a piece leaves, and what the merge of its row adds. Spreads, but for the padded rows.
  struct PieceSums {
    A* weights;     // sum of exp(s - lse); with edge gradients the row's norm, known up front
    A* delta;       // the part of the row's D that returned coefficients have
    A* slope_sum;   // a padded row: sum of ds LeakyReLU'(z)
    A* leaky_sum;   // a padded row: sum of ds LeakyReLU(z); of a first piece the row's, scaled
    A* residual;    // sum of ds
    A* scale;       // what the row's sums and records lack
    A* correction;  // the row's residual, scaled
  };

 public:
  LongDestinations(const Context<T>& c, const Rows& rows, const DestinationEdges<T>& edges)
      : c_(c), rows_(rows), edges_(edges), sums_(sizeof(A) * rows.end_piece() * size()) {}
  bool ok() const { return (bool)sums_; }

  // The part of D that needs all edges, and with edge gradients the norm, known up front.
  void prepare(const Rows& rows, const Workers<T>& workers, int64_t threads) const {
    const int n = c_.scores.spread_size();
    const int64_t first_piece = rows.first_piece();
    const bool norms = edges_.edge_gradients();
    parallel_for(rows.end_piece() - first_piece, threads, [&](int64_t k, int64_t thread) {
      Worker<T>& w = workers[thread];
      const Piece piece = rows.piece(first_piece + k);
      const PieceSums to = sums_of(first_piece + k);
      memset(to.weights, 0, sizeof(A) * n);
      memset(to.delta, 0, sizeof(A) * n);
      if (edges_.alpha_gradient()) edges_.alpha_delta(w, piece.begin, piece.end, to.delta);
      if (norms) {
        edges_.open_scores(w, piece.row);
        edges_.sum_weights(w, piece.begin, piece.end);
        memcpy(to.weights, w.weights, sizeof(A) * n);
      }
    });
    if (!edges_.alpha_gradient() && !norms) return;
    Worker<T>& w = workers[0];
    for (int64_t k = rows.first_cut; k < rows.end_cut; ++k) {
      const Cut cut = rows.cut(k);
      total(cut, &PieceSums::weights, w.weights, n);
      total(cut, &PieceSums::delta, w.delta, n);
      if (norms) edges_.invert(w.weights, w.weights);
      for (int64_t p = cut.first_piece; p < cut.end_piece; ++p) {
        memcpy(sums_of(p).weights, w.weights, sizeof(A) * n);
        memcpy(sums_of(p).delta, w.delta, sizeof(A) * n);
      }
    }
  }

  // A piece's sums. For records the edges' alpha and ds are left where those will be.
  void add(Worker<T>& w, int64_t number, const Piece& piece, const Records<A>* records) const {
    const int n = c_.scores.spread_size(), row_size = c_.plan.padded_row;
    const PieceSums to = sums_of(number);
    edges_.open_row(w, piece.row);
    for (int k = 0; k < n; ++k) w.delta[k] += to.delta[k];
    const A* norm = edges_.edge_gradients() ? to.weights : nullptr;
    edges_.sum(w, piece.begin, piece.end, norm, records);
    if (records) {
      const int64_t count = (piece.end - piece.begin) * c_.plan.head_stride;
      memcpy(records->at(piece.begin), w.s, sizeof(A) * count);
      memcpy(records->at(piece.begin) + count, w.d, sizeof(A) * count);
    }
    if (!norm) memcpy(to.weights, w.weights, sizeof(A) * n);
    memcpy(to.slope_sum, w.sum_a, sizeof(A) * row_size);
    memcpy(to.leaky_sum, w.sum_b, sizeof(A) * row_size);
    memcpy(to.residual, w.residual, sizeof(A) * n);
  }

  // Adds the pieces of a long row in order, in double, and writes its d x_dst.
  void merge(Worker<T>& w, const Cut& cut) const {
    const int n = c_.scores.spread_size(), size = c_.plan.padded_row;
    total(cut, &PieceSums::weights, w.weights, n);
    total(cut, &PieceSums::residual, w.residual, n);
    total(cut, &PieceSums::slope_sum, w.sum_a, size);
    total(cut, &PieceSums::leaky_sum, w.sum_b, size);
    if (edges_.edge_gradients())
      for (int k = 0; k < n; ++k) w.scale[k] = 1;
    else
      edges_.invert(w.weights, w.scale);
    edges_.fold_residual(w);
    edges_.center(w, cut.row);
    edges_.put_row(w, cut.row);
    A* const to = sums_of(cut.first_piece).leaky_sum;
    c_.plan.each_vector([&](const typename Plan<A>::Place& at) GATV2_LAMBDA_INLINE {
      store(to + at.padded, load(w.sum_b + at.padded) * c_.plan.by_head(w.scale, at));
    });
    for (int64_t p = cut.first_piece; p < cut.end_piece; ++p) {
      memcpy(sums_of(p).scale, w.scale, sizeof(A) * n);
      memcpy(sums_of(p).correction, w.correction, sizeof(A) * n);
    }
  }

  // What `add` left becomes records, after the merge of the row.
  void finish_records(Worker<T>& w, int64_t number, const Records<A>& records) const {
    const Piece piece = rows_.piece(number);
    const int64_t edges = piece.end - piece.begin, count = edges * c_.plan.head_stride;
    memcpy(w.s, records.at(piece.begin), sizeof(A) * count);
    memcpy(w.d, records.at(piece.begin) + count, sizeof(A) * count);
    const PieceSums from = sums_of(number);
    records.put(records.at(piece.begin), w.s, w.d, edges, c_.dropout.scale, from.scale,
                from.correction);
    edges_.put_bias_gradient(w, piece.begin, edges, from.scale, from.correction);
  }

  // Calls f(row) for each.
  template <class F>
  void each_row(const F& f) const {
    for (int64_t k = 0; k < rows_.end_cut; ++k) f(rows_.cut(k).row);
  }
  // Adds the long rows' part of d att, after all merges.
  void add_att(double* totals) const {
    for (int64_t k = 0; k < rows_.end_cut; ++k) {
      const A* const from = sums_of(rows_.cut(k).first_piece).leaky_sum;
      for (int i = 0; i < c_.plan.padded_row; ++i) totals[i] += from[i];
    }
  }

 private:
  size_t size() const { return 5 * c_.scores.spread_size() + 2 * c_.plan.padded_row; }
  PieceSums sums_of(int64_t piece) const {
    const int spread = c_.scores.spread_size(), row = c_.plan.padded_row;
    A* const slope_sum = sums_.template get<A>() + piece * size();
    A* const spreads = slope_sum + 2 * row;
    return {spreads,
            spreads + spread,
            slope_sum,
            slope_sum + row,
            spreads + 2 * spread,
            spreads + 3 * spread,
            spreads + 4 * spread};
  }
  // to[k] = the sum over the pieces of a row, in double; n is a multiple of W.
  void total(const Cut& cut, A* PieceSums::*member, A* to, int n) const {
    for (int k = 0; k < n; k += W) {
      double sum[W] = {};
      for (int64_t p = cut.first_piece; p < cut.end_piece; ++p)
        for (int i = 0; i < W; ++i) sum[i] += (double)(sums_of(p).*member)[k + i];
      for (int i = 0; i < W; ++i) to[k + i] = (A)sum[i];
    }
  }

  const Context<T>& c_;
  const Rows& rows_;
  const DestinationEdges<T>& edges_;
  const Buffer sums_;  // of each piece
};

GATV2_END
