// Attention alone as one step of autograd, as gatv2_pyg/ops/direct.py has it.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>

#include "sound.h"

namespace gatv2::layer {

// The tensors of a call, in the order of the operator.
enum Input { kSources, kDestinations, kVector, kAttr, kAttrWeight, kInputs };
using Inputs = std::array<Tensor, kInputs>;  // undefined where there is none

inline Read read_of(at::TensorList of) {
  return Read{of[kSources], of[kDestinations], of[kVector], of[kAttr], of[kAttrWeight]}
      .contiguous();
}

// What `fits` of direct.py tells, of calls in float32 or float64 and without a bias or a batch.
inline bool fit(const Inputs& of, const Call& call, int64_t num_src) {
  if (!std::all_of(of.begin(), of.end(), is_plain) || !are_groupings(call, num_src)) return false;
  const Tensor &x_src = of[kSources], &x_dst = of[kDestinations], &att = of[kVector];
  const auto dtype = x_src.scalar_type();
  if ((dtype != at::kFloat && dtype != at::kDouble) || att.dim() != 2 ||
      att.numel() == 0)  // kernels take no rows of nothing
    return false;
  const auto are_rows = [&](const Tensor& value, int64_t rows) {
    return value.scalar_type() == dtype &&
           value.sizes() == at::IntArrayRef({rows, att.size(0), att.size(1)});
  };
  return are_rows(x_src, num_src) && are_rows(x_dst, call.by_dst[0].numel() - 1) &&
         att.scalar_type() == dtype &&
         fit_edges(of[kAttr], of[kAttrWeight], dtype, call.numbers.num_ids, att.numel()) &&
         !(is_followed(of) && is_followed(x_src) && call.by_src.empty());
}

// (1)-(3): out and lse.
inline std::pair<Tensor, Tensor> attention(const Read& read, const Call& call) {
  const Tensor out = at::empty(read.x_dst.sizes(), read.x_dst.options()),
               lse = at::empty({read.x_dst.size(0), read.att.size(0)}, read.x_dst.options());
  Arguments arguments = layer::arguments(read, call.by_dst, call.numbers);
  arguments.out = out.data_ptr();
  arguments.lse = lse.data_ptr();
  run(doors.forward, arguments);
  return {out, lse};
}

// (4)-(9); `saved` are the inputs, out and lse.
inline Inputs gradients(const Tensor& grad, at::TensorList saved, const Kept<kInputs>& kept) {
  const Read read = read_of(saved);
  const Tensor of_out = grad.contiguous(), out = saved[kInputs].contiguous(),
               lse = saved[kInputs + 1].contiguous();
  const std::array<const Tensor*, kInputs> given{&read.x_src, &read.x_dst, &read.att,
                                                 &read.edge_attr, &read.edge_weight};
  Inputs found;
  std::array<void*, kInputs> rooms{};
  for (int place = 0; place < kInputs; ++place) {
    if (!kept.needs[place]) continue;
    found[place] = at::empty_like(*given[place]);
    rooms[place] = found[place].data_ptr();
  }
  Arguments arguments = layer::arguments(read, kept.call.by_dst, kept.call.numbers);
  if (kept.needs[kSources]) set_sources(arguments, kept.call.by_src);
  arguments.out = out.data_ptr();
  arguments.lse = lse.data_ptr();
  arguments.grad_out = address(of_out);
  arguments.d_x_src = rooms[kSources];
  arguments.d_x_dst = rooms[kDestinations];
  arguments.d_att = rooms[kVector];
  arguments.d_edge_attr = rooms[kAttr];
  arguments.d_edge_weight = rooms[kAttrWeight];
  run(doors.backward, arguments);
  return found;
}

// Saves its arguments, out and lse.
struct AttentionStep : torch::autograd::Function<AttentionStep> {
  static Tensor forward(AutogradContext* ctx, const Call& call, const Tensor& x_src,
                        const Tensor& x_dst, const Tensor& att, const OptionalTensor& edge_attr,
                        const OptionalTensor& edge_weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto of = [](const OptionalTensor& value) { return value.value_or(Tensor()); };
    variable_list saved{x_src, x_dst, att, of(edge_attr), of(edge_weight)};
    const auto [out, lse] = attention(read_of(saved), call);
    const variable_list inputs = saved;
    saved.insert(saved.end(), {out, lse});
    keep(ctx, std::move(saved), inputs, call);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(1 + kInputs);
    if (!grads[0].defined()) return result;
    const Kept<kInputs> kept(ctx);
    // Checkpointing allows one look at what was saved.
    const variable_list saved = ctx->get_saved_variables();
    Inputs found;
    if (are_as_kept(ctx, saved, grads[0])) {
      at::AutoDispatchBelowADInplaceOrView guard;
      found = gradients(grads[0], saved, kept);
    } else {
      Inputs of;
      std::copy_n(saved.begin(), size_t(kInputs), of.begin());
      found = followed_gradients("gatv2_pyg::attention_gradients", grads[0], of, saved[kInputs],
                                 saved[kInputs + 1], kept);
    }
    std::move(found.begin(), found.end(), result.begin() + 1);
    return result;
  }
};

}  // namespace gatv2::layer
