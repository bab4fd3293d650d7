// Grouped edges, how the work over them is cut, and the tiles a row is read in.
#pragma once

#include "abi.h"
#include "layout/tile.h"

GATV2_BEGIN

class Index {
 public:
  Index(const void* data, bool wide) : data_(data), wide_(wide) {}
  GATV2_INLINE int64_t operator[](int64_t i) const {
    return wide_ ? static_cast<const int64_t*>(data_)[i] : static_cast<const int32_t*>(data_)[i];
  }
  explicit operator bool() const { return data_ != nullptr; }
  // Calls f(pointer to int32_t or int64_t).
  template <class F>
  GATV2_INLINE void typed(const F& f) const {
    wide_ ? f(static_cast<const int64_t*>(data_)) : f(static_cast<const int32_t*>(data_));
  }
  // out[k] = base + this[clamp(begin + k)] * stride, k < n; up to a multiple of kWordLanes are
  // written.
  template <class T>
  GATV2_INLINE void rows(const T** out, int64_t begin, int n, int64_t last, const T* base,
                         int64_t stride) const {
    const bool near = (uint64_t)stride * sizeof(T) <= 0xFFFFFFFFu;
    if (wide_ || !near || begin + n + kWordLanes > last) {
      for (int k = 0; k < n; ++k) out[k] = base + (*this)[min_of(begin + k, last)] * stride;
      return;
    }
    typedef int32_t Indices __attribute__((vector_size(kVectorBytes / 2)));
    const int32_t* p = static_cast<const int32_t*>(data_) + begin;
    for (int k = 0; k < n; k += kWordLanes) {
      Indices index;
      memcpy(&index, p + k, sizeof index);
      const Words offset = multiply_low_halves(__builtin_convertvector(index, Words),
                                               (uint32_t)(stride * sizeof(T)));
      const Words address = offset + (uint64_t)(uintptr_t)base;
      memcpy(out + k, &address, sizeof address);
    }
  }

 private:
  const void* data_;
  bool wide_;
};

// A piece of a long row: edges [begin, end).
struct Piece {
  int64_t row, begin, end;
};

// A long row: pieces [first_piece, end_piece).
struct Cut {
  int64_t row, first_piece, end_piece;
};

// Grouped edges, or a range of their rows.
class Rows {
 public:
  Index ptr, idx;
  int64_t first_row, end_row, first_cut, end_cut;
  int64_t num_edges;  // of all rows, those outside [first_row, end_row) too

  Rows(const GroupedEdges& g, bool wide, int64_t num_rows)
      : ptr(g.ptr, wide),
        idx(g.idx, wide),
        first_row(0),
        end_row(num_rows),
        first_cut(0),
        end_cut(g.num_cuts),
        num_edges(num_rows ? ptr[num_rows] : 0),
        edge_(g.edge, wide),
        pieces_(g.pieces, wide),
        cuts_(g.cuts, wide) {
    // Tables whose size may not depend on data end in entries of row -1.
    while (end_cut > 0 && cut(end_cut - 1).row < 0) --end_cut;
  }
  // Rows [first, end) of these.
  Rows part(int64_t first, int64_t end) const {
    Rows rows = *this;
    rows.first_row = first;
    rows.end_row = end;
    rows.first_cut = cut_from(first);
    rows.end_cut = cut_from(end);
    return rows;
  }

  // By destination: the id of the edge at a position.
  int64_t id(int64_t position) const { return edge_ ? edge_[position] : position; }
  // Calls f(position, id, the id kAhead positions on) for positions [begin, end).
  template <class F>
  GATV2_INLINE void each_id(int64_t begin, int64_t end, const F& f) const {
    if (!edge_) {
      for (int64_t p = begin; p < end; ++p) f(p, p, p);
      return;
    }
    edge_.typed([&](const auto* ids) GATV2_LAMBDA_INLINE {
      const int64_t last = end - 1;
      for (int64_t p = begin; p < end; ++p)
        f(p, (int64_t)ids[p], (int64_t)ids[min_of(p + kAhead, last)]);
    });
  }
  // By source: where the edges stand by destination.
  const Index& positions() const { return edge_; }
  Piece piece(int64_t k) const { return {pieces_[3 * k], pieces_[3 * k + 1], pieces_[3 * k + 2]}; }
  Cut cut(int64_t k) const { return {cuts_[3 * k], cuts_[3 * k + 1], cuts_[3 * k + 2]}; }
  // Work in units of an edge; a row costs as much as an edge.
  int64_t cost(int64_t row) const { return ptr[row] - ptr[first_row] + row - first_row; }
  int64_t cost() const { return end_row > first_row ? cost(end_row) : 0; }
  int64_t first_piece() const { return end_cut > 0 ? pieces_before(first_cut) : 0; }
  int64_t end_piece() const { return end_cut > 0 ? pieces_before(end_cut) : 0; }
  int64_t pieces_before(int64_t k) const { return k > 0 ? cut(k - 1).end_piece : 0; }
  // First long row at or after `row`, as an index into cuts.
  int64_t cut_from(int64_t row) const {
    int64_t lo = first_cut, hi = end_cut;
    while (lo < hi) {
      const int64_t mid = (lo + hi) / 2;
      if (cuts_[3 * mid] < row)
        lo = mid + 1;
      else
        hi = mid;
    }
    return lo;
  }
  bool is_cut(int64_t k, int64_t row) const { return k < end_cut && cuts_[3 * k] == row; }

 private:
  static constexpr int64_t kAhead = 32;
  Index edge_, pieces_, cuts_;
};

// The work is cut into items that depend on the graph alone: groups of consecutive pieces of long
// rows, then ranges of rows of about equal cost. Sums over edges are kept per item and added in
// order of items.
class Items {
 public:
  Items(const Rows& rows, int64_t most) : rows_(rows) {
    ranges_ = max_of((int64_t)1, min_of(most, rows.cost() / 1024));
    groups_ = min_of(most, num_pieces());
  }
  int64_t count() const { return groups_ + ranges_; }
  // True: pieces [begin, end). False: rows [begin, end), long rows among them to be left out.
  bool is_pieces(int64_t item, int64_t& begin, int64_t& end) const {
    if (item < groups_) {
      begin = rows_.first_piece() + num_pieces() * item / groups_;
      end = rows_.first_piece() + num_pieces() * (item + 1) / groups_;
      return true;
    }
    begin = range_begin(item - groups_);
    end = range_begin(item - groups_ + 1);
    return false;
  }

 private:
  int64_t num_pieces() const { return rows_.end_piece() - rows_.first_piece(); }
  int64_t range_begin(int64_t k) const {
    if (k >= ranges_) return rows_.end_row;
    const int64_t target = rows_.cost() / ranges_ * k;
    int64_t lo = rows_.first_row, hi = rows_.end_row;
    while (lo < hi) {
      const int64_t mid = (lo + hi) / 2;
      if (rows_.cost(mid) < target)
        lo = mid + 1;
      else
        hi = mid;
    }
    return lo;
  }
  const Rows& rows_;
  int64_t ranges_, groups_;
};

// Calls short_rows(begin, end) for consecutive rows of at most `longest` edges each and kBatch
// together, whole_row(row, begin, end) for rows with more, and piece(its number, piece), for what
// an item holds. Where a pass takes rows of up to kBatch edges together, it takes one so too that
// has no neighbour; else that goes as a whole row.
template <class ShortRows, class Row, class Piece>
void for_each_part(const Rows& rows, const Items& items, int64_t item, int64_t longest,
                   const ShortRows& short_rows, const Row& whole_row, const Piece& piece) {
  int64_t begin, end;
  if (items.is_pieces(item, begin, end)) {
    for (int64_t p = begin; p < end; ++p) piece(p, rows.piece(p));
    return;
  }
  int64_t cut = rows.cut_from(begin);
  int64_t from = begin < end ? rows.ptr[begin] : 0;
  int64_t first = begin, first_edge = from;  // of the batch
  auto end_batch = [&](int64_t row, int64_t edge) {
    if (row > first) short_rows(first, row);
    first = row;
    first_edge = edge;
  };
  for (int64_t row = begin; row < end; ++row) {
    const int64_t to = rows.ptr[row + 1];
    const bool is_short = to - from <= longest;
    if (!is_short || to - first_edge > kBatch || row - first == kBatch) end_batch(row, from);
    if (!is_short) {
      if (rows.is_cut(cut, row))
        ++cut;
      else
        whole_row(row, from, to);
      first = row + 1;
      first_edge = to;
    }
    from = to;
  }
  end_batch(end, from);
}

// The slots of a tile: n edges, and those a micro-kernel may read past them, which repeat the last.
struct Slots {
  int n, count;
  Slots(int edges, int group) : n(edges), count((edges + group - 1) & -group) {}
  template <class P>
  GATV2_INLINE void repeat_last(P* of_edges) const {
    for (int k = n; k < count; ++k) of_edges[k] = of_edges[n - 1];
  }
};

// Edges [begin, begin + n): where what `index` (of all edges) points to lies in `base`, and the
// same, to prefetch, for as many as a tile may have after them. A tile that `follows` finds there
// where its own edges lie.
template <class T>
GATV2_INLINE void fill_slots(const T** out, const T** next, const Index& index, int64_t num_edges,
                             const Slots& slots, int64_t begin, int most, bool follows,
                             const T* base, int64_t stride) {
  const int64_t last = num_edges - 1;
  if (follows)
    for (int k = 0; k < slots.n; k += kMaxLanes) memcpy(out + k, next + k, kMaxLanes * sizeof *out);
  else
    index.rows(out, begin, slots.n, last, base, stride);
  index.rows(next, begin + slots.n, most, last, base, stride);
  slots.repeat_last(out);
}

// The same for the n edges of a row, and for some more: the next row's go over it. Most rows take
// one round.
template <class V>
GATV2_INLINE void fill_row(V* to, int n, V value) {
  for (int k = 0; k < n; k += kMaxLanes)
    for (int i = 0; i < kMaxLanes; ++i) to[k + i] = value;
}

// The edges of consecutive short rows.
template <class T>
GATV2_INLINE void begin_batch(Tile<T>& tile, const Rows& rows, int64_t first_row, int64_t end_row) {
  const int64_t begin = rows.ptr[first_row];
  tile.num_rows = (int)(end_row - first_row);
  for (int r = 0; r <= tile.num_rows; ++r) tile.begin[r] = (int)(rows.ptr[first_row + r] - begin);
  tile.n = tile.begin[tile.num_rows];
  for (int k = 1; k <= kMaxLanes; ++k) tile.begin[tile.num_rows + k] = tile.n;
}

GATV2_END
