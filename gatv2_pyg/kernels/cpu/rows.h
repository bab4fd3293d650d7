// Grouped edges, how the work over them is cut, and the tiles a row is read in.
#pragma once

#include "abi.h"
#include "micro.h"

GATV2_BEGIN

class Index {
 public:
  Index(const void* data, bool wide) : data_(data), wide_(wide) {}
  GATV2_INLINE int64_t operator[](int64_t i) const {
    return wide_ ? static_cast<const int64_t*>(data_)[i] : static_cast<const int32_t*>(data_)[i];
  }
  explicit operator bool() const { return data_ != nullptr; }
  // out[k] = base + this[clamp(begin + k)] * stride, k < n
  template <class T>
  GATV2_INLINE void rows(const T** out, int64_t begin, int n, int64_t last, const T* base, int64_t stride) const {
    if (begin + n - 1 > last) {
      for (int k = 0; k < n; ++k) out[k] = base + (*this)[min_of(begin + k, last)] * stride;
    } else if (wide_) {
      const int64_t* p = static_cast<const int64_t*>(data_) + begin;
      for (int k = 0; k < n; ++k) out[k] = base + p[k] * stride;
    } else {
      const int32_t* p = static_cast<const int32_t*>(data_) + begin;
      for (int k = 0; k < n; ++k) out[k] = base + (int64_t)p[k] * stride;
    }
  }

 private:
  const void* data_;
  bool wide_;
};

struct Rows {
  Index ptr, idx, eid, pieces, cuts;
  int64_t num_rows, num_pieces, num_cuts, num_edges;

  Rows(const GroupedEdges& g, bool wide, int64_t n)
      : ptr(g.ptr, wide), idx(g.idx, wide), eid(g.eid, wide), pieces(g.pieces, wide), cuts(g.cuts, wide),
        num_rows(n), num_pieces(0), num_cuts(g.num_cuts), num_edges(n ? ptr[n] : 0) {
    // Tables whose size may not depend on data end in entries of row -1.
    while (num_cuts > 0 && cuts[3 * num_cuts - 3] < 0) --num_cuts;
    if (num_cuts > 0) num_pieces = cuts[3 * num_cuts - 1];
  }

  int64_t id(int64_t position) const { return eid ? eid[position] : position; }
  // First long row at or after `row`, as an index into cuts.
  int64_t first_cut(int64_t row) const {
    int64_t lo = 0, hi = num_cuts;
    while (lo < hi) {
      const int64_t mid = (lo + hi) / 2;
      if (cuts[3 * mid] < row) lo = mid + 1; else hi = mid;
    }
    return lo;
  }
};

// The work is cut into items that depend on the graph alone: groups of consecutive pieces of long rows,
// then ranges of rows of about equal cost (a row costs as much as an edge). Sums over edges are kept per
// item and added in order of items.
class Items {
 public:
  Items(const Rows& rows, int64_t most) : rows_(rows) {
    const int64_t cost = rows.num_edges + rows.num_rows;
    ranges_ = max_of((int64_t)1, min_of(most, cost / 2048));
    groups_ = min_of(most, rows.num_pieces);
  }
  int64_t count() const { return groups_ + ranges_; }
  // True: pieces [begin, end). False: rows [begin, end), long rows among them to be left out.
  bool is_pieces(int64_t item, int64_t& begin, int64_t& end) const {
    if (item < groups_) {
      begin = rows_.num_pieces * item / groups_;
      end = rows_.num_pieces * (item + 1) / groups_;
      return true;
    }
    begin = range_begin(item - groups_);
    end = range_begin(item - groups_ + 1);
    return false;
  }

 private:
  int64_t range_begin(int64_t k) const {
    if (k >= ranges_) return rows_.num_rows;
    const int64_t cost = rows_.num_edges + rows_.num_rows;
    const int64_t target = cost / ranges_ * k;
    int64_t lo = 0, hi = rows_.num_rows;
    while (lo < hi) {
      const int64_t mid = (lo + hi) / 2;
      if (rows_.ptr[mid] + mid < target) lo = mid + 1; else hi = mid;
    }
    return lo;
  }
  const Rows& rows_;
  int64_t ranges_, groups_;
};

// Calls short_row(row, begin, end) and piece(piece, row, begin, end) for what an item holds.
template <class ShortRow, class Piece>
void for_each_part(const Rows& rows, const Items& items, int64_t item, const ShortRow& short_row, const Piece& piece) {
  int64_t begin, end;
  if (items.is_pieces(item, begin, end)) {
    for (int64_t p = begin; p < end; ++p) piece(p, rows.pieces[3 * p], rows.pieces[3 * p + 1], rows.pieces[3 * p + 2]);
    return;
  }
  int64_t cut = rows.first_cut(begin);
  int64_t from = begin < end ? rows.ptr[begin] : 0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t to = rows.ptr[row + 1];
    if (cut < rows.num_cuts && rows.cuts[3 * cut] == row) ++cut;
    else short_row(row, from, to);
    from = to;
  }
}

// Edges [begin, begin + n) of a row: where their other ends lie in `base`, and the rows to
// prefetch. The slots a micro-kernel may read past n repeat the last edge. A tile that follows a full one
// of its row finds there what it had prefetched.
template <class T>
GATV2_INLINE void fill_slots(const T** out, const T** next, const Rows& rows, int group, int64_t begin, int n,
                             bool follows, const T* base, int64_t stride) {
  static_assert(kAhead == kTile, "the rows prefetched are those of the next tile");
  const int slots = (n + group - 1) / group * group;
  const int64_t last = rows.num_edges - 1;
  if (follows) memcpy(out, next, kTile * sizeof *out);
  else rows.idx.rows(out, begin, n, last, base, stride);
  rows.idx.rows(next, begin + kAhead, slots, last, base, stride);
  for (int k = n; k < slots; ++k) out[k] = out[n - 1];
}

GATV2_END
