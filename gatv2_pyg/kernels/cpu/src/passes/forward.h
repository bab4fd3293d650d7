// Forward, by destination: one pass over the gathered rows with a running softmax.
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
      : c_(args, interleaving_pays(args)),
        rows_(args.by_dst, args.wide_index, args.num_dst),
        x_src_(static_cast<const T*>(args.x_src)),
        x_dst_(static_cast<const T*>(args.x_dst)),
        gathered_(x_src_),
        out_(static_cast<A*>(args.out)),
        lse_(static_cast<A*>(args.lse)),
        alpha_(static_cast<A*>(args.alpha)),
        past_caches_(c_.past_caches(out_, args.num_dst)) {}

  int64_t run() {
    if (!c_.ok()) return kOutOfMemory;
    const int64_t threads = c_.threads_for(rows_.num_edges);
    const Items items(rows_, 256);
    const Workers<T> workers(c_, min_of(threads, items.count()));
    const Buffer partial(sizeof(A) * rows_.end_piece() * partial_size());
    const Scratch copies(c_.plan.interleaved ? sizeof(T) * c_.args.num_src * c_.plan.gathered : 0);
    if (!workers.ok() || !partial || (c_.plan.interleaved && !copies.get<T>())) return kOutOfMemory;
    prefer_huge_pages(out_, sizeof(A) * c_.args.num_dst * c_.plan.row);
    if (c_.plan.interleaved) interleave(copies.get<T>(), threads);
    if (alpha_ && c_.args.num_ids != rows_.num_edges)
      memset(alpha_, 0, sizeof(A) * c_.args.num_ids * c_.plan.heads);

    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      for_each_part(
          rows_, items, item,
          [&](int64_t row, int64_t begin, int64_t end) {
            if (begin == end) return put_empty(row);
            row_sums(w, row, begin, end);
            finish(w, row);
            if (alpha_) put_alpha(w, begin, end);
          },
          [&](int64_t piece, int64_t row, int64_t begin, int64_t end) {
            row_sums(w, row, begin, end);
            A* const to = partial.get<A>() + piece * partial_size();
            const int n = c_.lanes.spread_size();
            memcpy(to, w.max, sizeof(A) * n);
            memcpy(to + n, w.denominator, sizeof(A) * n);
            memcpy(to + 2 * n, w.sum_a, sizeof(A) * c_.plan.padded_row);
          });
    });
    parallel_for(rows_.end_cut, min_of(threads, items.count()), [&](int64_t cut, int64_t thread) {
      merge(workers[thread], cut, partial.get<A>());
    });
    if (alpha_)
      parallel_for(
          rows_.end_piece(), min_of(threads, items.count()), [&](int64_t piece, int64_t thread) {
            Worker<T>& w = workers[thread];
            const A* from = partial.get<A>() + piece * partial_size();
            memcpy(w.max, from, sizeof(A) * c_.lanes.spread_size());
            memcpy(w.scale, from + c_.lanes.spread_size(), sizeof(A) * c_.lanes.spread_size());
            put_alpha(w, rows_.pieces[3 * piece + 1], rows_.pieces[3 * piece + 2]);
          });
    return kOk;
  }

 private:
  // A row is copied once and gathered about num_edges / num_src times. Heads of whole vectors gain
  // where the copies stay in the caches; heads that leave lanes empty gain more.
  static bool interleaving_pays(const Arguments& args) {
    if (args.heads < 2 || args.heads > W || args.edge_dim != 0 || args.negative_slope > 1)
      return false;
    const int64_t edges = Rows(args.by_dst, args.wide_index, args.num_dst).num_edges;
    const bool narrow = args.channels % W != 0;
    const bool small = args.num_src * args.heads * args.channels * sizeof(T) <= Scratch::kMost;
    if (!small && !narrow) return false;
    return edges > 0 && edges >= args.num_src * (small && narrow ? 8 : 32);
  }
  void interleave(T* to, int64_t threads) {
    const int64_t rows = c_.args.num_src, block = 256;
    parallel_for((rows + block - 1) / block, threads, [&](int64_t item, int64_t) {
      for (int64_t row = item * block; row < min_of(rows, (item + 1) * block); ++row)
        c_.plan.interleave(to + row * c_.plan.gathered, x_src_ + row * c_.plan.row);
    });
    gathered_ = to;
  }

  // A piece's maximum, denominator and sum; after the merge its row's maximum and 1 / denominator.
  size_t partial_size() const { return 2 * c_.lanes.spread_size() + c_.plan.padded_row; }

  void put_empty(int64_t row) const {
    memset(out_ + row * c_.plan.row, 0, sizeof(A) * c_.plan.row);
    for (int h = 0; h < c_.plan.heads; ++h) lse_[row * c_.plan.heads + h] = -(A)__builtin_inf();
  }

  // (2), (3) before normalisation: sum_a = sum_e keep_e exp(s_e - max) x_src[j].
  void row_sums(Worker<T>& w, int64_t row, int64_t begin, int64_t end) const {
    w.row.own = c_.padded(w.own, x_dst_ + row * c_.plan.row);
    c_.prefetch_row(x_dst_ + (row + 1) * c_.plan.row);
    const RunningSoftmax<A> softmax{w.max, w.denominator};
    softmax.reset(c_.lanes);
    for (int64_t p = begin; p < end; p += kTile) {
      const int n = (int)min_of((int64_t)kTile, end - p);
      read_tile(c_, w, rows_, p, n, p > begin, gathered_, c_.dropout.active || alpha_);
      score_tile<kForward>(c_, w, w.s, w.d);
      if (alpha_)
        for (int e = 0; e < n; ++e)
          memcpy(alpha_ + w.ids[e] * c_.plan.heads, w.s + e * c_.plan.head_stride,
                 sizeof(A) * c_.plan.heads);
      softmax.add(c_.lanes, w.s, n, w.scale);
      if (c_.dropout.active) {
        c_.dropout.fill(w.keep, n, c_.plan.heads, c_.plan.head_stride, w.ids);
        for (int k = 0; k < n * c_.plan.head_stride; k += W)
          store(w.s + k, load(w.s + k) * load(w.keep + k));
      }
      c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
        m->accumulate_forward(w.tile, s, w.row, w.s, p == begin ? nullptr : w.scale, w.sum_a);
      });
    }
  }

  // Normalises; leaves 1 / denominator in w.scale.
  void finish(Worker<T>& w, int64_t row) const {
    for (int b = 0; b < c_.lanes.blocks; ++b) {
      const V total = c_.lanes.fold_sum(load(w.denominator + b * W));
      store(w.scale + b * W, (A)1 / total);
      store(w.denominator + b * W, load(w.max + b * W) + log<A>(total));
    }
    memcpy(lse_ + row * c_.plan.heads, w.denominator, sizeof(A) * c_.plan.heads);
    c_.put_row(out_ + row * c_.plan.row, w.sum_a, w.scale, past_caches_);
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
      for (int k = 0; k < c_.lanes.vectors(n); ++k) {
        const int b = k % c_.lanes.blocks * W;
        V p = exp(load(w.s + k * W) - load(w.max + b)) * load(w.scale + b);
        if (c_.dropout.active) p *= load(w.keep + k * W);
        store(w.s + k * W, p);
      }
      for (int e = 0; e < n; ++e)
        memcpy(alpha_ + w.ids[e] * heads, w.s + e * stride, sizeof(A) * heads);
    }
  }

  // Adds the pieces of a long row in order, in double.
  void merge(Worker<T>& w, int64_t cut, A* partial) const {
    const int64_t row = rows_.cuts[3 * cut], first = rows_.cuts[3 * cut + 1],
                  last = rows_.cuts[3 * cut + 2];
    const int n = c_.lanes.spread_size();
    auto piece = [&](int64_t p) { return partial + p * partial_size(); };
    memcpy(w.max, piece(first), sizeof(A) * n);
    for (int64_t p = first + 1; p < last; ++p)
      for (int k = 0; k < n; k += W) store(w.max + k, max_of(load(piece(p) + k), load(w.max + k)));
    // Each piece's maximum becomes the factor that brings its sums to the row's maximum.
    for (int64_t p = first; p < last; ++p)
      for (int k = 0; k < n; k += W) store(piece(p) + k, exp(load(piece(p) + k) - load(w.max + k)));
    for (int k = 0; k < n; ++k) {
      double sum = 0;
      for (int64_t p = first; p < last; ++p) sum += (double)piece(p)[k] * piece(p)[n + k];
      w.denominator[k] = (A)sum;
    }
    for (int k = 0; k < c_.plan.padded_row; k += W) {
      double sum[W] = {};
      for (int64_t p = first; p < last; ++p)
        for (int i = 0; i < W; ++i)
          sum[i] += (double)piece(p)[c_.plan.head_of(k + i)] * piece(p)[2 * n + k + i];
      for (int i = 0; i < W; ++i) w.sum_a[k + i] = (A)sum[i];
    }
    finish(w, row);
    for (int64_t p = first; p < last; ++p) {
      memcpy(piece(p), w.max, sizeof(A) * n);
      memcpy(piece(p) + n, w.scale, sizeof(A) * n);
    }
  }

  const Context<T> c_;
  const Rows rows_;
  const T* const x_src_;
  const T* const x_dst_;
  const T* gathered_;  // rows of x_src, or their interleaved copies
  A* const out_;
  A* const lse_;
  A* const alpha_;
  const bool past_caches_;  // out
};

GATV2_END
