// Backward by destination: d x_dst, d att, the edge gradients, and the records the pass by source
// needs.
#pragma once

#include "layout/records.h"

GATV2_BEGIN

template <class T>
class ByDestination {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  ByDestination(const Context<T>& c, const Rows& rows)
      : c_(c),
        all_(rows),
        x_src_(static_cast<const T*>(c.args.x_src)),
        x_dst_(static_cast<const T*>(c.args.x_dst)),
        out_(static_cast<const A*>(c.args.out)),
        lse_(static_cast<const A*>(c.args.lse)),
        grad_out_(static_cast<const T*>(c.args.grad_out)),
        alpha_(static_cast<const A*>(c.args.alpha)),
        grad_alpha_(static_cast<const A*>(c.args.grad_alpha)),
        d_x_dst_(static_cast<T*>(c.args.d_x_dst)),
        d_att_(static_cast<A*>(c.args.d_att)),
        d_edge_attr_(static_cast<T*>(c.args.d_edge_attr)),
        d_edge_weight_(static_cast<A*>(c.args.d_edge_weight)),
        past_caches_(c.past_caches(d_x_dst_, c.args.num_dst)),
        zeros_(grad_out_ ? 0 : sizeof(T) * c.plan.row),
        partial_(sizeof(A) * rows.end_piece() * partial_size()),
        totals_(sizeof(double) * item_size()) {
    if (!ok()) return;
    if (!grad_out_) memset(zeros_.template get<char>(), 0, sizeof(T) * c_.plan.row);
    memset(totals_.template get<double>(), 0, sizeof(double) * item_size());
    prefer_huge_pages(d_x_dst_, sizeof(T) * c_.args.num_dst * c_.plan.row);
    if (d_edge_attr_ && c_.args.num_ids != rows.num_edges)
      memset(d_edge_attr_, 0, sizeof(T) * c_.args.num_ids * c_.args.edge_dim);
  }
  bool ok() const { return zeros_ && partial_ && totals_; }
  // grad_out as a base and a stride: one row of zeros where there is none.
  const T* grad_base() const { return grad_out_ ? grad_out_ : zeros_.template get<T>(); }
  int64_t grad_stride() const { return grad_out_ ? c_.plan.row : 0; }

  // Some of the rows. `records` may be null; else the workers' s and d have room for the edges of a
  // row.
  int64_t run(const Rows& rows, const Workers<T>& workers, int64_t threads,
              const Records<A>* records) {
    // Sums per item take at most 64 MiB.
    const Items items(rows,
                      min_of((int64_t)256, max_of((int64_t)8, ((int64_t)8 << 20) / item_size())));
    const Buffer sums(sizeof(double) * items.count() * item_size());
    if (!sums) return kOutOfMemory;
    prepare_long_rows(rows, workers, threads);
    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      double* const sum = sums.get<double>() + item * item_size();
      memset(sum, 0, sizeof(double) * item_size());
      if (edge_gradients())
        w.staged.begin(d_edge_attr_, d_edge_weight_ ? sum + c_.plan.padded_row : nullptr);
      for_each_part(
          rows, items, item,
          [&](int64_t row, int64_t begin, int64_t end) {
            short_row(w, row, begin, end, records, sum);
          },
          [&](int64_t piece, int64_t row, int64_t begin, int64_t end) {
            piece_row(w, piece_at(piece), row, begin, end, records);
          });
      if (edge_gradients()) w.staged.flush();
    });
    double* const totals = totals_.template get<double>();
    for (int64_t item = 0; item < items.count(); ++item)
      for (int64_t k = 0; k < item_size(); ++k)
        totals[k] += sums.get<double>()[item * item_size() + k];
    parallel_for(rows.end_cut - rows.first_cut, threads,
                 [&](int64_t k, int64_t thread) { merge(workers[thread], rows.first_cut + k); });
    if (records)
      parallel_for(rows.end_piece() - rows.first_piece(), threads, [&](int64_t k, int64_t thread) {
        finish_records(workers[thread], rows.first_piece() + k, *records);
      });
    return kOk;
  }

  // d att and d W_edge from the sums over items, then the long rows', in order.
  void finish() {
    double* const totals = totals_.template get<double>();
    const int row_size = c_.plan.padded_row;
    if (d_att_) {
      for (int64_t cut = 0; cut < all_.end_cut; ++cut) {
        const A* from = piece_at(all_.cuts[3 * cut + 1]) + 2 * c_.lanes.spread_size() + row_size;
        for (int k = 0; k < row_size; ++k) totals[k] += from[k];
      }
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = 0; k < c_.plan.channels; ++k)
          d_att_[(int64_t)h * c_.plan.channels + k] = (A)totals[h * c_.plan.padded_channels + k];
    }
    if (d_edge_weight_) {
      const int64_t dim = c_.args.edge_dim;
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = 0; k < c_.plan.channels; ++k)
          for (int64_t d = 0; d < dim; ++d)
            d_edge_weight_[((int64_t)h * c_.plan.channels + k) * dim + d] =
                (A)totals[row_size + d * row_size + h * c_.plan.padded_channels + k];
    }
  }

 private:
  bool edge_gradients() const { return d_edge_attr_ || d_edge_weight_; }
  bool need_ids() const { return c_.dropout.active || grad_alpha_ || edge_gradients(); }

  // A piece: sum of exp(s - lse) [spread], its part of D [spread], the two padded sums, sum of ds
  // [spread]. After the merge the first two are the factor and the residual of the row's records.
  size_t partial_size() const { return 3 * c_.lanes.spread_size() + 2 * c_.plan.padded_row; }
  A* piece_at(int64_t piece) const { return partial_.template get<A>() + piece * partial_size(); }
  // An item's sums: d att, then d W_edge.
  int64_t item_size() const {
    return c_.plan.padded_row * (1 + (d_edge_weight_ ? c_.args.edge_dim : 0));
  }

  // The row's vectors, and its lse and D in every lane: w.stats = 3 spreads, between them one for a
  // norm.
  void open_row(Worker<T>& w, int64_t row) const {
    const int n = c_.lanes.spread_size(), heads = c_.plan.heads;
    w.row.own = c_.padded(w.own, x_dst_ + row * c_.plan.row);
    w.row.grad = c_.padded(w.grad, grad_base() + row * grad_stride());
    c_.prefetch_row(x_dst_ + (row + 1) * c_.plan.row);
    c_.prefetch_row(out_ + (row + 1) * c_.plan.row);
    if (grad_out_) c_.prefetch_row(grad_out_ + (row + 1) * c_.plan.row);
    c_.lanes.spread(w.stats, lse_ + row * heads, heads);
    // (5): D = <g_i, out_i>.
    c_.each_segment([&](const MicroTable<T>* m, const Segment& s)
                        GATV2_LAMBDA_INLINE { m->dot(out_ + row * c_.plan.row, s, w.row, w.d); });
    c_.lanes.spread(w.stats + 2 * n, w.d, heads);
  }

  // The returned coefficients' part of D over some edges, in every lane of `to`.
  void alpha_delta(Worker<T>& w, const Rows& rows, int64_t begin, int64_t end, A* to) const {
    const int heads = c_.plan.heads;
    A* const sums = w.s;
    for (int h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t p = begin; p < end; ++p) {
        const int64_t at = rows.id(p) * heads + h;
        sum += (double)alpha_[at] * grad_alpha_[at];
      }
      sums[h] = (A)sum;
    }
    c_.lanes.spread(to, sums, heads);
  }

  // Sum of exp(s - lse) over some edges, lane by lane, into w.denominator. It is 1 but for the
  // rounding of lse, which the gradients must not inherit.
  void sum_weights(Worker<T>& w, int64_t begin, int64_t end) const {
    memset(w.denominator, 0, sizeof(A) * c_.lanes.spread_size());
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, all_, p, n, p > begin, x_src_, false);
      score_tile<kForward>(c_, w, w.s, w.d);
      weigh(w, w.s, n);
    }
  }
  // s -> exp(s - lse), added up in w.denominator.
  GATV2_INLINE void weigh(Worker<T>& w, A* s, int n) const {
    const int count = c_.lanes.vectors(n);
    for (int k = n * c_.plan.head_stride; k < count * W; ++k) s[k] = -(A)__builtin_inf();
    for (int b = 0; b < c_.lanes.blocks; ++b) {
      const V lse = load(w.stats + b * W);
      V sum = load(w.denominator + b * W);
      for (int k = b; k < count; k += c_.lanes.blocks) {
        const V p = exp(load(s + k * W) - lse);
        sum += p;
        store(s + k * W, p);
      }
      store(w.denominator + b * W, sum);
    }
  }
  // 1 / the folded sum.
  GATV2_INLINE void invert(const A* sum, A* to) const {
    for (int b = 0; b < c_.lanes.blocks; ++b)
      store(to + b * W, (A)1 / c_.lanes.fold_sum(load(sum + b * W)));
  }

  // Long rows: the part of D that needs all edges, and with edge gradients the norm, known up
  // front.
  void prepare_long_rows(const Rows& rows, const Workers<T>& workers, int64_t threads) const {
    const int n = c_.lanes.spread_size();
    const int64_t first_piece = rows.first_piece();
    parallel_for(rows.end_piece() - first_piece, threads, [&](int64_t k, int64_t thread) {
      const int64_t p = first_piece + k;
      Worker<T>& w = workers[thread];
      const int64_t row = rows.pieces[3 * p], begin = rows.pieces[3 * p + 1],
                    end = rows.pieces[3 * p + 2];
      memset(piece_at(p), 0, sizeof(A) * 2 * n);
      if (grad_alpha_) alpha_delta(w, rows, begin, end, piece_at(p) + n);
      if (edge_gradients()) {
        w.row.own = c_.padded(w.own, x_dst_ + row * c_.plan.row);
        c_.lanes.spread(w.stats, lse_ + row * c_.plan.heads, c_.plan.heads);
        sum_weights(w, begin, end);
        memcpy(piece_at(p), w.denominator, sizeof(A) * n);
      }
    });
    if (!grad_alpha_ && !edge_gradients()) return;
    for (int64_t cut = rows.first_cut; cut < rows.end_cut; ++cut) {
      const int64_t first = rows.cuts[3 * cut + 1], last = rows.cuts[3 * cut + 2];
      Worker<T>& w = workers[0];
      for (int k = 0; k < 2 * n; ++k) {
        double sum = 0;
        for (int64_t p = first; p < last; ++p) sum += piece_at(p)[k];
        w.stats[k] = (A)sum;
      }
      if (edge_gradients()) invert(w.stats, w.stats);
      for (int64_t p = first; p < last; ++p) memcpy(piece_at(p), w.stats, sizeof(A) * 2 * n);
    }
  }

  // (4)-(7) over some edges: sum_a = sum ds LeakyReLU'(z), sum_b = sum ds LeakyReLU(z), without att
  // and (if norm is null) without the norm, whose inverse is left in w.denominator lane by lane.
  // w.residual is sum ds, lane by lane. For records all edges' alpha (-alpha where dropped) and ds
  // are left in w.s and w.d.
  void row_sums(Worker<T>& w, int64_t begin, int64_t end, const A* norm,
                const Records<A>* records) const {
    const int stride = c_.plan.head_stride, spread = c_.lanes.spread_size();
    memset(w.denominator, 0, sizeof(A) * spread);
    memset(w.residual, 0, sizeof(A) * spread);
    memset(w.sum_a, 0, sizeof(A) * c_.plan.padded_row);
    memset(w.sum_b, 0, sizeof(A) * c_.plan.padded_row);
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      A* const s = w.s + (records ? (p - begin) * stride : 0);
      A* const d = w.d + (records ? (p - begin) * stride : 0);
      w.tile.masks = records ? records->masks_at(p) : w.masks;
      w.tile.mask_row = Records<A>::mask_row(c_.plan);
      read_tile(c_, w, all_, p, n, p > begin, x_src_, need_ids());
      score_tile<kByDestination>(c_, w, s, d);
      add_alpha_gradient(w, d, n);
      weigh(w, s, n);
      if (c_.dropout.active) c_.dropout.fill(w.keep, n, c_.plan.heads, stride, w.ids);
      for (int k = 0; k < c_.lanes.vectors(n); ++k) {
        const int b = k % c_.lanes.blocks * W;
        V alpha = load(s + k * W), da = load(d + k * W);
        if (norm) alpha *= load(norm + b);
        if (c_.dropout.active) da *= load(w.keep + k * W);
        const V ds = alpha * (da - load(w.stats + 2 * spread + b));
        store(d + k * W, ds);
        // The lanes beyond the tile hold anything.
        store(w.residual + b, load(w.residual + b) + (alpha > V{} ? ds : V{}));
        if (c_.dropout.active)
          store(s + k * W, load(w.keep + k * W) > V{} ? alpha : -alpha);
        else if (norm)
          store(s + k * W, alpha);
      }
      c_.each_segment([&](const MicroTable<T>* m, const Segment& seg) GATV2_LAMBDA_INLINE {
        m->accumulate_by_destination[c_.edges()](w.tile, seg, w.row, d, w.sum_a, w.sum_b);
      });
      if (edge_gradients()) stage_edges(w, p, n, d);
    }
  }

  GATV2_INLINE void add_alpha_gradient(Worker<T>& w, A* d, int n) const {
    if (!grad_alpha_) return;
    const int heads = c_.plan.heads;
    for (int e = 0; e < n; ++e)
      for (int h = 0; h < heads; ++h)
        d[e * c_.plan.head_stride + h] += grad_alpha_[w.ids[e] * heads + h];
  }

  // (6): dz_e, staged for the edge gradients.
  void stage_edges(Worker<T>& w, int64_t begin, int n, const A* ds) const {
    const V slope = broadcast<V>(c_.slope);
    for (int e = 0; e < n; ++e) {
      A* const dz = w.staged.stage(w.ids[e], w.window.attr(begin + e));
      const A* projected = w.tile.projected + (int64_t)e * c_.plan.padded_row;
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int v = 0; v < c_.plan.head_vectors; ++v) {
          const int at = h * c_.plan.padded_channels + v * W;
          const V z =
              load(w.tile.rows[e] + (int64_t)h * c_.plan.channels + v * W, c_.plan.lanes(v)) +
              load(w.row.own + at) + load(projected + at);
          const V f = z > V{} ? broadcast<V>((A)1) : slope;
          store(dz + at, f * ds[e * c_.plan.head_stride + h] * load(c_.att + at));
        }
    }
  }

  void short_row(Worker<T>& w, int64_t row, int64_t begin, int64_t end, const Records<A>* records,
                 double* sum) const {
    const int n = c_.lanes.spread_size();
    if (begin == end) {
      if (d_x_dst_) memset(d_x_dst_ + row * c_.plan.row, 0, sizeof(T) * c_.plan.row);
      return;
    }
    open_row(w, row);
    if (grad_alpha_) {
      alpha_delta(w, all_, begin, end, w.scale);
      for (int k = 0; k < n; ++k) w.stats[2 * n + k] += w.scale[k];
    }
    if (edge_gradients()) {
      sum_weights(w, begin, end);
      invert(w.denominator, w.stats + n);
      row_sums(w, begin, end, w.stats + n, records);
      for (int k = 0; k < n; ++k) w.scale[k] = 1;
    } else {
      row_sums(w, begin, end, nullptr, records);
      invert(w.denominator, w.scale);
    }
    fold_residual(w);
    if (records) {
      for (int k = 0; k < n; ++k) w.max[k] = w.residual[k] * w.scale[k];
      records->put(records->at(begin), w.s, w.d, end - begin, c_.dropout.scale, w.scale, w.max);
    }
    put_row(w, row);
    if (d_att_)
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = h * c_.plan.padded_channels; k < (h + 1) * c_.plan.padded_channels; k += W)
          add_doubles(sum + k, load(w.sum_b + k) * w.scale[h]);
  }

  void piece_row(Worker<T>& w, A* piece, int64_t row, int64_t begin, int64_t end,
                 const Records<A>* records) const {
    const int n = c_.lanes.spread_size(), row_size = c_.plan.padded_row;
    open_row(w, row);
    for (int k = 0; k < n; ++k) w.stats[2 * n + k] += piece[n + k];
    const A* norm = edge_gradients() ? piece : nullptr;
    row_sums(w, begin, end, norm, records);
    if (records) {
      const int64_t count = (end - begin) * c_.plan.head_stride;
      memcpy(records->at(begin), w.s, sizeof(A) * count);
      memcpy(records->at(begin) + count, w.d, sizeof(A) * count);
    }
    if (!norm) memcpy(piece, w.denominator, sizeof(A) * n);
    memcpy(piece + 2 * n, w.sum_a, sizeof(A) * row_size);
    memcpy(piece + 2 * n + row_size, w.sum_b, sizeof(A) * row_size);
    memcpy(piece + 2 * n + 2 * row_size, w.residual, sizeof(A) * n);
  }
  // What piece_row left becomes records.
  void finish_records(Worker<T>& w, int64_t piece, const Records<A>& records) const {
    const int64_t begin = all_.pieces[3 * piece + 1], edges = all_.pieces[3 * piece + 2] - begin;
    const int64_t count = edges * c_.plan.head_stride;
    memcpy(w.s, records.at(begin), sizeof(A) * count);
    memcpy(w.d, records.at(begin) + count, sizeof(A) * count);
    const A* const factors = piece_at(piece);
    records.put(records.at(begin), w.s, w.d, edges, c_.dropout.scale, factors,
                factors + c_.lanes.spread_size());
  }

  // Every lane of w.residual to the sum over its head.
  GATV2_INLINE void fold_residual(Worker<T>& w) const {
    for (int b = 0; b < c_.lanes.blocks; ++b)
      store(w.residual + b * W, c_.lanes.fold_sum(load(w.residual + b * W)));
  }

  // Writes d x_dst; w.scale is what the sums still lack. By (5) the ds of a row add up to 0; what
  // they add up to is the rounding of D. d x_dst takes the slopes about their middle, where it has
  // the least weight.
  void put_row(Worker<T>& w, int64_t row) const {
    if (!d_x_dst_) return;
    const A middle = (1 + c_.slope) / 2;
    for (int h = 0, k = 0; h < c_.plan.heads; ++h)
      for (const int end = k + c_.plan.padded_channels; k < end; k += W)
        store(w.sum_a + k, (load(w.sum_a + k) - middle * w.residual[h]) * load(c_.att + k));
    c_.put_row(d_x_dst_ + row * c_.plan.row, w.sum_a, w.scale, past_caches_);
  }

  // Adds the pieces of a long row in order, in double; its part of d att replaces its first
  // piece's.
  void merge(Worker<T>& w, int64_t cut) const {
    const int64_t row = all_.cuts[3 * cut], first = all_.cuts[3 * cut + 1],
                  last = all_.cuts[3 * cut + 2];
    const int n = c_.lanes.spread_size(), size = c_.plan.padded_row;
    auto total = [&](A* to, int64_t from, int k) {
      double sum[W] = {};
      for (int64_t p = first; p < last; ++p)
        for (int i = 0; i < W; ++i) sum[i] += (double)piece_at(p)[from + k + i];
      for (int i = 0; i < W; ++i) to[k + i] = (A)sum[i];
    };
    for (int k = 0; k < n; k += W) {
      total(w.denominator, 0, k);
      total(w.residual, 2 * n + 2 * size, k);
    }
    if (edge_gradients())
      for (int k = 0; k < n; ++k) w.scale[k] = 1;
    else
      invert(w.denominator, w.scale);
    fold_residual(w);
    for (int k = 0; k < size; k += W) {
      total(w.sum_a, 2 * n, k);
      total(w.sum_b, 2 * n + size, k);
    }
    put_row(w, row);
    A* const to = piece_at(first) + 2 * n + size;
    for (int h = 0; h < c_.plan.heads; ++h)
      for (int k = h * c_.plan.padded_channels; k < (h + 1) * c_.plan.padded_channels; ++k)
        to[k] = w.sum_b[k] * w.scale[h];
    for (int64_t p = first; p < last; ++p) {
      memcpy(piece_at(p), w.scale, sizeof(A) * n);
      for (int k = 0; k < n; ++k) piece_at(p)[n + k] = w.residual[k] * w.scale[k];
    }
  }

  const Context<T>& c_;
  const Rows& all_;
  const T* const x_src_;
  const T* const x_dst_;
  const A* const out_;
  const A* const lse_;
  const T* const grad_out_;
  const A* const alpha_;
  const A* const grad_alpha_;
  T* const d_x_dst_;
  A* const d_att_;
  T* const d_edge_attr_;
  A* const d_edge_weight_;
  const bool past_caches_;  // d_x_dst
  const Buffer zeros_;
  const Buffer partial_;  // of each piece
  const Buffer totals_;   // of all items
};

GATV2_END
