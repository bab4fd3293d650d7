// Backward: by destination (d x_dst, d att, edge gradients, and the statistics the other pass needs),
// then by source (d x_src).
#pragma once

#include "pass.h"

GATV2_BEGIN

template <class T>
class Backward {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  explicit Backward(const Arguments& args)
      : c_(args), by_dst_(args.by_dst, args.wide_index, args.num_dst),
        by_src_(args.by_src, args.wide_index, args.d_x_src ? args.num_src * args.src_blocks : 0),
        x_src_(static_cast<const T*>(args.x_src)), x_dst_(static_cast<const T*>(args.x_dst)),
        out_(static_cast<const T*>(args.out)), lse_(static_cast<const A*>(args.lse)),
        grad_out_(static_cast<const T*>(args.grad_out)), alpha_(static_cast<const A*>(args.alpha)),
        grad_alpha_(static_cast<const A*>(args.grad_alpha)), d_x_src_(static_cast<T*>(args.d_x_src)),
        d_x_dst_(static_cast<T*>(args.d_x_dst)), d_att_(static_cast<A*>(args.d_att)),
        d_edge_attr_(static_cast<T*>(args.d_edge_attr)), d_edge_weight_(static_cast<A*>(args.d_edge_weight)),
        past_caches_(c_.past_caches(d_x_dst_, args.num_dst)), stats_row_(whole_lines(3 * c_.plan.head_stride)),
        zeros_(grad_out_ ? 0 : sizeof(T) * c_.plan.row),
        stats_buffer_(sizeof(A) * args.num_dst * stats_row_), stats_(stats_buffer_.template get<A>()) {}

  int64_t run() {
    if (!c_.ok() || !zeros_ || !stats_) return kOutOfMemory;
    if (!grad_out_) memset(zeros_.template get<char>(), 0, sizeof(T) * c_.plan.row);
    prefer_huge_pages(stats_, sizeof(A) * c_.args.num_dst * stats_row_);
    prefer_huge_pages(d_x_dst_, sizeof(T) * c_.args.num_dst * c_.plan.row);
    prefer_huge_pages(d_x_src_, sizeof(T) * c_.args.num_src * c_.plan.row);
    const int64_t status = by_destination();
    return status != kOk || !d_x_src_ ? status : by_source();
  }

 private:
  // The statistics of a row begin a cache line, or share one with others that end in it.
  static int64_t whole_lines(int64_t elements) {
    const int64_t line = 64 / sizeof(A);
    if (elements > line) return (elements + line - 1) / line * line;
    int64_t size = 1;
    while (size < elements) size *= 2;
    return size;
  }
  bool edge_gradients() const { return d_edge_attr_ || d_edge_weight_; }
  bool need_ids() const { return c_.dropout.active || grad_alpha_ || edge_gradients(); }
  // grad_out as a base and a stride: one row of zeros where there is none.
  const T* grad_base() const { return grad_out_ ? grad_out_ : zeros_.template get<T>(); }
  int64_t grad_stride() const { return grad_out_ ? c_.plan.row : 0; }

  // ---- by destination

  // A piece: sum of exp(s - lse) [spread], its part of D [spread], the two padded sums, sum of ds [spread].
  size_t partial_size() const { return 3 * c_.lanes.spread_size() + 2 * c_.plan.padded_row; }
  int64_t weight_size() const { return d_edge_weight_ ? c_.args.edge_dim * c_.plan.padded_row : 0; }

  int64_t by_destination() {
    const Rows& rows = by_dst_;
    const int64_t row_size = c_.plan.padded_row;
    const int64_t item_size = row_size + weight_size();
    // Sums per item take at most 64 MiB.
    const Items items(rows, min_of((int64_t)256, max_of((int64_t)8, ((int64_t)8 << 20) / item_size)));
    const int64_t threads = min_of(c_.threads_for(rows.num_edges), items.count());
    const Workers<T> workers(c_, threads);
    const Buffer partial(sizeof(A) * rows.end_piece() * partial_size());
    const Buffer sums(sizeof(double) * items.count() * item_size);
    if (!workers.ok() || !partial || !sums) return kOutOfMemory;
    if (d_edge_attr_ && c_.args.num_ids != rows.num_edges)
      memset(d_edge_attr_, 0, sizeof(T) * c_.args.num_ids * c_.args.edge_dim);
    prepare_long_rows(workers, threads, partial.get<A>());

    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      double* const sum = sums.get<double>() + item * item_size;
      memset(sum, 0, sizeof(double) * item_size);
      if (edge_gradients()) w.staged.begin(d_edge_attr_, d_edge_weight_ ? sum + row_size : nullptr);
      for_each_part(
          rows, items, item,
          [&](int64_t row, int64_t begin, int64_t end) { short_row(w, row, begin, end, sum); },
          [&](int64_t piece, int64_t row, int64_t begin, int64_t end) {
            A* const p = partial.get<A>() + piece * partial_size();
            const int n = c_.lanes.spread_size();
            open_row(w, row);
            for (int k = 0; k < n; ++k) w.stats[2 * n + k] += p[n + k];
            const A* norm = edge_gradients() ? p : nullptr;
            row_sums(w, begin, end, norm);
            if (!norm) memcpy(p, w.denominator, sizeof(A) * n);
            memcpy(p + 2 * n, w.sum_a, sizeof(A) * row_size);
            memcpy(p + 2 * n + row_size, w.sum_b, sizeof(A) * row_size);
            memcpy(p + 2 * n + 2 * row_size, w.residual, sizeof(A) * n);
          });
      if (edge_gradients()) w.staged.flush();
    });
    parallel_for(rows.end_cut, threads, [&](int64_t cut, int64_t thread) {
      merge_by_destination(workers[thread], cut, partial.get<A>());
    });
    reduce_items(items.count(), item_size, sums.get<double>(), partial.get<A>());
    return kOk;
  }

  // The row's vectors and its statistics (lse, norm, D) in every lane: w.stats = 3 spreads.
  void open_row(Worker<T>& w, int64_t row) const {
    const int n = c_.lanes.spread_size(), heads = c_.plan.heads;
    w.row.own = c_.padded(w.own, x_dst_ + row * c_.plan.row);
    w.row.grad = c_.padded(w.grad, grad_base() + row * grad_stride());
    c_.prefetch_row(x_dst_ + (row + 1) * c_.plan.row);
    c_.prefetch_row(out_ + (row + 1) * c_.plan.row);
    if (grad_out_) c_.prefetch_row(grad_out_ + (row + 1) * c_.plan.row);
    c_.lanes.spread(w.stats, lse_ + row * heads, heads);
    for (int k = 0; k < n; ++k) w.stats[n + k] = 1;
    // (5): D = <g_i, out_i>.
    c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
      m->dot(out_ + row * c_.plan.row, s, w.row, w.d);
    });
    c_.lanes.spread(w.stats + 2 * n, w.d, heads);
  }

  // The returned coefficients' part of D over some edges, in every lane of `to`.
  void alpha_delta(Worker<T>& w, const Rows& rows, int64_t begin, int64_t end, A* to) const {
    const int heads = c_.plan.heads;
    for (int h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t p = begin; p < end; ++p) {
        const int64_t at = rows.id(p) * heads + h;
        sum += (double)alpha_[at] * grad_alpha_[at];
      }
      w.lse[h] = (A)sum;
    }
    c_.lanes.spread(to, w.lse, heads);
  }

  // Sum of exp(s - lse) over some edges, lane by lane, into w.denominator. It is 1 but for the rounding
  // of lse, which the gradients must not inherit.
  void sum_weights(Worker<T>& w, int64_t begin, int64_t end) const {
    memset(w.denominator, 0, sizeof(A) * c_.lanes.spread_size());
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, by_dst_, p, n, p > begin, x_src_, false);
      score_tile<kForward>(c_, w);
      weigh(w, n);
    }
  }
  // s -> exp(s - lse), added up in w.denominator.
  GATV2_INLINE void weigh(Worker<T>& w, int n) const {
    const int count = c_.lanes.vectors(n);
    for (int k = n * c_.plan.head_stride; k < count * W; ++k) w.s[k] = -(A)__builtin_inf();
    for (int b = 0; b < c_.lanes.blocks; ++b) {
      const V lse = load(w.stats + b * W);
      V sum = load(w.denominator + b * W);
      for (int k = b; k < count; k += c_.lanes.blocks) {
        const V p = exp(load(w.s + k * W) - lse);
        sum += p;
        store(w.s + k * W, p);
      }
      store(w.denominator + b * W, sum);
    }
  }
  // 1 / the folded sum.
  GATV2_INLINE void invert(const A* sum, A* to) const {
    for (int b = 0; b < c_.lanes.blocks; ++b) store(to + b * W, (A)1 / c_.lanes.fold_sum(load(sum + b * W)));
  }

  // Long rows: the part of D that needs all edges, and with edge gradients the norm, known up front.
  void prepare_long_rows(const Workers<T>& workers, int64_t threads, A* partial) const {
    const Rows& rows = by_dst_;
    const int n = c_.lanes.spread_size();
    auto piece = [&](int64_t p) { return partial + p * partial_size(); };
    parallel_for(rows.end_piece(), threads, [&](int64_t p, int64_t thread) {
      Worker<T>& w = workers[thread];
      const int64_t row = rows.pieces[3 * p], begin = rows.pieces[3 * p + 1], end = rows.pieces[3 * p + 2];
      memset(piece(p), 0, sizeof(A) * 2 * n);
      if (grad_alpha_) alpha_delta(w, rows, begin, end, piece(p) + n);
      if (edge_gradients()) {
        w.row.own = c_.padded(w.own, x_dst_ + row * c_.plan.row);
        c_.lanes.spread(w.stats, lse_ + row * c_.plan.heads, c_.plan.heads);
        sum_weights(w, begin, end);
        memcpy(piece(p), w.denominator, sizeof(A) * n);
      }
    });
    if (!grad_alpha_ && !edge_gradients()) return;
    for (int64_t cut = 0; cut < rows.end_cut; ++cut) {
      const int64_t first = rows.cuts[3 * cut + 1], last = rows.cuts[3 * cut + 2];
      Worker<T>& w = workers[0];
      for (int k = 0; k < 2 * n; ++k) {
        double sum = 0;
        for (int64_t p = first; p < last; ++p) sum += piece(p)[k];
        w.stats[k] = (A)sum;
      }
      if (edge_gradients()) invert(w.stats, w.stats);
      for (int64_t p = first; p < last; ++p) memcpy(piece(p), w.stats, sizeof(A) * 2 * n);
    }
  }

  // (4)-(7) over some edges: sum_a = sum ds LeakyReLU'(z), sum_b = sum ds LeakyReLU(z), without att and
  // (if norm is null) without the norm, whose inverse is left in w.denominator lane by lane. w.residual
  // is sum ds, lane by lane.
  void row_sums(Worker<T>& w, int64_t begin, int64_t end, const A* norm) const {
    const int stride = c_.plan.head_stride, spread = c_.lanes.spread_size();
    memset(w.denominator, 0, sizeof(A) * spread);
    memset(w.residual, 0, sizeof(A) * spread);
    memset(w.sum_a, 0, sizeof(A) * c_.plan.padded_row);
    memset(w.sum_b, 0, sizeof(A) * c_.plan.padded_row);
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, by_dst_, p, n, p > begin, x_src_, need_ids());
      score_tile<kByDestination>(c_, w);
      add_alpha_gradient(w, n);
      weigh(w, n);
      if (c_.dropout.active) c_.dropout.fill(w.keep, n, c_.plan.heads, stride, w.ids);
      for (int k = 0; k < c_.lanes.vectors(n); ++k) {
        const int b = k % c_.lanes.blocks * W;
        V alpha = load(w.s + k * W), d = load(w.d + k * W);
        if (norm) alpha *= load(norm + b);
        if (c_.dropout.active) d *= load(w.keep + k * W);
        const V ds = alpha * (d - load(w.stats + 2 * spread + b));
        store(w.d + k * W, ds);
        // The lanes beyond the tile hold anything.
        store(w.residual + b, load(w.residual + b) + (alpha > V{} ? ds : V{}));
      }
      c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
        m->accumulate_by_destination[c_.edges()](w.tile, s, w.row, w.d, w.sum_a, w.sum_b);
      });
      if (edge_gradients()) stage_edges(w, p, n);
    }
  }

  GATV2_INLINE void add_alpha_gradient(Worker<T>& w, int n) const {
    if (!grad_alpha_) return;
    const int heads = c_.plan.heads;
    for (int e = 0; e < n; ++e)
      for (int h = 0; h < heads; ++h) w.d[e * c_.plan.head_stride + h] += grad_alpha_[w.ids[e] * heads + h];
  }

  // (6): dz_e, staged for the edge gradients.
  void stage_edges(Worker<T>& w, int64_t begin, int n) const {
    const V slope = broadcast<V>(c_.slope);
    for (int e = 0; e < n; ++e) {
      A* const dz = w.staged.stage(w.ids[e], w.window.attr(begin + e));
      const A* projected = w.tile.projected + (int64_t)e * c_.plan.padded_row;
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int v = 0; v < c_.plan.head_vectors; ++v) {
          const int at = h * c_.plan.padded_channels + v * W;
          const V z = load(w.tile.rows[e] + (int64_t)h * c_.plan.channels + v * W, c_.plan.lanes(v)) +
                      load(w.row.own + at) + load(projected + at);
          const V f = z > V{} ? broadcast<V>((A)1) : slope;
          store(dz + at, f * w.d[e * c_.plan.head_stride + h] * load(c_.att + at));
        }
    }
  }

  void short_row(Worker<T>& w, int64_t row, int64_t begin, int64_t end, double* sum) const {
    const int n = c_.lanes.spread_size();
    if (begin == end) {
      if (d_x_dst_) memset(d_x_dst_ + row * c_.plan.row, 0, sizeof(T) * c_.plan.row);
      return;
    }
    open_row(w, row);
    if (grad_alpha_) {
      alpha_delta(w, by_dst_, begin, end, w.scale);
      for (int k = 0; k < n; ++k) w.stats[2 * n + k] += w.scale[k];
    }
    if (edge_gradients()) {
      sum_weights(w, begin, end);
      invert(w.denominator, w.stats + n);
      row_sums(w, begin, end, w.stats + n);
      for (int k = 0; k < n; ++k) w.scale[k] = 1;
    } else {
      row_sums(w, begin, end, nullptr);
      invert(w.denominator, w.scale);
      memcpy(w.stats + n, w.scale, sizeof(A) * n);
    }
    fold_residual(w);
    close_row(w, row);
    if (d_att_)
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = h * c_.plan.padded_channels; k < (h + 1) * c_.plan.padded_channels; k += W)
          add_doubles(sum + k, load(w.sum_b + k) * w.scale[h]);
  }

  // Every lane of w.residual to the sum over its head.
  GATV2_INLINE void fold_residual(Worker<T>& w) const {
    for (int b = 0; b < c_.lanes.blocks; ++b) store(w.residual + b * W, c_.lanes.fold_sum(load(w.residual + b * W)));
  }

  // Writes d x_dst and the statistics; w.scale is what the sums still lack. By (5) the ds of a row add
  // up to 0; what they add up to is the rounding of D. It is moved into D for the other pass, and d x_dst
  // takes the slopes about their middle, where it has the least weight.
  void close_row(Worker<T>& w, int64_t row) const {
    const int n = c_.lanes.spread_size(), stride = c_.plan.head_stride;
    for (int k = 0; k < n; ++k) w.stats[2 * n + k] += w.residual[k] * w.scale[k];
    for (int k = 0; k < 3; ++k) memcpy(stats_ + row * stats_row_ + k * stride, w.stats + k * n, sizeof(A) * stride);
    if (!d_x_dst_) return;
    const A middle = (1 + c_.slope) / 2;
    for (int h = 0, k = 0; h < c_.plan.heads; ++h)
      for (const int end = k + c_.plan.padded_channels; k < end; k += W)
        store(w.sum_a + k, (load(w.sum_a + k) - middle * w.residual[h]) * load(c_.att + k));
    c_.put_row(d_x_dst_ + row * c_.plan.row, w.sum_a, w.scale, past_caches_);
  }

  // Adds the pieces of a long row in order, in double; its part of d att replaces its first piece's.
  void merge_by_destination(Worker<T>& w, int64_t cut, A* partial) const {
    const int64_t row = by_dst_.cuts[3 * cut], first = by_dst_.cuts[3 * cut + 1], last = by_dst_.cuts[3 * cut + 2];
    const int n = c_.lanes.spread_size(), size = c_.plan.padded_row;
    auto piece = [&](int64_t p) { return partial + p * partial_size(); };
    open_row(w, row);
    for (int k = 0; k < n; ++k) w.stats[2 * n + k] += piece(first)[n + k];
    if (edge_gradients()) {
      memcpy(w.stats + n, piece(first), sizeof(A) * n);
      for (int k = 0; k < n; ++k) w.scale[k] = 1;
    } else {
      for (int k = 0; k < n; ++k) {
        double sum = 0;
        for (int64_t p = first; p < last; ++p) sum += piece(p)[k];
        w.denominator[k] = (A)sum;
      }
      invert(w.denominator, w.scale);
      memcpy(w.stats + n, w.scale, sizeof(A) * n);
    }
    for (int k = 0; k < n; ++k) {
      double sum = 0;
      for (int64_t p = first; p < last; ++p) sum += piece(p)[2 * n + 2 * size + k];
      w.residual[k] = (A)sum;
    }
    fold_residual(w);
    auto total = [&](A* to, int64_t from, int k) {
      double sum[W] = {};
      for (int64_t p = first; p < last; ++p)
        for (int i = 0; i < W; ++i) sum[i] += (double)piece(p)[from + k + i];
      for (int i = 0; i < W; ++i) to[k + i] = (A)sum[i];
    };
    for (int k = 0; k < size; k += W) {
      total(w.sum_a, 2 * n, k);
      total(w.sum_b, 2 * n + size, k);
    }
    close_row(w, row);
    A* const to = piece(first) + 2 * n + size;
    for (int h = 0; h < c_.plan.heads; ++h)
      for (int k = h * c_.plan.padded_channels; k < (h + 1) * c_.plan.padded_channels; ++k)
        to[k] = w.sum_b[k] * w.scale[h];
  }

  // d att and d W_edge from the items' sums, then the long rows', in order.
  void reduce_items(int64_t items, int64_t item_size, double* sums, const A* partial) const {
    for (int64_t item = 1; item < items; ++item)
      for (int64_t k = 0; k < item_size; ++k) sums[k] += sums[item * item_size + k];
    const int row_size = c_.plan.padded_row;
    if (d_att_) {
      for (int64_t cut = 0; cut < by_dst_.end_cut; ++cut) {
        const A* from = partial + by_dst_.cuts[3 * cut + 1] * partial_size() + 2 * c_.lanes.spread_size() + row_size;
        for (int k = 0; k < row_size; ++k) sums[k] += from[k];
      }
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = 0; k < c_.plan.channels; ++k)
          d_att_[(int64_t)h * c_.plan.channels + k] = (A)sums[h * c_.plan.padded_channels + k];
    }
    if (d_edge_weight_) {
      const int64_t dim = c_.args.edge_dim;
      for (int h = 0; h < c_.plan.heads; ++h)
        for (int k = 0; k < c_.plan.channels; ++k)
          for (int64_t d = 0; d < dim; ++d)
            d_edge_weight_[((int64_t)h * c_.plan.channels + k) * dim + d] =
                (A)sums[row_size + d * row_size + h * c_.plan.padded_channels + k];
    }
  }

  // ---- by source

  // Block by block of destinations, whose rows then stay in the caches. From block to block the sums of a
  // source are kept in its row of d x_src, or where that is too narrow for them in a row of their own.
  int64_t by_source() {
    const int64_t num_src = c_.args.num_src, blocks = c_.args.src_blocks, row_size = c_.plan.padded_row;
    const int64_t threads = min_of(c_.threads_for(by_src_.num_edges), (int64_t)256);
    const Workers<T> workers(c_, threads);
    const Buffer partial(sizeof(A) * by_src_.end_piece() * row_size);
    const bool apart = blocks > 1 && sizeof(T) != sizeof(A);
    const Buffer wide(apart ? sizeof(A) * num_src * c_.plan.row : 0);
    if (!workers.ok() || !partial || !wide) return kOutOfMemory;
    for (int64_t block = 0; block < blocks; ++block) {
      const Rows rows = by_src_.part(block * num_src, (block + 1) * num_src);
      if (apart) source_block(workers, threads, rows, block == 0, partial.get<A>(), wide.get<A>());
      else source_block(workers, threads, rows, block == 0, partial.get<A>(), d_x_src_);
    }
    if (apart) {
      const int64_t most = 256, size = num_src * c_.plan.row;
      parallel_for(most, threads, [&](int64_t item, int64_t) {
        for (int64_t k = size * item / most; k < size * (item + 1) / most; ++k) from_float(wide.get<A>()[k], d_x_src_[k]);
      });
    }
    return kOk;
  }

  // Adds the edges of some rows of by_src to the packed rows of their sources.
  template <class U>
  void source_block(const Workers<T>& workers, int64_t threads, const Rows& rows, bool first, A* partial, U* sums) const {
    const int64_t row_size = c_.plan.padded_row;
    const bool past_caches = c_.past_caches(sums, c_.args.num_src);
    const Items items(rows, 256);
    auto packed = [&](int64_t row) { return sums + (row - rows.first_row) * c_.plan.row; };
    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      for_each_part(
          rows, items, item,
          [&](int64_t row, int64_t begin, int64_t end) {
            U* const to = packed(row);
            if (begin == end) {
              if (first) memset(to, 0, sizeof(U) * c_.plan.row);
              return;
            }
            start_sums(w, first ? nullptr : to);
            if (!first) c_.prefetch_row(to + c_.plan.row);
            source_sums(w, row - rows.first_row, begin, end);
            c_.put_row(to, w.sum_a, nullptr, past_caches);
          },
          [&](int64_t piece, int64_t row, int64_t begin, int64_t end) {
            start_sums<U>(w, nullptr);
            source_sums(w, row - rows.first_row, begin, end);
            memcpy(partial + piece * row_size, w.sum_a, sizeof(A) * row_size);
          });
    });
    parallel_for(rows.end_cut - rows.first_cut, threads, [&](int64_t k, int64_t thread) {
      Worker<T>& w = workers[thread];
      const int64_t cut = rows.first_cut + k;
      U* const to = packed(rows.cuts[3 * cut]);
      start_sums(w, first ? nullptr : to);
      for (int64_t k = 0; k < row_size; k += W) {
        double sum[W];
        for (int i = 0; i < W; ++i) sum[i] = (double)w.sum_a[k + i];
        for (int64_t p = rows.cuts[3 * cut + 1]; p < rows.cuts[3 * cut + 2]; ++p)
          for (int i = 0; i < W; ++i) sum[i] += (double)partial[p * row_size + k + i];
        for (int i = 0; i < W; ++i) w.sum_a[k + i] = (A)sum[i];
      }
      c_.put_row(to, w.sum_a, nullptr, past_caches);
    });
  }

  // sum_a = a packed row, or 0.
  template <class U> void start_sums(Worker<T>& w, const U* from) const {
    const size_t bytes = sizeof(A) * c_.plan.padded_row;
    if (!from) memset(w.sum_a, 0, bytes);
    else if (sizeof(U) == sizeof(A) && c_.plan.packed_is_padded()) memcpy(w.sum_a, from, bytes);
    else c_.plan.pad(w.sum_a, from);
  }

  // (8) over some edges of a source, added to sum_a.
  void source_sums(Worker<T>& w, int64_t row, int64_t begin, int64_t end) const {
    const int stride = c_.plan.head_stride;
    const int64_t size = c_.plan.padded_row;
    w.row.own = c_.padded(w.own, x_src_ + row * c_.plan.row);
    c_.prefetch_row(x_src_ + (row + 1) * c_.plan.row);
    memset(w.sum_b, 0, sizeof(A) * size);
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, by_src_, p, n, p > begin, x_dst_, c_.dropout.active || grad_alpha_);
      fill_slots(w.tile.grads, w.tile.next_grads, by_src_, c_.group, p, n, p > begin, grad_base(), grad_stride());
      score_tile<kBySource>(c_, w);
      add_alpha_gradient(w, n);
      fill_slots(w.tile.stats, w.tile.next_stats, by_src_, c_.group, p, n, p > begin, (const A*)stats_, stats_row_);
      for (int e = 0; e < n; ++e) {
        const A* const from = w.tile.stats[e];
        copy_heads(w.lse + e * stride, from, stride);
        copy_heads(w.norm + e * stride, from + stride, stride);
        copy_heads(w.delta + e * stride, from + 2 * stride, stride);
        for (int64_t k = 0; k < stats_row_; k += 64 / sizeof(A)) prefetch(w.tile.next_stats[e] + k);
      }
      if (c_.dropout.active) c_.dropout.fill(w.keep, n, c_.plan.heads, stride, w.ids);
      for (int k = 0; k < c_.lanes.vectors(n) * W; k += W) {
        V alpha = exp(load(w.s + k) - load(w.lse + k)) * load(w.norm + k), d = load(w.d + k), keep = alpha;
        if (c_.dropout.active) {
          d *= load(w.keep + k);
          keep *= load(w.keep + k);
        }
        store(w.d + k, alpha * (d - load(w.delta + k)));
        store(w.s + k, keep);
      }
      c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
        m->accumulate_by_source[c_.edges()](w.tile, s, w.row, w.s, w.d, w.sum_a, w.sum_b);
      });
    }
    for (int64_t k = 0; k < size; k += W) store(w.sum_a + k, fma(load(c_.att + k), load(w.sum_b + k), load(w.sum_a + k)));
  }

  const Context<T> c_;
  const Rows by_dst_, by_src_;
  const T* const x_src_;
  const T* const x_dst_;
  const T* const out_;
  const A* const lse_;
  const T* const grad_out_;
  const A* const alpha_;
  const A* const grad_alpha_;
  T* const d_x_src_;
  T* const d_x_dst_;
  A* const d_att_;
  T* const d_edge_attr_;
  A* const d_edge_weight_;
  const bool past_caches_;  // d_x_dst
  const int64_t stats_row_;
  const Buffer zeros_;
  const Buffer stats_buffer_;
  A* const stats_;
};

GATV2_END
