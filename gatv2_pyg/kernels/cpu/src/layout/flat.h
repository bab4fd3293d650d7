// Flat rows: heads lie one after the other, as in a packed row, so that a vector may hold parts of
// several. Either heads of 3, 5 or 6 quarters of a vector, whose places are constants in units of
// four heads, or where vectors can be permuted narrow heads whose rows are few vectors.
#pragma once

#include "layout/memory.h"
#include "simd/shuffle.h"

GATV2_BEGIN

template <class A>
class FlatHeads {
  using I = typename Simd<A>::I;

 public:
  static constexpr int W = Simd<A>::W;
  static constexpr int kUnit = 4;         // heads of so many quarters that fill whole vectors
  static constexpr int kMostNarrow = 5;   // vectors of a row of narrow heads
  static constexpr bool kTaken = W >= 8;  // with fewer lanes a quarter is one or none
  static constexpr bool kNarrow = kPermutesTwo && W >= 16;

  // Whether rows take fewer vectors so than the `apart` that they take with heads apart. `stride`:
  // lanes of an edge's scores.
  static bool pays(int heads, int channels, int stride, int apart) {
    if (!kTaken || heads < 2 || heads > W || vectors_of(heads * channels) >= apart) return false;
    return in_quarters(channels) || narrow(heads, channels, stride);
  }

  // `used`: without it there is nothing here.
  FlatHeads(int heads, int channels, int stride, bool used)
      : quarters_(in_quarters(channels) ? channels * 4 / W : 0),
        unit_(quarters_ ? kUnit : heads),
        vectors_(vectors_of(heads * channels)),
        folds_(quarters_ ? 0 : vectors_of(channels * stride)),
        storage_(used ? sizeof(I) * (vectors_ + folds_ * steps()) : 0) {
    if (!used || !storage_) return;
    I* const lanes = storage_.template get<I>();
    for (int k = 0; k < vectors_ * W; ++k) {
      // Past the row it is the last head's: lanes of no head hold anything.
      const int head = min_of(k / channels, heads - 1);
      lanes[k / W][k % W] = head - first_head(head);
    }
    for (int k = 0; k < folds_ * W; ++k) {
      const int head = min_of(k % stride, heads - 1), channel = k / stride;
      // Past the channels an element past the row, which is 0.
      const int from = channel < channels ? head * channels + channel : heads * channels;
      I* const index = lanes + vectors_ + k / W * steps();
      index[0][k % W] = from;
      for (int v = 2; v < vectors_; ++v) index[v - 1][k % W] = from / W == v ? W + from % W : k % W;
    }
  }
  bool ok() const { return (bool)storage_; }
  // Of a vector that a head takes; 0 of narrow heads.
  int quarters() const { return quarters_; }
  // Heads whose numbers are read together.
  int unit() const { return unit_; }
  // The first head of a head's unit.
  int first_head(int head) const { return head / unit_ * unit_; }
  // Which head of its unit each lane belongs to, of the vectors from v on.
  const I* lanes(int v) const { return storage_.template get<I>() + v; }
  // A row of narrow heads, [H][C], as folds() vectors [C][stride]: of each the lanes to take from
  // the row's first two vectors (or the one), then of what that gives and each vector more.
  int folds() const { return folds_; }
  const I* transposed() const { return lanes(vectors_); }

 private:
  static int vectors_of(int elements) { return (elements + W - 1) / W; }
  static bool in_quarters(int channels) {
    const int quarters = channels * 4 / W;
    return channels * 4 % W == 0 && (quarters == 3 || quarters == 5 || quarters == 6);
  }
  static bool narrow(int heads, int channels, int stride) {
    return kNarrow && vectors_of(heads * channels) <= kMostNarrow &&
           (heads * channels % W != 0 || channels * stride % W == 0);
  }
  int steps() const { return max_of(1, vectors_ - 1); }

  const int quarters_, unit_, vectors_, folds_;
  const Buffer storage_;
};

GATV2_END
