// Forward, by destination: short rows several at once, long ones with a running softmax.
#pragma once

#include "passes/pass.h"

GATV2_BEGIN

template <class T>
class Forward {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  explicit Forward(const Arguments& args)
      : c_(args, kForward, interleaving_pays(args)),
        rows_(args.by_dst, args.wide_index, args.num_dst),
        x_src_(static_cast<const T*>(args.x_src)),
        x_dst_(static_cast<const T*>(args.x_dst)),
        gathered_(x_src_),
        out_(static_cast<A*>(args.out)),
        biased_(static_cast<A*>(args.biased_out)),
        out_bias_(sizeof(A) * (biased_ ? c_.plan.padded_row : 0)),
        lse_(static_cast<A*>(args.lse)),
        alpha_(static_cast<A*>(args.alpha)),
        past_caches_(c_.past_caches(out_ ? out_ : biased_, args.num_dst) &&
                     (!biased_ || c_.past_caches(biased_, args.num_dst))) {}

  int64_t run() {
    if (!c_.ok()) return kOutOfMemory;
    const int64_t threads = c_.threads_for(rows_.num_edges);
    const Items items(rows_, 256);
    const Workers<T> workers(c_, min_of(threads, items.count()));
    const Buffer partial(sizeof(A) * rows_.end_piece() * partial_size());
    const Scratch copies(Scratch::kCopies,
                         c_.plan.interleaved ? sizeof(T) * c_.args.num_src * c_.plan.gathered : 0);
    if (!workers.ok() || !partial || !copies.ok() || !out_bias_) return kOutOfMemory;
    if (biased_) c_.plan.pad(out_bias_.template get<A>(), static_cast<const A*>(c_.args.out_bias));
    prefer_huge_pages(out_, sizeof(A) * c_.args.num_dst * c_.plan.row);
    prefer_huge_pages(biased_, sizeof(A) * c_.args.num_dst * c_.plan.row);
    if (c_.plan.interleaved) interleave(copies.get<T>(), threads);
    if (alpha_ && c_.args.num_ids != rows_.num_edges)
      memset(alpha_, 0, sizeof(A) * c_.args.num_ids * c_.plan.heads);

    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      w.tile.next_begin = -1;
      for_each_part(
          rows_, items, item, c_.short_row(),
          [&](int64_t first, int64_t last) { short_rows(w, first, last); },
          [&](int64_t row, int64_t begin, int64_t end) {
            if (begin == end) return put_empty(row);
            row_sums(w, row, begin, end);
            finish(w, row);
            if (alpha_) put_alpha(w, begin, end);
          },
          [&](int64_t number, const Piece& piece) {
            row_sums(w, piece.row, piece.begin, piece.end);
            const PieceSums to = sums_of(partial.get<A>(), number);
            memcpy(to.max, w.max, sizeof(A) * c_.scores.spread_size());
            memcpy(to.weights, w.weights, sizeof(A) * c_.scores.spread_size());
            memcpy(to.sum, w.sum_a, sizeof(A) * c_.plan.padded_row);
          });
    });
    parallel_for(rows_.end_cut, min_of(threads, items.count()), [&](int64_t cut, int64_t thread) {
      merge(workers[thread], rows_.cut(cut), partial.get<A>());
    });
    if (alpha_)
      parallel_for(rows_.end_piece(), min_of(threads, items.count()),
                   [&](int64_t number, int64_t thread) {
                     Worker<T>& w = workers[thread];
                     const PieceSums from = sums_of(partial.get<A>(), number);
                     memcpy(w.max, from.max, sizeof(A) * c_.scores.spread_size());
                     memcpy(w.scale, from.scale, sizeof(A) * c_.scores.spread_size());
                     put_alpha(w, rows_.piece(number).begin, rows_.piece(number).end);
                   });
    return kOk;
  }

 private:
  // A row is copied once and gathered about num_edges / num_src times. Forward with against
  // without, on 1M edges to 20,000 nodes: 4x20 (5 vectors for 8) 0.64, 3x20 (5 for 6) 0.71, 8x12
  // 0.74, but 8x16 (as many) 1.1; to 50,000 nodes 3x20 1.12; on 64,000 edges to 2,000 nodes, whose
  // copies stay in the second cache, 8x16 0.65, 8x8 0.83, to 8,000 nodes all 1.05 to 1.6; 3x20,
  // 4x20 and 8x12 0.83 to 0.93 to 5,333 nodes, 0.95 to 1 to 6,400 nodes, and 1.05 to 1.11 to 8,000.
  // Against flat rows on 1M edges to 20,000 nodes: 4x20 0.92, 3x20 0.86, 8x12 0.75; to 5,333
  // nodes 1.1, 1.05, 0.89; to 2,000 0.96 to 1.02. Against flat rows of narrow heads on 64,000
  // edges: 8x5 1.9 to 6,400 nodes, 1.3 to 4,000, 1.0 to 1,000; 4x9, 3x10, 5x5 1.05 to 1.2 to 2,000.
  static bool interleaving_pays(const Arguments& args) {
    if (args.heads < 2 || args.heads > W || args.edge_dim != 0 || args.negative_slope > 1)
      return false;
    const int heads = (int)args.heads, channels = (int)args.channels;
    const Plan<A> by_head(heads, channels, 1, false), copy(heads, channels, 1, true);
    if (by_head.flat && by_head.flat_heads.quarters() == 0) return false;
    const bool fewer = copy.padded_row < by_head.row_apart();
    const bool cached = args.num_src * copy.padded_row * (int64_t)sizeof(T) <= kInCaches;
    const int64_t edges = Rows(args.by_dst, args.wide_index, args.num_dst).num_edges;
    if (!fewer && !cached) return false;
    return edges > 0 && edges >= args.num_src * (!cached ? 32 : fewer ? 10 : 24);
  }
  void interleave(T* to, int64_t threads) {
    const int64_t rows = c_.args.num_src, block = 256;
    parallel_for((rows + block - 1) / block, threads, [&](int64_t item, int64_t) {
      for (int64_t row = item * block; row < min_of(rows, (item + 1) * block); ++row)
        c_.plan.interleave(to + row * c_.plan.gathered, x_src_ + row * c_.plan.row);
    });
    gathered_ = to;
  }

  // What a piece of a long row leaves, and what the merge of its row adds.
  struct PieceSums {
    A* max;      // [spread]; after the merge the row's
    A* weights;  // [spread]
    A* sum;      // a padded row
    A* factor;   // [spread]: brings the piece's sums to the row's maximum
    A* scale;    // [spread]: 1 / the row's denominator
  };
  size_t partial_size() const { return 4 * c_.scores.spread_size() + c_.plan.padded_row; }
  PieceSums sums_of(A* partial, int64_t piece) const {
    const int spread = c_.scores.spread_size();
    A* const max = partial + piece * partial_size();
    A* const sum = max + 2 * spread;
    A* const factor = sum + c_.plan.padded_row;
    return {max, max + spread, sum, factor, factor + spread};
  }

  void put_empty(int64_t row) const {
    if (out_) memset(out_ + row * c_.plan.row, 0, sizeof(A) * c_.plan.row);
    if (biased_) memcpy(biased_ + row * c_.plan.row, c_.args.out_bias, sizeof(A) * c_.plan.row);
    for (int h = 0; h < c_.plan.heads; ++h) lse_[row * c_.plan.heads + h] = -(A)__builtin_inf();
  }

  // (2), (3) of rows [first, last).
  void short_rows(Worker<T>& w, int64_t first, int64_t last) const {
    read_batch(c_, w, rows_, first, last, gathered_, c_.dropout.active || alpha_);
    read_own(c_, w, x_dst_ + first * c_.plan.row);
    const int n = w.tile.n, count = w.tile.num_rows;
    const ShortRows<T> rows(c_.scores, w.tile);
    if (n > 0) {
      score_tile<kForward, kShortRows>(c_, w, w.s, w.d);
      A* s = w.s;
      const bool shifted = !rows.near_zero(s);
      if (shifted) {
        rows.find_shifts(s, w.shifts);
        c_.bias.make_finite(w.shifts, count * c_.plan.head_stride, c_.bias.kLowest);
        rows.subtract(s, w.shifts, w.products);
        s = w.products;
      }
      for (int k = 0; k < c_.scores.vectors(n); ++k) store(s + k * W, exp(load(s + k * W)));
      rows.add_up(s, w.row_sum);
      put_lse(w, first, count, shifted ? w.shifts : nullptr);
      rows.multiply(s, w.row_sum, w.alpha);
      if (c_.dropout.active) {
        c_.dropout.fill(w.keep, n, c_.plan.heads, c_.plan.head_stride, w.ids);
        for (int k = 0; k < c_.scores.vectors(n); ++k)
          store(w.alpha + k * W, load(w.alpha + k * W) * load(w.keep + k * W));
      }
      if (alpha_)
        for (int e = 0; e < n; ++e)
          memcpy(alpha_ + w.ids[e] * c_.plan.heads, w.alpha + e * c_.plan.head_stride,
                 sizeof(A) * c_.plan.heads);
      const int64_t at = first * c_.plan.row;
      const ForwardOut<A> out{out_ ? out_ + at : nullptr, biased_ ? biased_ + at : nullptr,
                              out_bias_.template get<A>(), c_.plan.row, past_caches_};
      c_.each_segment([&](const MicroTable<T>* m, const Segment& segment) GATV2_LAMBDA_INLINE {
        m->forward_rows(w.tile, segment, w.common, w.alpha, out);
      });
    }
    for (int r = 0; r < count; ++r)
      if (w.tile.begin[r] == w.tile.begin[r + 1]) put_empty(first + r);
  }
  // lse of short rows, whose scores were taken less `shifts`, if these are not null; leaves 1 / the
  // denominators in w.row_sum.
  void put_lse(Worker<T>& w, int64_t first, int count, const A* shifts) const {
    for (int k = 0; k < count * c_.plan.head_stride; k += W) {
      const V total = load(w.row_sum + k);
      store(w.lse_of_rows + k, c_.bias.log_sum(shifts ? load(shifts + k) : V{}, total));
      store(w.row_sum + k, c_.bias.inverse(total));
    }
    const int heads = c_.plan.heads, stride = c_.plan.head_stride;
    c_.scores.copy_heads(lse_ + first * heads, heads, w.lse_of_rows, stride, count);
  }

  // (2), (3) before normalisation: sum_a = sum_e keep_e exp(s_e - max) x_src[j].
  void row_sums(Worker<T>& w, int64_t row, int64_t begin, int64_t end) const {
    open_tiles<T>(w.tile.own, c_.own(w.own, x_dst_ + row * c_.plan.row));
    c_.prefetch_row(x_dst_ + (row + 1) * c_.plan.row);
    const RunningSoftmax<A> softmax{w.max, w.weights};
    softmax.reset(c_.scores, c_.bias ? c_.bias.kLowest : -(A)__builtin_inf());
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, rows_, p, n, p > begin, gathered_, c_.dropout.active || alpha_);
      score_tile<kForward, kOneRow>(c_, w, w.s, w.d);
      if (alpha_)
        for (int e = 0; e < n; ++e)
          memcpy(alpha_ + w.ids[e] * c_.plan.heads, w.s + e * c_.plan.head_stride,
                 sizeof(A) * c_.plan.heads);
      softmax.add(c_.scores, w.s, n, w.scale);
      if (c_.dropout.active) {
        c_.dropout.fill(w.keep, n, c_.plan.heads, c_.plan.head_stride, w.ids);
        for (int k = 0; k < n * c_.plan.head_stride; k += W)
          store(w.s + k, load(w.s + k) * load(w.keep + k));
      }
      c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
        m->accumulate_forward(w.tile, s, w.common, w.s, p == begin ? nullptr : w.scale, w.sum_a);
      });
    }
  }

  // Normalises; leaves 1 / denominator in w.scale.
  void finish(Worker<T>& w, int64_t row) const {
    for (int b = 0; b < c_.scores.blocks; ++b) {
      const V total = c_.scores.fold_sum(load(w.weights + b * W));
      store(w.scale + b * W, c_.bias.inverse(total));
      store(w.weights + b * W, c_.bias.log_sum(load(w.max + b * W), total));
    }
    memcpy(lse_ + row * c_.plan.heads, w.weights, sizeof(A) * c_.plan.heads);
    const int64_t at = row * c_.plan.row;
    if (out_) c_.put_row(out_ + at, w.sum_a, w.scale, past_caches_);
    if (biased_) put_biased(biased_ + at, w);
  }
  // (10) of a row, likewise.
  void put_biased(A* to, const Worker<T>& w) const {
    const A* const bias = static_cast<const A*>(c_.args.out_bias);
    if (c_.plan.interleaved) {
      c_.put_row(to, w.sum_a, w.scale, false);
      for (int64_t k = 0; k < c_.plan.row; ++k) to[k] += bias[k];
      return;
    }
    c_.plan.each_vector([&](const typename Plan<A>::Place& at) GATV2_LAMBDA_INLINE {
      const V x = load(w.sum_a + at.padded) * c_.plan.by_head(w.scale, at) +
                  load(out_bias_.template get<A>() + at.padded);
      if (past_caches_)
        store_past_caches(to + at.packed, x);
      else
        c_.plan.put(to + at.packed, x, at);
    });
  }

  // Turns the scores that row_sums left in alpha into keep_e alpha_e.
  void put_alpha(Worker<T>& w, int64_t begin, int64_t end) const {
    const int heads = c_.plan.heads, stride = c_.plan.head_stride;
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      for (int e = 0; e < n; ++e) {
        w.ids[e] = rows_.id(p + e);
        memcpy(w.s + e * stride, alpha_ + w.ids[e] * heads, sizeof(A) * heads);
      }
      if (c_.dropout.active) c_.dropout.fill(w.keep, n, heads, stride, w.ids);
      for (int k = 0; k < c_.scores.vectors(n); ++k) {
        const int b = k % c_.scores.blocks * W;
        V p = exp(load(w.s + k * W) - load(w.max + b)) * load(w.scale + b);
        if (c_.dropout.active) p *= load(w.keep + k * W);
        store(w.s + k * W, p);
      }
      for (int e = 0; e < n; ++e)
        memcpy(alpha_ + w.ids[e] * heads, w.s + e * stride, sizeof(A) * heads);
    }
  }

  // Adds the pieces of a long row in order, in double.
  void merge(Worker<T>& w, const Cut& cut, A* partial) const {
    const int n = c_.scores.spread_size();
    const int64_t first = cut.first_piece, last = cut.end_piece;
    auto piece = [&](int64_t p) { return sums_of(partial, p); };
    memcpy(w.max, piece(first).max, sizeof(A) * n);
    for (int64_t p = first + 1; p < last; ++p)
      for (int k = 0; k < n; k += W)
        store(w.max + k, max_of(load(piece(p).max + k), load(w.max + k)));
    for (int64_t p = first; p < last; ++p)
      for (int k = 0; k < n; k += W)
        store(piece(p).factor + k, exp(load(piece(p).max + k) - load(w.max + k)));
    for (int k = 0; k < n; ++k) {
      double sum = 0;
      for (int64_t p = first; p < last; ++p)
        sum += (double)piece(p).factor[k] * piece(p).weights[k];
      w.weights[k] = (A)sum;
    }
    for (int k = 0; k < c_.plan.padded_row; k += W) {
      double sum[W] = {};
      for (int64_t p = first; p < last; ++p)
        for (int i = 0; i < W; ++i)
          sum[i] += (double)piece(p).factor[c_.plan.head_of(k + i)] * piece(p).sum[k + i];
      for (int i = 0; i < W; ++i) w.sum_a[k + i] = (A)sum[i];
    }
    finish(w, cut.row);
    for (int64_t p = first; p < last; ++p) {
      memcpy(piece(p).max, w.max, sizeof(A) * n);
      memcpy(piece(p).scale, w.scale, sizeof(A) * n);
    }
  }

  const Context<T> c_;
  const Rows rows_;
  const T* const x_src_;
  const T* const x_dst_;
  const T* gathered_;      // rows of x_src, or their interleaved copies
  A* const out_;           // null where only biased_ is asked for
  A* const biased_;        // may be null
  const Buffer out_bias_;  // padded
  A* const lse_;
  A* const alpha_;
  const bool past_caches_;  // out
};

GATV2_END
