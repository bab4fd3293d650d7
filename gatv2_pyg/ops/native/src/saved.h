// What a step of autograd keeps for its backward, and what backward does where that has changed.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <vector>

#include "doors.h"
#include "watched.h"

namespace gatv2::layer {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr size_t kNumRows = 5;  // tensors of `Rows`

// Of a call, beside its tensors.
struct Call {
  std::vector<Tensor> by_dst, by_src;
  Numbers numbers;
};

// Compiled autograd takes no lists of tensors from saved_data.
inline void put(AutogradContext* ctx, const std::string& name, at::TensorList values) {
  for (size_t at = 0; at < values.size(); ++at) {
    if (values[at].defined()) ctx->saved_data[name + std::to_string(at)] = values[at];
  }
}

// As many of them, undefined where they were.
inline std::vector<Tensor> got(AutogradContext* ctx, const std::string& name, size_t count) {
  std::vector<Tensor> found(count);
  for (size_t at = 0; at < count; ++at) {
    const auto place = ctx->saved_data.find(name + std::to_string(at));
    if (place != ctx->saved_data.end()) found[at] = place->second.toTensor();
  }
  return found;
}

// dtype and shape of each, one after the other.
inline std::vector<int64_t> forms(at::TensorList values) {
  std::vector<int64_t> found;
  for (const Tensor& value : values) {
    found.push_back(value.defined() ? static_cast<int64_t>(value.scalar_type()) : -1);
    if (value.defined()) found.insert(found.end(), value.sizes().begin(), value.sizes().end());
  }
  return found;
}

// `of`: the tensors of a call; not all of them are saved. Which need a gradient is not told by ctx:
// within another backward that tells what that one computes.
inline void keep(AutogradContext* ctx, variable_list saved, at::TensorList of, const Call& call) {
  int64_t needs = 0;
  for (size_t place = 0; place < of.size(); ++place)
    needs |= int64_t(of[place].defined() && of[place].requires_grad()) << place;
  auto& data = ctx->saved_data;
  data["forms"] = forms(saved);
  put(ctx, "by_dst", call.by_dst);
  put(ctx, "by_src", call.by_src);
  data["integers"] = std::vector<int64_t>{call.numbers.num_ids, call.numbers.seed, needs};
  data["floats"] = std::vector<double>{call.numbers.negative_slope, call.numbers.dropout};
  ctx->save_for_backward(std::move(saved));
  ctx->set_materialize_grads(false);
}

// A call of N tensors.
template <size_t N>
struct Kept {
  Call call;
  std::array<bool, N> needs;

  explicit Kept(AutogradContext* ctx) {
    auto& data = ctx->saved_data;
    const auto integers = data["integers"].toIntVector();
    const auto floats = data["floats"].toDoubleVector();
    call = {got(ctx, "by_dst", kNumRows),
            got(ctx, "by_src", kNumRows),
            {integers[0], integers[1], floats[0], floats[1]}};
    if (!call.by_src[0].defined()) call.by_src.clear();
    for (size_t place = 0; place < N; ++place) needs[place] = integers[2] >> place & 1;
  }
};

// Whether the kernels may take what was saved; hooks may have made other tensors of it.
inline bool are_as_kept(AutogradContext* ctx, at::TensorList saved, const Tensor& grad) {
  if (at::GradMode::is_enabled() || is_watched() || !is_plain(grad)) return false;
  for (const Tensor& value : saved) {
    if (!is_plain(value)) return false;
  }
  return forms(saved) == ctx->saved_data["forms"].toIntVector();
}

// By an operator in Python, which autograd, transforms and tracers follow: past the dispatcher, as
// nobody is to see that operator itself.
template <size_t N>
std::array<Tensor, N> followed_gradients(const char* name, const Tensor& grad,
                                         const std::array<Tensor, N>& of, const Tensor& out,
                                         const Tensor& lse, const Kept<N>& kept) {
  const auto followed = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  torch::jit::Stack stack{grad};
  for (const Tensor& value : of)
    stack.emplace_back(value.defined() ? c10::IValue(value) : c10::IValue());
  stack.emplace_back(out);
  stack.emplace_back(lse);
  const auto& [by_dst, by_src, numbers] = kept.call;
  stack.emplace_back(by_dst);
  stack.emplace_back(by_src);
  stack.emplace_back(numbers.num_ids);
  stack.emplace_back(numbers.negative_slope);
  stack.emplace_back(numbers.dropout);
  stack.emplace_back(numbers.seed);
  c10::List<bool> wanted;
  for (bool need : kept.needs) wanted.push_back(need);
  stack.emplace_back(wanted);
  followed.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
  const std::vector<Tensor> given = stack.at(0).toTensorVector();
  std::array<Tensor, N> found;
  size_t next = 0;
  for (size_t place = 0; place < N; ++place) {
    if (kept.needs[place]) found[place] = given.at(next++);
  }
  return found;
}

}  // namespace gatv2::layer
