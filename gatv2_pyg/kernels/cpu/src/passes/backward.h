// Backward, by range of destinations: the edges by destination, then the same edges by source.
#pragma once

#include "passes/by_destination.h"
#include "passes/by_source.h"

GATV2_BEGIN

template <class T>
class Backward {
  using A = Acc<T>;

 public:
  // `wide`: d edge_attr is kept in A, to be added to that of other elements.
  explicit Backward(const Arguments& args, bool wide = false)
      : c_(args, kByDestination),
        wide_(wide),
        by_dst_(args.by_dst, args.wide_index, args.num_dst),
        by_src_(args.by_src, args.wide_index, args.d_x_src ? args.num_src * args.src_blocks : 0) {}

  int64_t run() {
    if (!c_.ok()) return kOutOfMemory;
    // Without rows there is no pass to write them.
    void* const sums[] = {c_.args.sum_grad_out, c_.args.sum_d_x_src, c_.args.sum_d_x_dst};
    for (void* sum : sums)
      if (sum) memset(sum, 0, sizeof(A) * c_.plan.row);
    const bool records_needed = c_.args.d_x_src || c_.bias.gradient();
    const int64_t threads = min_of(c_.threads_for(by_dst_.num_edges), (int64_t)256);
    const Workers<T> workers(c_, threads, records_needed ? longest_row() : 0);
    ByDestination<T> by_destination(c_, by_dst_, wide_);
    if (!workers.ok() || !by_destination.ok()) return kOutOfMemory;
    if (!records_needed) {
      const int64_t status = by_destination.run(by_dst_, workers, threads, nullptr);
      if (status == kOk) by_destination.finish();
      return status;
    }
    Records<A> records(c_.plan, c_.scores, largest_block());
    const BySource<T> by_source(c_, by_src_, by_destination.grad_base(),
                                by_destination.grad_stride());
    if (!records.ok() || !by_source.ok()) return kOutOfMemory;
    for (int64_t block = 0; block < blocks(); ++block) {
      const Rows rows = by_dst_.part(first_row(block), first_row(block + 1));
      records.begin_at(rows.first_row < c_.args.num_dst ? by_dst_.ptr[rows.first_row]
                                                        : by_dst_.num_edges);
      const int64_t status = by_destination.run(rows, workers, threads, &records);
      if (status != kOk) return status;
      if (!c_.args.d_x_src) continue;
      const int64_t by_src = by_source.run(block, workers, threads, records);
      if (by_src != kOk) return by_src;
    }
    by_destination.finish();
    if (c_.args.d_x_src) by_source.finish(threads);
    return kOk;
  }

 private:
  // Ranges of destinations: one where no gradient goes by source.
  int64_t blocks() const { return max_of((int64_t)1, c_.args.src_blocks); }
  // The destinations of a block; see transpose in group.cpp.
  int64_t first_row(int64_t block) const {
    return min_of(c_.args.num_dst, (c_.args.num_dst + blocks() - 1) / blocks() * block);
  }
  int64_t largest_block() const {
    int64_t most = 0;
    for (int64_t block = 0; block < blocks(); ++block)
      if (c_.args.num_dst)
        most = max_of(most, by_dst_.ptr[first_row(block + 1)] - by_dst_.ptr[first_row(block)]);
    return most;
  }
  // Edges of a row or of a piece of a long one.
  int64_t longest_row() const {
    int64_t most = 0;
    by_dst_.ptr.typed([&](const auto* ptr) {
      const int64_t num_dst = c_.args.num_dst, cuts = by_dst_.end_cut;
      for (int64_t cut = 0, row = 0; cut <= cuts; ++cut) {
        const int64_t end = cut < cuts ? min_of(by_dst_.cut(cut).row, num_dst) : num_dst;
        for (; row < end; ++row) most = max_of(most, (int64_t)(ptr[row + 1] - ptr[row]));
        row = max_of(row, end + 1);
      }
    });
    for (int64_t piece = 0; piece < by_dst_.end_piece(); ++piece)
      most = max_of(most, by_dst_.piece(piece).end - by_dst_.piece(piece).begin);
    return most;
  }

  const Context<T> c_;
  const bool wide_;
  const Rows by_dst_, by_src_;
};

GATV2_END
