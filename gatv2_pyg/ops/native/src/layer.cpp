// The operators of this library, and the kernels that it is given.
#include <pthread.h>

#include "attention.h"
#include "graph.h"
#include "step.h"

namespace gatv2::layer {
namespace {

// As torch.randint gives it in Python's step.
int64_t drawn_seed() {
  return at::randint(std::numeric_limits<int64_t>::max(), {}, at::kLong).item<int64_t>();
}

// None where the call is not one for this step; nothing is drawn then.
OptionalTensor layer_step(const Tensor& x, const Tensor& weight_l, const OptionalTensor& bias_l,
                          const OptionalTensor& weight_r, const OptionalTensor& bias_r,
                          const Tensor& att, const Tensor& bias, const OptionalTensor& edge_attr,
                          const OptionalTensor& edge_weight, std::vector<Tensor> by_dst,
                          std::vector<Tensor> by_src, int64_t num_src, int64_t num_ids,
                          double negative_slope, double dropout,
                          const OptionalTensor& from_edge_index, int64_t hash_of_edges,
                          const OptionalTensor& from_edge_attr, int64_t hash_of_features) {
  const auto of = [](const OptionalTensor& value) { return value.value_or(Tensor()); };
  const Tensors tensors{x,   weight_l, of(bias_l),    of(weight_r),   of(bias_r),
                        att, bias,     of(edge_attr), of(edge_weight)};
  Call call{std::move(by_dst), std::move(by_src), {num_ids, 0, negative_slope, dropout}};
  check_rows(call);
  const Origin origin{of(from_edge_index), of(from_edge_attr), hash_of_edges, hash_of_features};
  if (!fit(tensors, call, num_src) || leaves_features_alone(tensors) ||
      lacks_sources(tensors, call) || !is_true(origin, tensors))
    return std::nullopt;
  if (dropout != 0) call.numbers.seed = drawn_seed();
  if (is_followed(tensors)) {
    return Step::apply(call, x, weight_l, bias_l, weight_r, bias_r, att, bias, edge_attr,
                       edge_weight);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return attended(tensors, call, tensors[kBiasR], false).result;
}

// None where the call is not one for this step; the seed is drawn where there is none then.
OptionalTensor attention_step(const Tensor& x_src, const Tensor& x_dst, const Tensor& att,
                              const OptionalTensor& edge_attr, const OptionalTensor& edge_weight,
                              std::vector<Tensor> by_dst, std::vector<Tensor> by_src,
                              int64_t num_src, int64_t num_ids, double negative_slope,
                              double dropout, std::optional<int64_t> seed) {
  const auto of = [](const OptionalTensor& value) { return value.value_or(Tensor()); };
  const Inputs inputs{x_src, x_dst, att, of(edge_attr), of(edge_weight)};
  Call call{std::move(by_dst), std::move(by_src), {num_ids, 0, negative_slope, dropout}};
  check_rows(call);
  if (!fit(inputs, call, num_src)) return std::nullopt;
  if (dropout != 0) call.numbers.seed = seed ? *seed : drawn_seed();
  if (is_followed(inputs))
    return AttentionStep::apply(call, x_src, x_dst, att, edge_attr, edge_weight);
  at::AutoDispatchBelowADInplaceOrView guard;
  return attention(read_of(inputs), call).first;
}

// The edges by destination and by source (none where others must make them), the features with
// those of self-loops below, and the hashes of what they were made of.
std::tuple<std::vector<Tensor>, std::vector<Tensor>, OptionalTensor, int64_t, int64_t> layer_graph(
    const Tensor& edge_index, int64_t num_nodes, bool self_loops, bool sources_first,
    int64_t src_blocks, const OptionalTensor& edge_attr, bool mean) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const Wanted wanted{num_nodes, self_loops, sources_first, src_blocks};
  const Tensor features = edge_attr.value_or(Tensor());
  Graph graph;
  std::optional<int64_t> of_edges, of_features;
  if (may_be_kept(edge_index, features, wanted)) {
    of_edges = hash_of_rows(edge_index);
    of_features = features.defined() ? hash_of_bits(features) : 0;
    if (of_edges && of_features) graph = graph_of(edge_index, features, wanted, mean);
  }
  return {std::move(graph.by_dst), std::move(graph.by_src),
          graph.features.defined() ? OptionalTensor(graph.features) : std::nullopt,
          of_edges.value_or(0), of_features.value_or(0)};
}

}  // namespace
}  // namespace gatv2::layer

#define GATV2_EXPORT extern "C" __attribute__((visibility("default")))

GATV2_EXPORT const char* gatv2_layer_sources() { return GATV2_BUILT_FROM; }

// `addresses`: those of DOORS of __init__.py, in its order.
GATV2_EXPORT void gatv2_layer_bind(void* const* addresses, int64_t isa, int64_t forked) {
  using gatv2::layer::doors;
  const auto bind = [&addresses](auto*& door) {
    door = reinterpret_cast<std::remove_reference_t<decltype(door)>>(*addresses++);
  };
  bind(doors.forward);
  bind(doors.backward);
  bind(doors.prefer_huge_pages);
  bind(doors.content_hash);
  bind(doors.group_by_dst);
  bind(doors.transpose);
  bind(doors.piece_tables);
  bind(doors.loop_features);
  doors.isa = isa;
  gatv2::layer::forked = forked != 0;
  static const int watching = pthread_atfork(nullptr, nullptr, [] { gatv2::layer::forked = true; });
  (void)watching;
}

TORCH_LIBRARY_FRAGMENT(gatv2_pyg, library) {
  library.def(
      "layer_step(Tensor x, Tensor weight_l, Tensor? bias_l, Tensor? weight_r, Tensor? bias_r, "
      "Tensor att, Tensor bias, Tensor? edge_attr, Tensor? edge_weight, Tensor[] by_dst, "
      "Tensor[] by_src, int num_src, int num_ids, float negative_slope, float dropout, "
      "Tensor? from_edge_index=None, int hash_of_edges=0, Tensor? from_edge_attr=None, "
      "int hash_of_features=0) -> Tensor?",
      &gatv2::layer::layer_step);
  library.def(
      "attention_step(Tensor x_src, Tensor x_dst, Tensor att, Tensor? edge_attr, "
      "Tensor? edge_weight, Tensor[] by_dst, Tensor[] by_src, int num_src, int num_ids, "
      "float negative_slope, float dropout, int? seed) -> Tensor?",
      &gatv2::layer::attention_step);
  library.def(
      "layer_graph(Tensor edge_index, int num_nodes, bool self_loops, bool sources_first, "
      "int src_blocks, Tensor? edge_attr, bool mean) -> (Tensor[], Tensor[], Tensor?, int, int)",
      &gatv2::layer::layer_graph);
}
