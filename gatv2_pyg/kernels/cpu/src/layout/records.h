// What the pass by source needs of an edge, left by the pass by destination: keep_e alpha_e and
// ds_e of each head, [2][head_stride], and a bit for each element of z_e, at the edge's position by
// destination.
#pragma once

#include "layout/memory.h"
#include "layout/plan.h"
#include "layout/score_layout.h"

GATV2_BEGIN

template <class A>
class Records {
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;

 public:
  // `most`: of the positions of a range of destinations.
  Records(const Plan<A>& plan, const ScoreLayout<A>& scores, int64_t most)
      : stride_(scores.stride),
        blocks_(scores.blocks),
        mask_row_(mask_row(plan)),
        buffer_(Scratch::kRecords, sizeof(A) * most * size()),
        masks_(Scratch::kMasks, most * mask_row_ + kMaskRoom),
        past_caches_(size() * sizeof(A) % kVectorBytes == 0 &&
                     most * size() * (int64_t)sizeof(A) >= kPastCaches) {
    prefer_huge_pages(buffer_.template get<A>(), sizeof(A) * most * size());
    prefer_huge_pages(masks_.template get<A>(), most * mask_row_);
  }
  bool ok() const { return buffer_.ok() && masks_.ok(); }
  // Bytes of the bits of an edge.
  static int64_t mask_row(const Plan<A>& plan) { return plan.padded_row / W * kMaskBytes<A>; }
  int64_t mask_row() const { return mask_row_; }
  int64_t size() const { return 2 * stride_; }
  void begin_at(int64_t position) { first_ = position; }
  A* at(int64_t position) const { return buffer_.template get<A>() + (position - first_) * size(); }
  uint8_t* masks_at(int64_t position) const {
    return masks_.template get<uint8_t>() + (position - first_) * mask_row_;
  }

  // Records of n edges from s = alpha_e (-alpha_e where dropped) and d = ds_e, [n][head_stride],
  // which both lack a factor `scale`. `correction` is what the ds of a row, with it, add up to; it
  // should be 0.
  void put(A* to, const A* s, const A* d, int64_t n, A keep, const A* scale,
           const A* correction) const {
    switch (stride_) {
      case 1: return put_run<1>(to, s, d, n, keep, scale, correction);
      case 2: return put_run<2>(to, s, d, n, keep, scale, correction);
      case 4: return put_run<4>(to, s, d, n, keep, scale, correction);
      case 8: return put_run<8>(to, s, d, n, keep, scale, correction);
      default: return put_run<W>(to, s, d, n, keep, scale, correction);
    }
  }

  // The same from keep_e alpha_e and ds_e.
  void put(A* to, const A* keep_alpha, const A* ds, int64_t n) const {
    switch (stride_) {
      case 1: return put_lanes<1>(to, keep_alpha, ds, n);
      case 2: return put_lanes<2>(to, keep_alpha, ds, n);
      case 4: return put_lanes<4>(to, keep_alpha, ds, n);
      case 8: return put_lanes<8>(to, keep_alpha, ds, n);
      default: return put_lanes<W>(to, keep_alpha, ds, n);
    }
  }

 private:
  // HS: head_stride, or W where that is more.
  template <int HS>
  GATV2_NOINLINE void put_run(A* to, const A* s, const A* d, int64_t n, A keep, const A* scale,
                              const A* correction) const {
    for (int64_t k = 0; k < n * stride_; k += W) {
      const int64_t b = k / W % blocks_ * W;
      const V factor = load(scale + b), alpha = load(s + k);
      const V kept = max_of(V{}, alpha) * (factor * keep);
      const V ds = (load(d + k) - max_of(alpha, -alpha) * load(correction + b)) * factor;
      put_pair<HS>(to, k, n, kept, ds);
    }
  }
  template <int HS>
  GATV2_NOINLINE void put_lanes(A* to, const A* keep_alpha, const A* ds, int64_t n) const {
    for (int64_t k = 0; k < n * stride_; k += W)
      put_pair<HS>(to, k, n, load(keep_alpha + k), load(ds + k));
  }
  // Lanes [k, k + W) of both halves of n records.
  template <int HS>
  GATV2_INLINE void put_pair(A* to, int64_t k, int64_t n, V kept, V ds) const {
    if constexpr (HS < W) {
      const int64_t room = 2 * (n * stride_ - k);
      put_vector(to + 2 * k, zip_lanes<A, HS, 0>(kept, ds), room);
      if (room > W) put_vector(to + 2 * k + W, zip_lanes<A, HS, 1>(kept, ds), room - W);
    } else {
      A* const record = to + k / stride_ * size() + k % stride_;
      put_vector(record, kept, W);
      put_vector(record + stride_, ds, W);
    }
  }
  GATV2_INLINE void put_vector(A* to, V v, int64_t room) const {
    if (past_caches_)
      store_past_caches(to, v);
    else if (room >= W)
      store(to, v);
    else
      store(to, v, LanesInUse((int)room));
  }

  const int stride_, blocks_;
  const int64_t mask_row_;
  const Scratch buffer_, masks_;
  const bool past_caches_;
  int64_t first_ = 0;
};

GATV2_END
