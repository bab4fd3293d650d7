// Backward by source: d x_src, from the records the pass by destination left.
#pragma once

#include "layout/records.h"
#include "passes/pass.h"

GATV2_BEGIN

template <class T>
class BySource {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;

 public:
  // grad: grad_out as a base and a stride.
  BySource(const Context<T>& c, const Rows& rows, const T* grad, int64_t grad_stride)
      : c_(c),
        all_(rows),
        grad_(grad),
        grad_stride_(grad_stride),
        d_x_src_(static_cast<T*>(c.args.d_x_src)),
        sum_(static_cast<A*>(c.args.sum_d_x_src)),
        apart_(c.args.src_blocks > 1 && sizeof(T) != sizeof(A)),
        partial_(sizeof(A) * rows.end_piece() * c.plan.padded_row),
        wide_(Scratch::kWideSums, apart_ ? sizeof(A) * c.args.num_src * c.plan.row : 0) {
    prefer_huge_pages(d_x_src_, sizeof(T) * c_.args.num_src * c_.plan.row);
  }
  bool ok() const { return partial_ && wide_.ok(); }

  // The edges from all sources to a range of destinations. From range to range the sums of a source
  // are kept in its row of d x_src, or where that is too narrow for them in a row of their own.
  int64_t run(int64_t block, const Workers<T>& workers, int64_t threads,
              const Records<A>& records) const {
    const Rows rows = all_.part(block * c_.args.num_src, (block + 1) * c_.args.num_src);
    const bool first = block == 0, last = block + 1 >= c_.args.src_blocks;
    if (apart_) return add(workers, threads, rows, first, last, records, wide_.template get<A>());
    return add(workers, threads, rows, first, last, records, d_x_src_);
  }
  void finish(int64_t threads) const {
    if (!apart_) return;
    const A* const from = wide_.template get<A>();
    const int64_t most = 256, size = c_.args.num_src * c_.plan.row;
    parallel_for(most, threads, [&](int64_t item, int64_t) {
      for (int64_t k = size * item / most; k < size * (item + 1) / most; ++k)
        from_float(from[k], d_x_src_[k]);
    });
  }

 private:
  // Adds the edges of some rows to the packed rows of their sources.
  template <class U>
  int64_t add(const Workers<T>& workers, int64_t threads, const Rows& rows, bool first, bool last,
              const Records<A>& records, U* sums) const {
    A* const partial = partial_.template get<A>();
    const int64_t row_size = c_.plan.padded_row;
    const bool past_caches = c_.past_caches(sums, c_.args.num_src);
    const Items items(rows, 256);
    // Of each item, once the rows are whole.
    const bool add_up = sum_ && last;
    const Buffer totals(add_up ? sizeof(double) * (items.count() + 1) * row_size : 0);
    if (!totals) return kOutOfMemory;
    memset(totals.get<double>(), 0, add_up ? sizeof(double) * (items.count() + 1) * row_size : 0);
    auto packed = [&](int64_t row) { return sums + (row - rows.first_row) * c_.plan.row; };
    parallel_for(items.count(), threads, [&](int64_t item, int64_t thread) {
      Worker<T>& w = workers[thread];
      w.tile.next_begin = -1;
      double* const total = add_up ? totals.get<double>() + item * row_size : nullptr;
      for_each_part(
          rows, items, item, kBatch,
          [&](int64_t first_row, int64_t end_row) {
            read_records(w, rows, first_row, end_row, records);
            const RowsOut<U> out{packed(first_row), c_.plan.row, !first, past_caches,
                                 add_up ? w.total : nullptr};
            if (!first) c_.prefetch_rows(packed(end_row), end_row - first_row);
            if (add_up) memset(w.total, 0, sizeof(A) * row_size);
            c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
              if constexpr (sizeof(U) == sizeof(T))
                m->source_rows(w.tile, s, w.common, out);
              else
                m->source_rows_wide(w.tile, s, w.common, out);
            });
            if (add_up) add_doubles_of(w.total, total);
          },
          [&](int64_t row, int64_t begin, int64_t end) {
            U* const to = packed(row);
            if (begin == end) {
              if (first) memset(to, 0, sizeof(U) * c_.plan.row);
              return;
            }
            start_sums(w, first ? nullptr : to);
            if (!first) c_.prefetch_row(to + c_.plan.row);
            source_sums(w, begin, end, records);
            c_.put_row(to, w.sum_a, nullptr, past_caches);
            if (add_up) add_doubles_of(w.sum_a, total);
          },
          [&](int64_t number, const Piece& piece) {
            start_sums<U>(w, nullptr);
            source_sums(w, piece.begin, piece.end, records);
            memcpy(partial + number * row_size, w.sum_a, sizeof(A) * row_size);
          });
    });
    parallel_for(rows.end_cut - rows.first_cut, threads, [&](int64_t k, int64_t thread) {
      Worker<T>& w = workers[thread];
      const Cut cut = rows.cut(rows.first_cut + k);
      U* const to = packed(cut.row);
      start_sums(w, first ? nullptr : to);
      for (int64_t k = 0; k < row_size; k += W) {
        double sum[W];
        for (int i = 0; i < W; ++i) sum[i] = (double)w.sum_a[k + i];
        for (int64_t p = cut.first_piece; p < cut.end_piece; ++p)
          for (int i = 0; i < W; ++i) sum[i] += (double)partial[p * row_size + k + i];
        for (int i = 0; i < W; ++i) w.sum_a[k + i] = (A)sum[i];
      }
      c_.put_row(to, w.sum_a, nullptr, past_caches);
    });
    if (!add_up) return kOk;
    double* const all = totals.get<double>() + items.count() * row_size;
    for (int64_t item = 0; item < items.count(); ++item)
      for (int64_t k = 0; k < row_size; ++k) all[k] += totals.get<double>()[item * row_size + k];
    for (int64_t k = rows.first_cut; k < rows.end_cut; ++k)
      c_.plan.add_rows(packed(rows.cut(k).row), 1, all);
    c_.plan.pack(sum_, all);
    return kOk;
  }
  void add_doubles_of(const A* row, double* to) const {
    for (int64_t k = 0; k < c_.plan.padded_row; k += W) add_doubles(to + k, load(row + k));
  }

  // sum_a = a packed row, or 0.
  template <class U>
  void start_sums(Worker<T>& w, const U* from) const {
    const size_t bytes = sizeof(A) * c_.plan.padded_row;
    if (!from)
      memset(w.sum_a, 0, bytes);
    else if (sizeof(U) == sizeof(A) && c_.plan.packed_is_padded())
      memcpy(w.sum_a, from, bytes);
    else
      c_.plan.pad(w.sum_a, from);
  }

  // The tile of all edges of short rows.
  void read_records(Worker<T>& w, const Rows& rows, int64_t first, int64_t last,
                    const Records<A>& records) const {
    begin_batch(w.tile, rows, first, last);
    if (w.tile.n == 0) return;
    const int64_t begin = rows.ptr[first];
    read_edges(w.tile, begin, kBatch, w.tile.next_begin == begin, records);
    w.tile.next_begin = begin + w.tile.n;
  }
  // Where the n edges from `begin` on have grad_out, their record and its bits.
  GATV2_INLINE void read_edges(Tile<T>& t, int64_t begin, int most, bool follows,
                               const Records<A>& records) const {
    const int64_t edges = all_.num_edges;
    const Slots slots(t.n, 1);
    fill_slots(t.rows, t.next_rows, all_.idx, edges, slots, begin, most, follows, grad_,
               grad_stride_);
    fill_slots(t.records, t.next_records, all_.positions(), edges, slots, begin, most, follows,
               (const A*)records.at(0), records.size());
    fill_slots(t.record_masks, t.next_record_masks, all_.positions(), edges, slots, begin, most,
               follows, (const uint8_t*)records.masks_at(0), records.mask_row());
    for (int e = 0; e < t.n; ++e) {
      prefetch(t.next_records[e]);
      prefetch(t.next_record_masks[e]);
    }
    for (int64_t k = 64 / sizeof(A); k < records.size(); k += 64 / sizeof(A))
      for (int e = 0; e < t.n; ++e) prefetch(t.next_records[e] + k);
    for (int64_t k = 64; k < records.mask_row(); k += 64)
      for (int e = 0; e < t.n; ++e) prefetch(t.next_record_masks[e] + k);
  }

  // (8) over some edges of a source, added to sum_a.
  void source_sums(Worker<T>& w, int64_t begin, int64_t end, const Records<A>& records) const {
    const int64_t size = c_.plan.padded_row;
    memset(w.sum_b, 0, sizeof(A) * size);
    for (int64_t p = begin; p < end; p += kTile) {
      w.tile.n = (int)min_of((int64_t)kTile, end - p);
      read_edges(w.tile, p, kTile, p > begin, records);
      c_.each_segment([&](const MicroTable<T>* m, const Segment& s) GATV2_LAMBDA_INLINE {
        m->accumulate_by_source(w.tile, s, w.common, w.sum_a, w.sum_b);
      });
    }
    for (int64_t k = 0; k < size; k += W)
      store(w.sum_a + k, fma(load(c_.att + k), load(w.sum_b + k), load(w.sum_a + k)));
  }

  const Context<T>& c_;
  const Rows& all_;
  const T* const grad_;
  const int64_t grad_stride_;
  T* const d_x_src_;
  A* const sum_;  // (11) of d x_src; may be null
  const bool apart_;
  const Buffer partial_;  // of each piece: a padded row
  const Scratch wide_;
};

GATV2_END
