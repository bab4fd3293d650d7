// Both directions of a layer, maps and bias included, on plain memory.
#pragma once

#include "saved.h"

namespace gatv2::layer {

// What glibc keeps, at most, when it is freed.
constexpr size_t kKeptBytes = 32 << 20;

// The tensors of a layer; see `Arguments` of joined.py. The order is that of the operator.
enum Place { kX, kWeightL, kBiasL, kWeightR, kBiasR, kAtt, kBias, kEdgeAttr, kEdgeWeight, kPlaces };
using Tensors = std::array<Tensor, kPlaces>;  // undefined where there is none

struct Attended {
  Tensor result, out, lse;
  Read read;
};

// (1)-(3), (10); without `keep` there is no output before its bias.
inline Attended attended(const Tensors& of, const Call& call, const Tensor& bias_r, bool keep) {
  const Tensor& x = of[kX];
  const std::array<int64_t, 2> shape{x.size(0), of[kAtt].numel()};
  Attended found;
  Tensor x_src = room_for_rows(x, shape);
  at::linear_out(x_src, x, of[kWeightL], of[kBiasL]);
  Tensor x_dst = x_src;
  if (of[kWeightR].defined()) {
    x_dst = room_for_rows(x, shape);
    at::linear_out(x_dst, x, of[kWeightR]);
  }
  found.read = Read{x_src, x_dst, of[kAtt], of[kEdgeAttr], of[kEdgeWeight]}.contiguous();
  found.result = at::empty(shape, x.options());
  if (keep) found.out = at::empty(shape, x.options());
  found.lse = at::empty({shape[0], of[kAtt].size(-2)}, x.options());
  const Tensor bias = of[kBias].contiguous();
  const Tensor of_dst = bias_r.defined() ? bias_r.contiguous() : bias_r;
  Arguments arguments = layer::arguments(found.read, call.by_dst, call.numbers);
  arguments.out = keep ? found.out.data_ptr() : nullptr;
  arguments.lse = found.lse.data_ptr();
  arguments.biased_out = found.result.data_ptr();
  arguments.out_bias = address(bias);
  arguments.dst_bias = address(of_dst);
  run(doors.forward, arguments);
  return found;
}

// Of forward's saved tensors: those of the layer that are kept, then these.
enum Saved { kXSrc = kPlaces, kXDst, kOut, kLse, kNumSaved };

// (4)-(9), (11), and those of the maps.
inline Tensors gradients(const Tensor& grad, at::TensorList saved, const Tensor& bias_r,
                         bool shared, const Call& call, const std::array<bool, kPlaces>& needs) {
  const Tensor &x = saved[kX], &weight_l = saved[kWeightL], &weight_r = saved[kWeightR];
  const bool need_l = needs[kX] || needs[kWeightL] || needs[kBiasL];
  const bool need_r = shared ? need_l : needs[kX] || needs[kWeightR] || needs[kBiasR];
  const Read read =
      Read{saved[kXSrc], saved[kXDst], saved[kAtt], saved[kEdgeAttr], saved[kEdgeWeight]}
          .contiguous();
  const Tensor of_out = grad.contiguous(), out = saved[kOut].contiguous(),
               lse = saved[kLse].contiguous();
  const Tensor of_dst = bias_r.defined() ? bias_r.contiguous() : bias_r;

  Tensor pair, d_l, d_r;
  if (needs[kWeightL] && needs[kWeightR] && 2 * read.x_src.nbytes() <= kKeptBytes) {
    pair = at::empty({2, read.x_src.size(0), read.x_src.size(1)}, read.x_src.options());
    d_l = pair.select(0, 0);
    d_r = pair.select(0, 1);
  } else {
    if (need_l) d_l = at::empty_like(read.x_src);
    if (need_r) d_r = at::empty_like(read.x_dst);
  }
  const auto of_row = [&](bool wanted) {
    return wanted ? at::empty({read.att.numel()}, read.att.options()) : Tensor();
  };
  const auto like = [&](Place place, const Tensor& value) {
    return needs[place] ? at::empty_like(value) : Tensor();
  };
  Tensors found;
  found[kBias] = of_row(needs[kBias]);
  found[kBiasL] = of_row(needs[kBiasL]);
  Tensor sum_dst = of_row((needs[kBiasL] && shared) || needs[kBiasR]);
  found[kAtt] = like(kAtt, read.att);
  found[kEdgeAttr] = like(kEdgeAttr, read.edge_attr);
  found[kEdgeWeight] = like(kEdgeWeight, read.edge_weight);

  const auto room = [](const Tensor& value) {
    return value.defined() ? value.data_ptr() : nullptr;
  };
  Arguments arguments = layer::arguments(read, call.by_dst, call.numbers);
  if (d_l.defined()) set_sources(arguments, call.by_src);
  arguments.out = out.data_ptr();
  arguments.lse = lse.data_ptr();
  arguments.dst_bias = address(of_dst);
  arguments.grad_out = address(of_out);
  arguments.d_x_src = room(d_l);
  arguments.d_x_dst = room(d_r);
  arguments.d_att = room(found[kAtt]);
  arguments.d_edge_attr = room(found[kEdgeAttr]);
  arguments.d_edge_weight = room(found[kEdgeWeight]);
  arguments.sum_grad_out = room(found[kBias]);
  arguments.sum_d_x_src = room(found[kBiasL]);
  arguments.sum_d_x_dst = room(sum_dst);
  run(doors.backward, arguments);

  if (shared) {
    if (d_l.defined() && d_r.defined()) d_l.add_(d_r), d_r.reset();
    if (needs[kBiasL]) found[kBiasL].add_(sum_dst);
  } else {
    found[kBiasR] = sum_dst;
  }
  if (pair.defined()) {
    // One product takes less time than two; each gradient has memory of its own.
    const Tensor weights = pair.transpose(1, 2).bmm(x.expand({2, x.size(0), x.size(1)}));
    found[kWeightL] = weights.select(0, 0).clone();
    found[kWeightR] = weights.select(0, 1).clone();
  } else {
    if (needs[kWeightL] && d_l.defined()) found[kWeightL] = d_l.t().mm(x);
    if (needs[kWeightR] && d_r.defined()) found[kWeightR] = d_r.t().mm(x);
  }
  if (needs[kX]) {
    found[kX] = d_l.mm(weight_l);
    if (d_r.defined()) found[kX].addmm_(d_r, weight_r);
  }
  return found;
}

}  // namespace gatv2::layer
