// Flat rows: heads of 3, 5 or 6 quarters of a vector lie one after the other, as in a packed row,
// so that a vector may hold parts of two heads.
#pragma once

#include "layout/memory.h"

GATV2_BEGIN

template <class A>
class FlatHeads {
  using I = typename Simd<A>::I;

 public:
  static constexpr int W = Simd<A>::W;
  static constexpr int kUnit = 4;         // heads that fill whole vectors
  static constexpr bool kTaken = W >= 8;  // with fewer lanes a quarter is one or none

  // Whether rows take fewer vectors so.
  static bool pays(int heads, int channels) {
    const int quarters = channels * 4 / W;
    return kTaken && heads > 1 && heads <= W && channels * 4 % W == 0 &&
           (quarters == 3 || quarters == 5 || quarters == 6) &&
           vectors_of(heads * channels) < heads * vectors_of(channels);
  }

  // `used`: without it there is nothing here.
  FlatHeads(int heads, int channels, bool used)
      : quarters_(channels * 4 / W), storage_(used ? sizeof(I) * vectors_of(heads * channels) : 0) {
    if (!used || !storage_) return;
    I* const lanes = storage_.template get<I>();
    for (int k = 0; k < vectors_of(heads * channels) * W; ++k) {
      // Past the row it is the last head's: lanes of no head hold anything.
      const int head = min_of(k / channels, heads - 1);
      lanes[k / W][k % W] = head - first_head(head);
    }
  }
  bool ok() const { return (bool)storage_; }
  // Of a vector that a head takes.
  int quarters() const { return quarters_; }
  // The first head of a head's unit.
  static int first_head(int head) { return head / kUnit * kUnit; }
  // Which head of its unit each lane belongs to, of the vectors from v on.
  const I* lanes(int v) const { return storage_.template get<I>() + v; }

 private:
  static int vectors_of(int elements) { return (elements + W - 1) / W; }
  const int quarters_;
  const Buffer storage_;
};

GATV2_END
