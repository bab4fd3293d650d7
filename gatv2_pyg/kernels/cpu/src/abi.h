// The C ABI: records of 64-bit fields, which the launcher declares again in abi.py. It compares
// names and offsets with those of `gatv2_field` before it calls anything.
#pragma once

#include <stdint.h>

namespace gatv2 {

// Raised whenever a field or a function changes its meaning but not its place.
constexpr int64_t kAbiVersion = 8;

// Edges of a piece of a long row: rows with more edges are cut.
constexpr int64_t kPiece = 512;  // as in validity.py

enum Status : int64_t { kOk = 0, kOutOfMemory = 1 };
enum Dtype : int64_t { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// Grouped edges: see `Rows` of the contract. `edge` is null where it is the position.
struct GroupedEdges {
  const void* ptr;
  const void* idx;
  const void* edge;
  const void* pieces;
  int64_t num_pieces;
  const void* cuts;
  int64_t num_cuts;
};

// Of both directions. A is the accumulation dtype.
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
  int64_t batch;       // elements: x_src, x_dst, what is returned and its gradients lie one after
                       // the other
  int64_t element;     // of a batch; dropout depends on it
  int64_t bias_rows;   // ids from 0 on that have a bias
  int64_t bias_heads;  // of a row of attn_bias: 1 or heads
  const void* x_src;
  const void* x_dst;
  const void* att;
  const void* edge_attr;
  const void* edge_weight;
  const void* attn_bias;  // A; may be null
  void* ordered_bias;  // A [num_edges + 64 bytes], of bias_heads 1 and batch 1: forward: attn_bias
                       // by position is written; backward: read; may be null
  const void* dst_bias;  // A [H * C], added to each row of x_dst; may be null
  const void* out_bias;  // A [H * C]; forward: see biased_out
  double negative_slope;
  double dropout;
  int64_t seed;
  void* out;         // A; forward: written, or null where biased_out is not; backward: read
  void* lse;         // A; forward: written; backward: read
  void* alpha;       // A; forward: written; backward: read; may be null
  void* biased_out;  // A; forward: out + out_bias is written; may be null
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
  void* d_attn_bias;
  void* sum_grad_out;  // A [H * C]: of all rows; each may be null, those of gradients are where
  void* sum_d_x_src;   // these are not needed
  void* sum_d_x_dst;
};

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
  void* edge;  // the same
};

struct GroupResult {
  int64_t num_edges;
  int64_t max_degree;
  int64_t identity;  // edge[p] == p everywhere
  int64_t bad;       // 0: none, 1: an index of src is out of range, 2: one of dst
  int64_t bad_position;
  int64_t bad_value;
};

struct TransposeArguments {
  int64_t wide;
  int64_t threads;
  const void* ptr;
  const void* idx;
  int64_t num_positions;  // of idx
  int64_t num_rows;
  int64_t num_src;
  int64_t num_blocks;  // ranges of as many rows, the edges of each by source
  void* out_ptr;       // [num_blocks * num_src + 1]
  void* out_idx;       // [ptr[num_rows]]
  void* out_edge;      // the same
};

struct PieceArguments {
  int64_t wide;
  const void* ptr;
  int64_t num_rows;
  int64_t num_positions;  // the most edges there may be
  void* pieces;           // [num_pieces, 3]
  int64_t num_pieces;
  void* cuts;  // [num_cuts, 3]
  int64_t num_cuts;
};

// What of a grouping is wrong.
enum Part : int64_t { kNothing = 0, kPtr = 1, kIdx = 2, kEdge = 3, kPieces = 4, kCuts = 5 };

struct CheckArguments {
  int64_t wide;
  GroupedEdges rows;
  int64_t num_rows;
  int64_t num_positions;  // of idx
  int64_t num_edge;       // of edge, where it is not null
  int64_t num_other;
  int64_t num_ids;
  // For edges by source, else null: ptr [num_other + 1] and idx of the same edges by destination,
  // and how many ranges the destinations are cut into.
  const void* dst_ptr;
  const void* dst_idx;
  int64_t num_blocks;
};

// The first thing that is wrong.
struct Finding {
  int64_t part;
  int64_t position;
  int64_t value;
};

// The features of added self-loops, whose ids follow those of the edges; both rows by id.
struct LoopArguments {
  int64_t wide;
  int64_t is_double;
  int64_t threads;
  const void* ptr;   // by destination: see GroupedEdges
  const void* edge;  // may be null
  int64_t num_loops;
  int64_t num_edges;  // ids before those of the loops
  int64_t dim;
  int64_t mean;       // else the sum
  const void* given;  // [num_edges, dim]; gradients: [num_edges + num_loops, dim]
  void* result;       // [num_edges + num_loops, dim]; gradients: [num_edges, dim]
};

struct HashPart {
  const void* data;
  int64_t size;
  int64_t stride;
  int64_t bytes;  // of an element: 8, 4, 2 or 1
  int64_t is_signed;
};

}  // namespace gatv2
