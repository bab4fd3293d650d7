// The graph structure: grouping edges, checking what was grouped elsewhere, comparing contents.
#pragma once

#include "abi.h"

namespace gatv2 {

// Stable counting sorts, O(E + N).
int64_t group_by_dst(const GroupArguments&, GroupResult&);
// `largest`: the most edges of a row of the result. `finding`: what of its input is wrong.
int64_t transpose(const TransposeArguments&, int64_t& largest, Finding& finding);
// The tables of long rows; unused entries are (-1, 0, 0). `finding`: what of its input is wrong.
int64_t piece_tables(const PieceArguments&, Finding& finding);
// Whether the passes may follow these rows: every index they will read lies within its tensor.
int64_t check_rows(const CheckArguments&, Finding&);
// Whether `ptr` starts at 0, never falls, and ends within num_positions.
template <class O>
bool follows_ptr(const O* ptr, int64_t num_rows, int64_t num_positions, Finding& finding) {
  for (int64_t row = 0; row <= num_rows; ++row)
    if ((row ? ptr[row] < ptr[row - 1] : ptr[row] != 0) || ptr[row] > num_positions) {
      finding = {kPtr, row, ptr[row]};
      return false;
    }
  return true;
}
// The features of edges with those of added self-loops below, and the gradient of that.
int64_t loop_features(const LoopArguments&);
int64_t loop_gradients(const LoopArguments&);
// A function of the values in order and of nothing else.
int64_t content_hash(const HashPart* parts, int64_t count, int64_t threads, uint64_t& hash);

}  // namespace gatv2
