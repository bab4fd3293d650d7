// The CPU kernels as this library knows them: addresses, and their records from tensors.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "abi.h"

namespace gatv2::layer {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct Doors {
  int64_t (*forward)(const Arguments*, int64_t);
  int64_t (*backward)(const Arguments*, int64_t);
  int64_t (*prefer_huge_pages)(void*, int64_t);
  int64_t (*content_hash)(const HashPart*, int64_t, int64_t, uint64_t*);
  int64_t (*group_by_dst)(const GroupArguments*, GroupResult*);
  int64_t (*transpose)(const TransposeArguments*, int64_t*, Finding*);
  int64_t (*piece_tables)(const PieceArguments*, Finding*);
  int64_t (*loop_features)(const LoopArguments*);
  int64_t isa;
};

// Set before the first call.
inline Doors doors{};

// In a forked child the parent's pool of threads is gone.
inline bool forked = false;

constexpr size_t kHugePage = 2 << 20;

inline bool there(const OptionalTensor& value) { return value.has_value() && value->defined(); }

inline const void* address(const Tensor& value) {
  return value.defined() ? value.const_data_ptr() : nullptr;
}

// `Rows` of the contract.
inline GroupedEdges grouped(at::TensorList rows) {
  GroupedEdges found{};
  found.ptr = rows[0].const_data_ptr();
  found.idx = rows[1].const_data_ptr();
  if (rows[2].numel() > 0) found.edge = rows[2].const_data_ptr();
  if (rows[3].numel() > 0)
    found.pieces = rows[3].const_data_ptr(), found.num_pieces = rows[3].size(0);
  if (rows[4].numel() > 0) found.cuts = rows[4].const_data_ptr(), found.num_cuts = rows[4].size(0);
  return found;
}

// What is read by both directions, contiguous.
struct Read {
  Tensor x_src, x_dst, att, edge_attr, edge_weight;

  Read contiguous() const {
    const auto of = [](const Tensor& value) {
      return value.defined() ? value.contiguous() : value;
    };
    return {of(x_src), of(x_dst), of(att), of(edge_attr), of(edge_weight)};
  }
};

// The numbers of a call.
struct Numbers {
  int64_t num_ids;
  int64_t seed;
  double negative_slope;
  double dropout;
};

inline int64_t num_threads() { return forked ? 1 : at::get_num_threads(); }

inline Arguments arguments(const Read& read, at::TensorList by_dst, const Numbers& numbers) {
  Arguments found{};
  found.dtype = read.x_src.scalar_type() == at::kDouble ? kFloat64 : kFloat32;
  found.wide_index = by_dst[0].scalar_type() == at::kLong;
  found.threads = num_threads();
  found.num_src = read.x_src.size(0);
  found.num_dst = read.x_dst.size(0);
  found.heads = read.att.size(-2);
  found.channels = read.att.size(-1);
  found.num_ids = numbers.num_ids;
  found.batch = 1;
  found.x_src = address(read.x_src);
  found.x_dst = address(read.x_dst);
  found.att = address(read.att);
  if (read.edge_attr.defined()) {
    found.edge_dim = read.edge_attr.size(1);
    found.edge_attr = address(read.edge_attr);
    found.edge_weight = address(read.edge_weight);
  }
  found.negative_slope = numbers.negative_slope;
  found.dropout = numbers.dropout;
  found.seed = numbers.seed;
  found.by_dst = grouped(by_dst);
  return found;
}

// What the gradient of x_src needs.
inline void set_sources(Arguments& arguments, at::TensorList by_src) {
  TORCH_CHECK_VALUE(!by_src.empty(),
                    "Expected 'edges' by source for the gradient of 'x_src', got None");
  arguments.by_src = grouped(by_src);
  arguments.src_blocks = (by_src[0].numel() - 1) / std::max<int64_t>(arguments.num_src, 1);
}

inline void run(int64_t (*door)(const Arguments*, int64_t), const Arguments& arguments) {
  TORCH_CHECK_WITH(OutOfMemoryError, door(&arguments, doors.isa) == kOk,
                   "The fused CPU kernels could not allocate their scratch memory");
}

// Memory for rows that are to be gathered, on huge pages where it is large: each row that is read
// at random takes an address translation.
inline Tensor room_for_rows(const Tensor& like, at::IntArrayRef shape) {
  Tensor room = at::empty(shape, like.options());
  if (room.nbytes() >= kHugePage) doors.prefer_huge_pages(room.data_ptr(), room.nbytes());
  return room;
}

}  // namespace gatv2::layer
