// The C ABI: one flat record of 64-bit fields, packed by the launcher in this order.
#pragma once

#include <stdint.h>

namespace gatv2 {

// Raised whenever a record changes; the launcher refuses another number than its own.
constexpr int64_t kAbiVersion = 3;

enum Status : int64_t { kOk = 0, kOutOfMemory = 1 };
enum Dtype : int64_t { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// Grouped edges: see the launcher. `edge` is null where it is the position.
struct GroupedEdges {
  const void* ptr;
  const void* idx;
  const void* edge;
  const void* pieces;
  int64_t num_pieces;
  const void* cuts;
  int64_t num_cuts;
};

struct Arguments {
  int64_t dtype;
  int64_t wide_index;  // int64 rather than int32
  int64_t threads;
  int64_t num_src;
  int64_t num_dst;
  int64_t heads;
  int64_t channels;
  int64_t edge_dim;  // 0: no edge features
  int64_t num_ids;
  int64_t src_blocks;  // backward: see by_src
  const void* x_src;
  const void* x_dst;
  const void* att;
  const void* edge_attr;
  const void* edge_weight;
  double negative_slope;
  double dropout;
  int64_t seed;
  void* out;    // forward: written; backward: read
  void* lse;    // forward: written; backward: read
  void* alpha;  // forward: written; backward: read; may be null
  GroupedEdges by_dst;
  // backward only
  GroupedEdges by_src;     // rows of num_src sources for each of src_blocks ranges of destinations
  const void* grad_out;    // may be null
  const void* grad_alpha;  // may be null
  void* d_x_src;           // each may be null: not needed
  void* d_x_dst;
  void* d_att;
  void* d_edge_attr;
  void* d_edge_weight;
};

}  // namespace gatv2
