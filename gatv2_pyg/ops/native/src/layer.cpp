// A layer's linear maps, its attention and its bias as one step of autograd, as
// gatv2_pyg/ops/joined.py has it, without Python between its operations.
#include <ATen/core/LegacyTypeDispatch.h>
#include <pthread.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "graph.h"

namespace gatv2::layer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr size_t kNumRows = 5;  // tensors of `Rows`

// Compiled autograd takes no lists of tensors from saved_data.
void put(AutogradContext* ctx, const std::string& name, at::TensorList values) {
  for (size_t at = 0; at < values.size(); ++at) {
    if (values[at].defined()) ctx->saved_data[name + std::to_string(at)] = values[at];
  }
}

// As many of them, undefined where they were.
std::vector<Tensor> got(AutogradContext* ctx, const std::string& name, size_t count) {
  std::vector<Tensor> found(count);
  for (size_t at = 0; at < count; ++at) {
    const auto place = ctx->saved_data.find(name + std::to_string(at));
    if (place != ctx->saved_data.end()) found[at] = place->second.toTensor();
  }
  return found;
}

// dtype and shape of each, one after the other.
std::vector<int64_t> forms(at::TensorList values) {
  std::vector<int64_t> found;
  for (const Tensor& value : values) {
    found.push_back(value.defined() ? static_cast<int64_t>(value.scalar_type()) : -1);
    if (value.defined()) found.insert(found.end(), value.sizes().begin(), value.sizes().end());
  }
  return found;
}

std::vector<int64_t> versions(at::TensorList values) {
  std::vector<int64_t> found;
  for (const Tensor& value : values) {
    found.push_back(!value.defined() || value.is_inference() ? -1 : value._version());
  }
  return found;
}

bool is_kept(int place, bool for_x) {
  const bool of_weights = place == kWeightL || place == kWeightR;
  return of_weights ? for_x : place != kBiasL && place != kBiasR && place != kBias;
}

// By Python's operations, which autograd, transforms and tracers follow: past the dispatcher, as
// nobody is to see this operator itself.
Tensors composed_gradients(const Tensor& grad, const Tensors& of, const Call& call,
                           const std::array<bool, kPlaces>& needs) {
  static const auto composed =
      c10::Dispatcher::singleton().findSchemaOrThrow("gatv2_pyg::layer_gradients", "");
  torch::jit::Stack stack{grad};
  for (const Tensor& value : of)
    stack.emplace_back(value.defined() ? c10::IValue(value) : c10::IValue());
  stack.emplace_back(call.by_dst);
  stack.emplace_back(call.by_src);
  stack.emplace_back(call.numbers.num_ids);
  stack.emplace_back(call.numbers.negative_slope);
  stack.emplace_back(call.numbers.dropout);
  stack.emplace_back(call.numbers.seed);
  c10::List<bool> wanted;
  for (bool need : needs) wanted.push_back(need);
  stack.emplace_back(wanted);
  composed.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
  const std::vector<Tensor> given = stack.at(0).toTensorVector();
  Tensors found;
  size_t next = 0;
  for (int place = 0; place < kPlaces; ++place) {
    if (needs[place]) found[place] = given.at(next++);
  }
  return found;
}

// Saves its arguments, what the maps gave, out and lse; so that a change is an error, what separate
// steps save: biases are not, and weights only where x needs a gradient.
struct Step : torch::autograd::Function<Step> {
  static Tensor forward(AutogradContext* ctx, const Call& call, const Tensor& x,
                        const Tensor& weight_l, const OptionalTensor& bias_l,
                        const OptionalTensor& weight_r, const OptionalTensor& bias_r,
                        const Tensor& att, const Tensor& bias, const OptionalTensor& edge_attr,
                        const OptionalTensor& edge_weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto of = [](const OptionalTensor& value) { return value.value_or(Tensor()); };
    const Tensors tensors{x,   weight_l, of(bias_l),    of(weight_r),   of(bias_r),
                          att, bias,     of(edge_attr), of(edge_weight)};
    // The bias may be another by the time of backward.
    const Tensor own_bias_r = there(bias_r) ? bias_r->clone() : Tensor();
    const Attended found = attended(tensors, call, own_bias_r, true);
    // Not by ctx: within another backward it tells what that one computes.
    int64_t needs = 0;
    variable_list saved(kNumSaved), unsaved(kPlaces);
    for (int place = 0; place < kPlaces; ++place) {
      const Tensor& value = tensors[place];
      needs |= int64_t(value.defined() && value.requires_grad()) << place;
      (is_kept(place, x.requires_grad()) ? saved : unsaved)[place] = value;
    }
    saved[kXSrc] = found.read.x_src;
    saved[kXDst] = found.read.x_dst;
    saved[kOut] = found.out;
    saved[kLse] = found.lse;
    auto& data = ctx->saved_data;
    data["forms"] = forms(saved);
    data["versions"] = versions(unsaved);
    put(ctx, "unsaved", unsaved);
    put(ctx, "bias_r", own_bias_r);
    put(ctx, "by_dst", call.by_dst);
    put(ctx, "by_src", call.by_src);
    data["integers"] = std::vector<int64_t>{call.numbers.num_ids, call.numbers.seed, needs};
    data["floats"] = std::vector<double>{call.numbers.negative_slope, call.numbers.dropout};
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    return found.result;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(1 + kPlaces);
    if (!grads[0].defined()) return result;
    auto& data = ctx->saved_data;
    const auto integers = data["integers"].toIntVector();
    const auto floats = data["floats"].toDoubleVector();
    Call call{got(ctx, "by_dst", kNumRows),
              got(ctx, "by_src", kNumRows),
              {integers[0], integers[1], floats[0], floats[1]}};
    if (!call.by_src[0].defined()) call.by_src.clear();
    // Checkpointing allows one look at what was saved.
    const variable_list saved = ctx->get_saved_variables();
    const std::vector<Tensor> unsaved = got(ctx, "unsaved", kPlaces);
    Tensors of;
    std::array<bool, kPlaces> needs{};
    for (int place = 0; place < kPlaces; ++place) {
      of[place] = unsaved[place].defined() ? unsaved[place] : saved[place];
      needs[place] = integers[2] >> place & 1;
    }
    bool plain = !at::GradMode::is_enabled() && !is_watched() && is_plain(grads[0]);
    for (const Tensor& value : saved) plain = plain && is_plain(value);
    Tensors found;
    if (plain && forms(saved) == data["forms"].toIntVector()) {
      at::AutoDispatchBelowADInplaceOrView guard;
      c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
      const bool shared = !of[kWeightR].defined();
      found = gradients(grads[0], saved, got(ctx, "bias_r", 1)[0], shared, call, needs);
    } else {
      TORCH_CHECK(versions(unsaved) == data["versions"].toIntVector(),
                  "one of the variables needed for gradient computation has been modified by an "
                  "inplace operation: a weight or a bias of the layer");
      found = composed_gradients(grads[0], of, call, needs);
    }
    std::move(found.begin(), found.end(), result.begin() + 1);
    return result;
  }
};

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
  TORCH_CHECK_VALUE(by_dst.size() == kNumRows && (by_src.empty() || by_src.size() == kNumRows),
                    "Expected 'by_dst' and 'by_src' to hold ", kNumRows, " tensors, got ",
                    by_dst.size(), " and ", by_src.size());
  const auto of = [](const OptionalTensor& value) { return value.value_or(Tensor()); };
  const Tensors tensors{x,   weight_l, of(bias_l),    of(weight_r),   of(bias_r),
                        att, bias,     of(edge_attr), of(edge_weight)};
  Call call{std::move(by_dst), std::move(by_src), {num_ids, 0, negative_slope, dropout}};
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
      "layer_graph(Tensor edge_index, int num_nodes, bool self_loops, bool sources_first, "
      "int src_blocks, Tensor? edge_attr, bool mean) -> (Tensor[], Tensor[], Tensor?, int, int)",
      &gatv2::layer::layer_graph);
}
