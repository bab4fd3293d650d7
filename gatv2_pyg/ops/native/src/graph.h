// The graph of a call on edges that are new: what gatv2_pyg/graph makes of them, at once.
#pragma once

#include <c10/core/InferenceMode.h>

#include "sound.h"

namespace gatv2::layer {

// What a graph is asked for.
struct Wanted {
  int64_t num_nodes;
  bool self_loops;     // leave out those there are, and add one to every node
  bool sources_first;  // else the first row holds the destinations
  int64_t src_blocks;  // ranges of destinations that the edges by source are cut into; 0: none
};

// Empty where others must make it.
struct Graph {
  std::vector<Tensor> by_dst, by_src;  // `Rows` of the contract
  Tensor features;
};

inline bool append_tables(std::vector<Tensor>& rows, int64_t num_positions, int64_t max_degree) {
  const Tensor& ptr = rows[0];
  if (max_degree <= kPiece) {
    const Tensor none = at::empty({0, 3}, ptr.options());
    rows.insert(rows.end(), {none, none});
    return true;
  }
  // As many as there may be, and one that is unused.
  const int64_t most = num_positions / (kPiece + 1);
  const Tensor pieces = at::empty({2 * most + 2, 3}, ptr.options()),
               cuts = at::empty({most + 2, 3}, ptr.options());
  const PieceArguments arguments{ptr.scalar_type() == at::kLong,
                                 ptr.const_data_ptr(),
                                 ptr.numel() - 1,
                                 num_positions,
                                 pieces.data_ptr(),
                                 pieces.size(0),
                                 cuts.data_ptr(),
                                 cuts.size(0)};
  Finding finding{};
  if (doors.piece_tables(&arguments, &finding) != kOk || finding.part != kNothing) return false;
  for (const Tensor& table : {pieces, cuts}) {
    const int64_t used = table.select(1, 0).ge(0).sum().item<int64_t>();
    rows.push_back(table.narrow(0, 0, used).clone());
  }
  return true;
}

inline std::vector<Tensor> edges_by_dst(const Tensor& edge_index, const Wanted& wanted) {
  const int64_t nodes = wanted.num_nodes, num_edges = edge_index.size(1);
  const auto options = at::TensorOptions().dtype(at::kInt);
  const int64_t most = num_edges + (wanted.self_loops ? nodes : 0);
  const Tensor ptr = at::empty({nodes + 1}, options), idx = at::empty({most}, options),
               edge = at::empty({most}, options);
  GroupArguments arguments{};
  arguments.wide_input = edge_index.scalar_type() == at::kLong;
  arguments.threads = num_threads();
  arguments.src = row_of(edge_index, wanted.sources_first ? 0 : 1);
  arguments.dst = row_of(edge_index, wanted.sources_first ? 1 : 0);
  arguments.src_stride = arguments.dst_stride = edge_index.stride(1);
  arguments.num_edges = num_edges;
  arguments.num_src = arguments.num_dst = nodes;
  arguments.add_self_loops = wanted.self_loops;
  arguments.ptr = ptr.data_ptr();
  arguments.idx = idx.data_ptr();
  arguments.edge = edge.data_ptr();
  GroupResult result{};
  if (doors.group_by_dst(&arguments, &result) != kOk || result.bad) return {};
  std::vector<Tensor> rows{
      ptr, idx.narrow(0, 0, result.num_edges),
      result.identity ? at::empty({0}, options) : edge.narrow(0, 0, result.num_edges)};
  if (!append_tables(rows, most, result.max_degree)) return {};
  return rows;
}

inline std::vector<Tensor> edges_by_src(const std::vector<Tensor>& by_dst, const Wanted& wanted) {
  const Tensor &ptr = by_dst[0], &idx = by_dst[1];
  std::vector<Tensor> rows{at::empty({wanted.src_blocks * wanted.num_nodes + 1}, ptr.options()),
                           at::empty_like(idx), at::empty_like(idx)};
  TransposeArguments arguments{};
  arguments.threads = num_threads();
  arguments.ptr = ptr.const_data_ptr();
  arguments.idx = idx.const_data_ptr();
  arguments.num_positions = idx.numel();
  arguments.num_rows = arguments.num_src = wanted.num_nodes;
  arguments.num_blocks = wanted.src_blocks;
  arguments.out_ptr = rows[0].data_ptr();
  arguments.out_idx = rows[1].data_ptr();
  arguments.out_edge = rows[2].data_ptr();
  int64_t max_degree = 0;
  Finding finding{};
  if (doors.transpose(&arguments, &max_degree, &finding) != kOk || finding.part != kNothing ||
      !append_tables(rows, idx.numel(), max_degree))
    return {};
  return rows;
}

// Undefined where there is no memory for them.
inline Tensor features_of(const Tensor& edge_attr, const std::vector<Tensor>& by_dst,
                          const Wanted& wanted, bool mean) {
  const Tensor found =
      at::empty({edge_attr.size(0) + wanted.num_nodes, edge_attr.size(1)}, edge_attr.options());
  LoopArguments arguments{};
  arguments.is_double = edge_attr.scalar_type() == at::kDouble;
  arguments.threads = num_threads();
  arguments.ptr = by_dst[0].const_data_ptr();
  arguments.edge = by_dst[2].numel() > 0 ? by_dst[2].const_data_ptr() : nullptr;
  arguments.num_loops = wanted.num_nodes;
  arguments.num_edges = edge_attr.size(0);
  arguments.dim = edge_attr.size(1);
  arguments.mean = mean;
  arguments.given = edge_attr.const_data_ptr();
  arguments.result = found.data_ptr();
  return doors.loop_features(&arguments) == kOk ? found : Tensor();
}

// What is kept for later calls must be no one's gradient, and such that any of them can take it.
inline bool may_be_kept(const Tensor& edge_index, const Tensor& edge_attr, const Wanted& wanted) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (is_watched() || c10::InferenceMode::is_enabled() || !are_ends(edge_index)) return false;
  const auto type = edge_index.scalar_type();
  const int64_t num_edges = edge_index.size(1);
  if ((type != at::kLong && type != at::kInt) || wanted.num_nodes < 0 || wanted.num_nodes > kMost ||
      num_edges > kMost - wanted.num_nodes || wanted.src_blocks < 0 ||
      wanted.src_blocks > kMost / std::max<int64_t>(wanted.num_nodes, 1))
    return false;
  return !edge_attr.defined() ||
         (wanted.self_loops && are_features(edge_attr, num_edges) &&
          (edge_attr.scalar_type() == at::kFloat || edge_attr.scalar_type() == at::kDouble));
}

inline Graph graph_of(const Tensor& edge_index, const Tensor& edge_attr, const Wanted& wanted,
                      bool mean) {
  Graph found;
  found.by_dst = edges_by_dst(edge_index, wanted);
  if (found.by_dst.empty()) return {};
  if (wanted.src_blocks > 0) {
    found.by_src = edges_by_src(found.by_dst, wanted);
    if (found.by_src.empty()) return {};
  }
  if (edge_attr.defined()) {
    found.features = features_of(edge_attr, found.by_dst, wanted, mean);
    if (!found.features.defined()) return {};
  }
  return found;
}

}  // namespace gatv2::layer
