// A layer's linear maps, its attention and its bias as one step of autograd, as
// gatv2_pyg/ops/joined.py has it, without Python between its operations.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>

#include "sound.h"

namespace gatv2::layer {

inline std::vector<int64_t> versions(at::TensorList values) {
  std::vector<int64_t> found;
  for (const Tensor& value : values) {
    found.push_back(!value.defined() || value.is_inference() ? -1 : value._version());
  }
  return found;
}

inline bool is_kept(int place, bool for_x) {
  const bool of_weights = place == kWeightL || place == kWeightR;
  return of_weights ? for_x : place != kBiasL && place != kBiasR && place != kBias;
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
    variable_list saved(kNumSaved), unsaved(kPlaces);
    for (int place = 0; place < kPlaces; ++place)
      (is_kept(place, x.requires_grad()) ? saved : unsaved)[place] = tensors[place];
    saved[kXSrc] = found.read.x_src;
    saved[kXDst] = found.read.x_dst;
    saved[kOut] = found.out;
    saved[kLse] = found.lse;
    ctx->saved_data["versions"] = versions(unsaved);
    put(ctx, "unsaved", unsaved);
    put(ctx, "bias_r", own_bias_r);
    keep(ctx, std::move(saved), tensors, call);
    return found.result;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(1 + kPlaces);
    if (!grads[0].defined()) return result;
    const Kept<kPlaces> kept(ctx);
    // Checkpointing allows one look at what was saved.
    const variable_list saved = ctx->get_saved_variables();
    const std::vector<Tensor> unsaved = got(ctx, "unsaved", kPlaces);
    Tensors of;
    for (int place = 0; place < kPlaces; ++place)
      of[place] = unsaved[place].defined() ? unsaved[place] : saved[place];
    Tensors found;
    if (are_as_kept(ctx, saved, grads[0])) {
      at::AutoDispatchBelowADInplaceOrView guard;
      c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
      const bool shared = !of[kWeightR].defined();
      found = gradients(grads[0], saved, got(ctx, "bias_r", 1)[0], shared, kept.call, kept.needs);
    } else {
      TORCH_CHECK(versions(unsaved) == ctx->saved_data["versions"].toIntVector(),
                  "one of the variables needed for gradient computation has been modified by an "
                  "inplace operation: a weight or a bias of the layer");
      found = followed_gradients("gatv2_pyg::layer_gradients", grads[0], of, saved[kOut],
                                 saved[kLse], kept);
    }
    std::move(found.begin(), found.end(), result.begin() + 1);
    return result;
  }
};

}  // namespace gatv2::layer
