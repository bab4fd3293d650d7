// (4) to (7) over edges of one destination: its row's vectors, D, and the sums over its edges.
#pragma once

#include "layout/records.h"
#include "passes/pass.h"

GATV2_BEGIN

template <class T>
class DestinationEdges {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  DestinationEdges(const Context<T>& c, const Rows& rows)
      : c_(c),
        rows_(rows),
        x_src_(static_cast<const T*>(c.args.x_src)),
        x_dst_(static_cast<const T*>(c.args.x_dst)),
        out_(static_cast<const A*>(c.args.out)),
        lse_(static_cast<const A*>(c.args.lse)),
        grad_out_(static_cast<const T*>(c.args.grad_out)),
        alpha_(static_cast<const A*>(c.args.alpha)),
        grad_alpha_(static_cast<const A*>(c.args.grad_alpha)),
        d_x_dst_(static_cast<T*>(c.args.d_x_dst)),
        past_caches_(c.past_caches(d_x_dst_, c.args.num_dst)),
        zeros_(grad_out_ ? 0 : sizeof(T) * c.plan.row) {
    if (ok() && !grad_out_) memset(zeros_.template get<char>(), 0, sizeof(T) * c_.plan.row);
    prefer_huge_pages(d_x_dst_, sizeof(T) * c_.args.num_dst * c_.plan.row);
  }
  bool ok() const { return (bool)zeros_; }
  // grad_out as a base and a stride: one row of zeros where there is none.
  const T* grad_base() const { return grad_out_ ? grad_out_ : zeros_.template get<T>(); }
  int64_t grad_stride() const { return grad_out_ ? c_.plan.row : 0; }
  bool alpha_gradient() const { return grad_alpha_ != nullptr; }
  // Rows alone are scored twice where edge gradients need the norm at once.
  int64_t short_row() const { return edge_gradients() ? kBatch : c_.short_row(); }
  bool edge_gradients() const { return c_.args.d_edge_attr || c_.args.d_edge_weight; }

  // The row's vectors, and its lse and <g_i, out_i> in every lane.
  void open_row(Worker<T>& w, int64_t row) const {
    const int heads = c_.plan.heads;
    const A* const grad = c_.padded(w.grad, grad_base() + row * grad_stride());
    open_tiles<T>(w.tile.own, c_.own(w.own, x_dst_ + row * c_.plan.row));
    open_tiles<T>(w.tile.grad, grad);
    c_.prefetch_row(x_dst_ + (row + 1) * c_.plan.row);
    c_.prefetch_row(out_ + (row + 1) * c_.plan.row);
    if (grad_out_) c_.prefetch_row(grad_out_ + (row + 1) * c_.plan.row);
    spread_lse(w, row);
    // (5): D = <g_i, out_i>.
    c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
      m->dot(out_ + row * c_.plan.row, grad, s, w.common, w.d);
    });
    c_.scores.spread(w.delta, w.d, heads);
  }
  // (4) to (6) of short rows [first, last), all of whose edges are the worker's tile: leaves alpha
  // in w.alpha and ds in w.d.
  void short_rows(Worker<T>& w, int64_t first, int64_t last) const {
    const int stride = c_.plan.head_stride, heads = c_.plan.heads;
    read_batch(c_, w, rows_, first, last, x_src_, need_ids());
    const int n = w.tile.n, count = w.tile.num_rows;
    if (n == 0) return;
    read_own(c_, w, x_dst_ + first * c_.plan.row);
    read_grad(c_, w, grad_base() + first * grad_stride(), grad_stride());
    score_tile<kByDestination, kShortRows>(c_, w, w.s, w.d);
    add_alpha_gradient(w, w.d, n);
    const ShortRows<T> rows(c_.scores, w.tile);
    c_.scores.copy_heads(w.shifts, stride, lse_ + first * heads, heads, count);
    c_.bias.make_finite(w.shifts, count * stride, 0);
    rows.subtract(w.s, w.shifts, w.products);
    A* const p = w.products;
    for (int k = 0; k < c_.scores.vectors(n); ++k) store(p + k * W, exp(load(p + k * W)));
    if (c_.dropout.active) {
      c_.dropout.fill(w.keep, n, heads, stride, w.ids);
      for (int k = 0; k < c_.scores.vectors(n); ++k)
        store(w.d + k * W, load(w.d + k * W) * load(w.keep + k * W));
    }
    rows.add_up(p, w.d, w.row_sum, w.row_delta);
    for (int k = 0; k < count * stride; k += W) {
      const V inverse = c_.bias.inverse(load(w.row_sum + k));
      store(w.row_sum + k, inverse);
      store(w.row_delta + k, load(w.row_delta + k) * inverse);
    }
    rows.differentiate(p, w.d, w.row_sum, w.row_delta, w.alpha, w.s, w.shifts);
  }
  // (7), (11) and the edge gradients, from what short_rows left. `sum` may be null.
  void put_short_rows(Worker<T>& w, int64_t first, double* d_att, double* sum) const {
    const RowsOut<T> out{d_x_dst_ ? d_x_dst_ + first * c_.plan.row : nullptr, c_.plan.row, false,
                         past_caches_, sum ? w.total : nullptr};
    memset(w.sum_b, 0, sizeof(A) * c_.plan.padded_row);
    if (sum) memset(w.total, 0, sizeof(A) * c_.plan.padded_row);
    open_slopes(w, w.d);
    c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
      m->destination_rows[c_.edges()](w.tile, s, w.common, w.d, out, w.sum_b);
    });
    for (int k = 0; k < c_.plan.padded_row; k += W) add_doubles(d_att + k, load(w.sum_b + k));
    for (int k = 0; sum && k < c_.plan.padded_row; k += W) add_doubles(sum + k, load(w.total + k));
    take_slopes(w);
  }
  // (11): adds grad_out of rows [first, last), and d x_dst of one that is written.
  void add_grad(int64_t first, int64_t last, double* sum) const {
    if (grad_out_) c_.plan.add_rows(grad_out_ + first * c_.plan.row, last - first, sum);
  }
  void add_written(int64_t row, double* sum) const {
    c_.plan.add_rows(d_x_dst_ + row * c_.plan.row, 1, sum);
  }

  // What a score needs alone.
  void open_scores(Worker<T>& w, int64_t row) const {
    open_tiles<T>(w.tile.own, c_.own(w.own, x_dst_ + row * c_.plan.row));
    spread_lse(w, row);
  }

  // The returned coefficients' part of D over some edges, in every lane of `to`.
  void alpha_delta(Worker<T>& w, int64_t begin, int64_t end, A* to) const {
    const int heads = c_.plan.heads;
    A* const sums = w.s;
    for (int h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t p = begin; p < end; ++p) sum += alpha_product(rows_.id(p), h);
      sums[h] = (A)sum;
    }
    c_.scores.spread(to, sums, heads);
  }

  // Sum of exp(s - lse) over some edges, lane by lane, into w.weights. It is 1 but for the rounding
  // of lse, which the gradients must not inherit.
  void sum_weights(Worker<T>& w, int64_t begin, int64_t end) const {
    memset(w.weights, 0, sizeof(A) * c_.scores.spread_size());
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, rows_, p, n, p > begin, x_src_, false);
      score_tile<kForward, kOneRow>(c_, w, w.s, w.d);
      weigh(w, w.s, n);
    }
  }
  // 1 / the folded sum.
  GATV2_INLINE void invert(const A* sum, A* to) const {
    for (int b = 0; b < c_.scores.blocks; ++b)
      store(to + b * W, c_.bias.inverse(c_.scores.fold_sum(load(sum + b * W))));
  }

  // sum_a = sum ds LeakyReLU'(z), sum_b = sum ds LeakyReLU(z), both without att and (if norm is
  // null) without the norm, whose inverse is left in w.weights lane by lane. w.residual is sum ds,
  // lane by lane. For records all edges' alpha (-alpha where dropped) and ds are left in w.s and
  // w.d.
  void sum(Worker<T>& w, int64_t begin, int64_t end, const A* norm,
           const Records<A>* records) const {
    const int stride = c_.plan.head_stride, spread = c_.scores.spread_size();
    memset(w.weights, 0, sizeof(A) * spread);
    memset(w.residual, 0, sizeof(A) * spread);
    memset(w.sum_a, 0, sizeof(A) * c_.plan.padded_row);
    memset(w.sum_b, 0, sizeof(A) * c_.plan.padded_row);
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      A* const s = w.s + (records ? (p - begin) * stride : 0);
      A* const d = w.d + (records ? (p - begin) * stride : 0);
      w.tile.masks = records ? records->masks_at(p) : w.masks;
      w.tile.mask_row = Records<A>::mask_row(c_.plan);
      read_tile(c_, w, rows_, p, n, p > begin, x_src_, need_ids());
      score_tile<kByDestination, kOneRow>(c_, w, s, d);
      add_alpha_gradient(w, d, n);
      weigh(w, s, n);
      if (c_.dropout.active) c_.dropout.fill(w.keep, n, c_.plan.heads, stride, w.ids);
      for (int k = 0; k < c_.scores.vectors(n); ++k) {
        const int b = k % c_.scores.blocks * W;
        V alpha = load(s + k * W), da = load(d + k * W);
        if (norm) alpha *= load(norm + b);
        if (c_.dropout.active) da *= load(w.keep + k * W);
        const V ds = alpha * (da - load(w.delta + b));
        store(d + k * W, ds);
        // The lanes beyond the tile hold anything.
        store(w.residual + b, load(w.residual + b) + (alpha > V{} ? ds : V{}));
        if (c_.dropout.active)
          store(s + k * W, load(w.keep + k * W) > V{} ? alpha : -alpha);
        else if (norm)
          store(s + k * W, alpha);
      }
      open_slopes(w, d);
      c_.each_segment([&](const MicroTable<T>* m, const Segment& seg) GATV2_LAMBDA_INLINE {
        m->accumulate_by_destination[c_.edges()](w.tile, seg, w.common, d, w.sum_a, w.sum_b);
      });
      take_slopes(w);
    }
  }

  // Every lane of w.residual to the sum over its head; w.correction = the same times w.scale.
  GATV2_INLINE void fold_residual(Worker<T>& w) const {
    for (int b = 0; b < c_.scores.blocks; ++b) {
      const V residual = c_.scores.fold_sum(load(w.residual + b * W));
      store(w.residual + b * W, residual);
      store(w.correction + b * W, residual * load(w.scale + b * W));
    }
  }

  // By (5) the ds of a row add up to 0; what they add up to is the rounding of D. The sums of (7)
  // take LeakyReLU and its slope about their values at the middle of the row, x_dst[i] + out_i.
  void center(Worker<T>& w, int64_t row) const {
    const A* const own = c_.own(w.own, x_dst_ + row * c_.plan.row);
    const A* const out = out_ + row * c_.plan.row;
    const V one = broadcast<V>((A)1), slope = broadcast<V>(c_.slope);
    c_.plan.each_vector([&](const typename Plan<A>::Place& at) GATV2_LAMBDA_INLINE {
      const V z = load(own + at.padded) + c_.plan.get(out + at.packed, at);
      const V residual = select(above_zero(z), one, slope) * c_.plan.by_head(w.residual, at);
      store(w.sum_a + at.padded, load(w.sum_a + at.padded) - residual);
      store(w.sum_b + at.padded, load(w.sum_b + at.padded) - residual * z);
    });
  }

  // Writes d x_dst, and leaves it in w.sum_a but for w.scale, which is what the sums still lack.
  void put_row(Worker<T>& w, int64_t row) const {
    if (!d_x_dst_) return;
    for (int k = 0; k < c_.plan.padded_row; k += W)
      store(w.sum_a + k, load(w.sum_a + k) * load(c_.att + k));
    c_.put_row(d_x_dst_ + row * c_.plan.row, w.sum_a, w.scale, past_caches_);
  }
  // (9) of edges [begin, begin + n) from ds, [n][head_stride].
  void put_bias_gradient(int64_t begin, int64_t n, const A* ds) const {
    if (c_.bias.gradient()) c_.bias.put(begin, n, ds, c_.plan.head_stride, c_.plan.heads);
  }
  // Likewise from what `sum` left in w.s and w.d, and what that lacks: see Records.
  void put_bias_gradient(Worker<T>& w, int64_t begin, int64_t n, const A* scale,
                         const A* correction) const {
    if (!c_.bias.gradient()) return;
    for (int64_t k = 0; k < n * c_.plan.head_stride; k += W) {
      const int64_t b = k / W % c_.scores.blocks * W;
      const V alpha = load(w.s + k);
      const V ds = load(w.d + k) - max_of(alpha, -alpha) * load(correction + b);
      store(w.d + k, ds * load(scale + b));
    }
    put_bias_gradient(begin, n, w.d);
  }
  void put_empty(int64_t row) const {
    if (d_x_dst_) memset(d_x_dst_ + row * c_.plan.row, 0, sizeof(T) * c_.plan.row);
  }

 private:
  bool need_ids() const { return c_.dropout.active || alpha_gradient() || edge_gradients(); }
  void spread_lse(Worker<T>& w, int64_t row) const {
    c_.scores.spread(w.lse, lse_ + row * c_.plan.heads, c_.plan.heads);
    c_.bias.make_finite(w.lse, c_.scores.spread_size(), 0);
  }
  double alpha_product(int64_t id, int h) const {
    const int64_t at = id * c_.plan.heads + h;
    return (double)alpha_[at] * grad_alpha_[at];
  }
  // s -> exp(s - lse), added up in w.weights.
  GATV2_INLINE void weigh(Worker<T>& w, A* s, int n) const {
    const int count = c_.scores.vectors(n);
    for (int k = n * c_.plan.head_stride; k < count * W; ++k) s[k] = -(A)__builtin_inf();
    for (int b = 0; b < c_.scores.blocks; ++b) {
      const V lse = load(w.lse + b * W);
      V sum = load(w.weights + b * W);
      for (int k = b; k < count; k += c_.scores.blocks) {
        const V p = exp(load(s + k * W) - lse);
        sum += p;
        store(s + k * W, p);
      }
      store(w.weights + b * W, sum);
    }
  }

  GATV2_INLINE void add_alpha_gradient(Worker<T>& w, A* d, int n) const {
    if (!grad_alpha_) return;
    const int heads = c_.plan.heads;
    for (int e = 0; e < n; ++e)
      for (int h = 0; h < heads; ++h)
        d[e * c_.plan.head_stride + h] += grad_alpha_[w.ids[e] * heads + h];
  }

  // What a tile leaves for the edge gradients, from its ds: those of no head hold anything, and a
  // product would spread it.
  void open_slopes(Worker<T>& w, A* ds) const {
    w.tile.slopes = edge_gradients() ? w.staged.room(w.tile.n) : nullptr;
    if (edge_gradients()) c_.scores.clear_no_head(ds, w.tile.n);
  }
  void take_slopes(Worker<T>& w) const {
    if (edge_gradients() && w.tile.n > 0)
      w.staged.add(w.ids, w.window.attr(w.tile.position), w.tile.n);
  }

  const Context<T>& c_;
  const Rows& rows_;
  const T* const x_src_;
  const T* const x_dst_;
  const A* const out_;
  const A* const lse_;
  const T* const grad_out_;
  const A* const alpha_;
  const A* const grad_alpha_;
  T* const d_x_dst_;
  const bool past_caches_;  // d_x_dst
  const Buffer zeros_;
};

GATV2_END
