// Whether the step takes a call: what `fits` of gatv2_pyg/ops/joined.py tells before the step in
// Python, and whether the edges and their features are those that a graph was made of.
#pragma once

#include <algorithm>
#include <optional>

#include "passes.h"

namespace gatv2::layer {

// What a graph was made of, and the hashes of it then; undefined where that is known already.
struct Origin {
  Tensor edge_index, edge_attr;
  int64_t hash_of_edges, hash_of_features;
};

inline bool is_followed(const Tensor& value) { return value.defined() && value.requires_grad(); }

inline bool is_followed(at::TensorList of) {
  return at::GradMode::is_enabled() &&
         std::any_of(of.begin(), of.end(), [](const Tensor& value) { return is_followed(value); });
}

inline bool fit_edges(const Tensor& edge_attr, const Tensor& edge_weight, at::ScalarType dtype,
                      int64_t num_ids, int64_t width) {
  if (!edge_attr.defined() || !edge_weight.defined())
    return edge_attr.defined() == edge_weight.defined();
  return edge_attr.dim() == 2 && edge_attr.scalar_type() == dtype && edge_attr.size(0) == num_ids &&
         edge_weight.scalar_type() == dtype && edge_weight.dim() == 2 &&
         edge_weight.size(0) == width && edge_weight.size(1) == edge_attr.size(1);
}

inline void check_rows(const Call& call) {
  const size_t by_dst = call.by_dst.size(), by_src = call.by_src.size();
  TORCH_CHECK_VALUE(by_dst == kNumRows && (by_src == 0 || by_src == kNumRows),
                    "Expected 'by_dst' and 'by_src' to hold ", kNumRows, " tensors, got ", by_dst,
                    " and ", by_src);
}

// `Rows` in plain memory, as a graph has them; what their indices point to is known by that.
inline bool are_rows(at::TensorList rows, at::ScalarType dtype) {
  for (const Tensor& part : rows) {
    if (!part.defined() || !is_plain(part) || part.scalar_type() != dtype || !part.is_contiguous())
      return false;
  }
  const auto is_table = [](const Tensor& part) { return part.dim() == 2 && part.size(1) == 3; };
  return rows[0].dim() == 1 && rows[0].numel() > 0 && rows[1].dim() == 1 && rows[2].dim() == 1 &&
         (rows[2].numel() == 0 || rows[2].numel() == rows[1].numel()) && is_table(rows[3]) &&
         is_table(rows[4]);
}

inline bool are_groupings(const Call& call, int64_t num_src) {
  const auto dtype = call.by_dst[0].scalar_type();
  if ((dtype != at::kInt && dtype != at::kLong) || !are_rows(call.by_dst, dtype)) return false;
  if (call.by_src.empty()) return true;
  const int64_t rows = call.by_src[0].numel() - 1;
  return are_rows(call.by_src, dtype) && call.by_src[1].numel() == call.by_dst[1].numel() &&
         rows % std::max<int64_t>(num_src, 1) == 0;
}

inline bool fit(const Tensors& of, const Call& call, int64_t num_src) {
  if (!std::all_of(of.begin(), of.end(), is_plain) || !are_groupings(call, num_src)) return false;
  const Tensor &x = of[kX], &att = of[kAtt];
  const auto dtype = x.scalar_type();
  if (x.dim() != 2 || (dtype != at::kFloat && dtype != at::kDouble) || att.dim() != 3 ||
      att.size(0) != 1 || att.numel() == 0)  // kernels take no rows of nothing
    return false;
  const int64_t width = att.numel();
  const auto is = [dtype](const Tensor& value, at::IntArrayRef shape) {
    return value.defined() && value.scalar_type() == dtype && value.sizes() == shape;
  };
  const auto may_be = [&](const Tensor& value, at::IntArrayRef shape) {
    return !value.defined() || is(value, shape);
  };
  const at::IntArrayRef of_row(width);
  const std::array<int64_t, 2> of_map{width, x.size(1)};
  return is(of[kWeightL], of_map) && may_be(of[kWeightR], of_map) && may_be(of[kBiasL], of_row) &&
         may_be(of[kBiasR], of_row) && att.scalar_type() == dtype && is(of[kBias], of_row) &&
         x.size(0) == num_src && call.by_dst[0].numel() - 1 == num_src &&
         fit_edges(of[kEdgeAttr], of[kEdgeWeight], dtype, call.numbers.num_ids, width);
}

// Whether backward needs no features, as their maps are frozen: nobody keeps them then.
inline bool leaves_features_alone(const Tensors& of) {
  return is_followed(of) && !is_followed(of[kWeightL]) && !is_followed(of[kWeightR]);
}

inline bool lacks_sources(const Tensors& of, const Call& call) {
  const bool needed = is_followed(of[kX]) || is_followed(of[kWeightL]) || is_followed(of[kBiasL]);
  return needed && is_followed(of) && call.by_src.empty();
}

inline std::optional<int64_t> hash(const std::array<HashPart, 2>& parts, int64_t count) {
  uint64_t found = 0;
  if (doors.content_hash(parts.data(), count, num_threads(), &found) != kOk) return std::nullopt;
  return static_cast<int64_t>(found);
}

// As INDEX_DTYPES of gatv2_pyg/graph/operators.py.
inline bool is_index(at::ScalarType type) {
  return type == at::kLong || type == at::kInt || type == at::kShort || type == at::kChar ||
         type == at::kByte;
}

// Whether it is two rows of indices, in any strides.
inline bool are_ends(const Tensor& edge_index) {
  return edge_index.defined() && is_plain(edge_index) && edge_index.dim() == 2 &&
         edge_index.size(0) == 2 && is_index(edge_index.scalar_type());
}

inline const void* row_of(const Tensor& indices, int64_t row) {
  return static_cast<const char*>(indices.const_data_ptr()) +
         row * indices.stride(0) * indices.element_size();
}

inline std::optional<int64_t> hash_of_rows(const Tensor& indices) {
  std::array<HashPart, 2> parts;
  for (int64_t row = 0; row < 2; ++row) {
    parts[row] = {row_of(indices, row), indices.size(1), indices.stride(1), indices.element_size(),
                  indices.scalar_type() != at::kByte};
  }
  return hash(parts, 2);
}

inline std::optional<int64_t> hash_of_bits(const Tensor& values) {
  return hash({HashPart{values.const_data_ptr(), values.numel(), 1, values.element_size(), 1}, {}},
              1);
}

// Features of edges, of which those with self-loops below may be kept.
inline bool are_features(const Tensor& edge_attr, int64_t num_edges) {
  return is_plain(edge_attr) && edge_attr.dim() == 2 && !edge_attr.requires_grad() &&
         edge_attr.is_contiguous() && edge_attr.size(0) == num_edges;
}

// `given`, without the rows of added self-loops below it.
inline bool are_the_features(const Tensor& edge_attr, const Tensor& given, int64_t num_edges,
                             int64_t expected) {
  return are_features(edge_attr, num_edges) && given.defined() &&
         edge_attr.size(1) == given.size(1) && edge_attr.scalar_type() == given.scalar_type() &&
         hash_of_bits(edge_attr) == expected;
}

inline bool is_true(const Origin& origin, const Tensors& of) {
  if (origin.edge_index.defined() &&
      !(are_ends(origin.edge_index) && hash_of_rows(origin.edge_index) == origin.hash_of_edges))
    return false;
  if (!origin.edge_attr.defined()) return true;
  return origin.edge_index.defined() &&
         are_the_features(origin.edge_attr, of[kEdgeAttr], origin.edge_index.size(1),
                          origin.hash_of_features);
}

}  // namespace gatv2::layer
