// Building the graph structure; see the launcher for the meaning of the fields.
#pragma once

#include "abi.h"

namespace gatv2 {

struct GroupArguments {
  int64_t wide_input;
  int64_t wide_output;
  int64_t threads;
  const void* src;
  int64_t src_stride;
  const void* dst;
  int64_t dst_stride;
  int64_t num_edges;
  int64_t num_src;
  int64_t num_dst;
  int64_t add_self_loops;
  void* ptr;  // [num_dst + 1]
  void* idx;  // [num_edges (+ min(num_src, num_dst))], of which num_edges of the result are written
  void* eid;
};

struct GroupResult {
  int64_t num_edges;
  int64_t max_degree;
  int64_t identity;  // eid[p] == p everywhere
  int64_t bad;       // 0: none, 1: an index of src is out of range, 2: one of dst
  int64_t bad_position;
  int64_t bad_value;
};

struct TransposeArguments {
  int64_t wide;
  int64_t threads;
  const void* ptr;
  const void* idx;
  int64_t num_rows;
  int64_t num_src;
  int64_t num_blocks;  // ranges of as many rows, the edges of each by source
  void* out_ptr;       // [num_blocks * num_src + 1]
  void* out_idx;
  void* out_edge;
};

int64_t group_by_dst(const GroupArguments&, GroupResult&);
int64_t transpose(const TransposeArguments&, int64_t& largest);

}  // namespace gatv2
