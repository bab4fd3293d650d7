// The tables of long rows, and the check of a grouping that was not made here.
#include <string.h>

#include "ranges.h"
#include "structure.h"

namespace gatv2 {
namespace {

// Calls piece(row, begin, end) for the pieces of the long rows in order, and after those of a row
// cut(row, its first piece, its end piece).
template <class O, class Piece, class Cut>
void each_piece(const O* ptr, int64_t num_rows, const Piece& piece, const Cut& cut) {
  int64_t pieces = 0;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t begin = ptr[row], end = ptr[row + 1];
    if (end - begin <= kPiece) continue;
    const int64_t first = pieces;
    for (int64_t from = begin; from < end; from += kPiece, ++pieces)
      piece(row, from, smaller(from + kPiece, end));
    cut(row, first, pieces);
  }
}

template <class O>
class Table {
 public:
  Table(O* entries, int64_t size) : entries_(entries), size_(size) {}
  void add(int64_t a, int64_t b, int64_t c) {
    if (used_ < size_) put(a, b, c);
    ++used_;
  }
  void close() {
    while (used_ < size_) {
      put(-1, 0, 0);
      ++used_;
    }
  }

 private:
  void put(int64_t a, int64_t b, int64_t c) {
    O* const entry = entries_ + 3 * used_;
    entry[0] = (O)a;
    entry[1] = (O)b;
    entry[2] = (O)c;
  }
  O* entries_;
  int64_t size_, used_ = 0;
};

// The same sequence, compared with what is there.
template <class O>
class Expected {
 public:
  Expected(const O* entries, int64_t size) : entries_(entries), size_(size) {}
  void add(int64_t a, int64_t b, int64_t c) {
    if (bad_ >= 0) return;
    const int64_t want[3] = {a, b, c};
    for (int k = 0; k < 3; ++k)
      if (used_ >= size_ || entries_[3 * used_ + k] != want[k]) {
        bad_ = 3 * used_ + k;
        return;
      }
    ++used_;
  }
  void close() {
    for (; bad_ < 0 && used_ < size_; ++used_)
      if (entries_[3 * used_] != -1) bad_ = 3 * used_;
  }
  bool bad() const { return bad_ >= 0; }
  Finding finding(Part part) const {
    return {part, bad_, bad_ < 3 * size_ ? (int64_t)entries_[bad_] : 0};
  }

 private:
  const O* entries_;
  int64_t size_, used_ = 0, bad_ = -1;
};

template <class O>
int64_t tables(const PieceArguments& a, Finding& finding) {
  const O* const ptr = static_cast<const O*>(a.ptr);
  finding = {kNothing, 0, 0};
  if (!follows_ptr(ptr, a.num_rows, a.num_positions, finding)) return kOk;
  Table<O> pieces(static_cast<O*>(a.pieces), a.num_pieces),
      cuts(static_cast<O*>(a.cuts), a.num_cuts);
  each_piece(
      ptr, a.num_rows,
      [&](int64_t row, int64_t begin, int64_t end) { pieces.add(row, begin, end); },
      [&](int64_t row, int64_t first, int64_t end) { cuts.add(row, first, end); });
  pieces.close();
  cuts.close();
  return kOk;
}

template <class O>
int64_t check(const CheckArguments& a, Finding& finding) {
  const O* const ptr = static_cast<const O*>(a.rows.ptr);
  const O* const idx = static_cast<const O*>(a.rows.idx);
  const O* const edge = static_cast<const O*>(a.rows.edge);
  auto bad = [&](Part part, int64_t position, int64_t value) {
    finding = {part, position, value};
    return kOk;
  };
  finding = {kNothing, 0, 0};

  if (!follows_ptr(ptr, a.num_rows, a.num_positions, finding)) return kOk;
  const int64_t edges = ptr[a.num_rows];
  for (int64_t p = 0; p < edges; ++p)
    if ((uint64_t)(int64_t)idx[p] >= (uint64_t)a.num_other) return bad(kIdx, p, idx[p]);

  if (!edge && !a.dst_ptr) {
    if (edges > a.num_ids) return bad(kEdge, a.num_ids, a.num_ids);
  } else {
    if (edges > a.num_edge) return bad(kEdge, a.num_edge, 0);
    uint64_t* const seen =
        static_cast<uint64_t*>(calloc((size_t)(a.num_ids / 64) + 1, sizeof(uint64_t)));
    Free hold{seen};
    if (!seen) return kOutOfMemory;
    for (int64_t p = 0; p < edges; ++p) {
      const int64_t id = edge[p];
      if ((uint64_t)id >= (uint64_t)a.num_ids) return bad(kEdge, p, id);
      const uint64_t bit = (uint64_t)1 << (id % 64);
      if (seen[id / 64] & bit) return bad(kEdge, p, id);
      seen[id / 64] |= bit;
    }
  }
  if (a.dst_ptr) {
    // Here and by destination an edge has the same ends, and its row here is of the range of its
    // destination.
    const O* const dst_ptr = static_cast<const O*>(a.dst_ptr);
    const O* const dst_idx = static_cast<const O*>(a.dst_idx);
    const int64_t per_block = (a.num_other + a.num_blocks - 1) / a.num_blocks;
    const int64_t num_src = a.num_rows / a.num_blocks;
    if (edges != dst_ptr[a.num_other]) return bad(kPtr, a.num_rows, edges);
    for (int64_t row = 0; row < a.num_rows; ++row)
      for (int64_t p = ptr[row]; p < ptr[row + 1]; ++p) {
        if (idx[p] / per_block != row / num_src) return bad(kIdx, p, idx[p]);
        if (edge[p] < dst_ptr[idx[p]] || edge[p] >= dst_ptr[idx[p] + 1] ||
            dst_idx[edge[p]] != row % num_src)
          return bad(kEdge, p, edge[p]);
      }
  }

  Expected<O> pieces(static_cast<const O*>(a.rows.pieces), a.rows.num_pieces);
  Expected<O> cuts(static_cast<const O*>(a.rows.cuts), a.rows.num_cuts);
  each_piece(
      ptr, a.num_rows,
      [&](int64_t row, int64_t begin, int64_t end) { pieces.add(row, begin, end); },
      [&](int64_t row, int64_t first, int64_t end) { cuts.add(row, first, end); });
  pieces.close();
  cuts.close();
  if (pieces.bad())
    finding = pieces.finding(kPieces);
  else if (cuts.bad())
    finding = cuts.finding(kCuts);
  return kOk;
}

}  // namespace

int64_t piece_tables(const PieceArguments& a, Finding& finding) {
  return a.wide ? tables<int64_t>(a, finding) : tables<int32_t>(a, finding);
}

int64_t check_rows(const CheckArguments& a, Finding& finding) {
  return a.wide ? check<int64_t>(a, finding) : check<int32_t>(a, finding);
}

}  // namespace gatv2
