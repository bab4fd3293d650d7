// Whether something would see the operations of a call, or a tensor is more than its memory: what
// gatv2_pyg/kernels/plain.py tells before a call, told before its backward.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/profiler/api.h>

namespace gatv2::layer {

inline bool is_watched() {
  return c10::impl::dispatch_mode_enabled() ||
         c10::impl::tls_is_dispatch_key_included(
             c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr ||
         torch::jit::tracer::getTracingState() != nullptr ||
         torch::profiler::impl::profilerEnabled();
}

// Undefined tensors are.
inline bool is_plain(const at::Tensor& value) {
  static const auto keys = [] {
    const auto of_empty = [](bool inference) {
      c10::InferenceMode mode(inference);
      return at::empty({0}, at::kCPU).key_set().raw_repr();
    };
    return std::pair(of_empty(false), of_empty(true));
  }();
  if (!value.defined()) return true;
  const auto own = value.key_set().raw_repr();
  return own == keys.first || own == keys.second;
}

}  // namespace gatv2::layer
