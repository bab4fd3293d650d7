// A product of two small dense matrices, for the edge features.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

// Calls f(Int<n>, first) for blocks of n = R rows, a power of two, then of half as many, to one.
template <int R, class F>
GATV2_INLINE void each_block(int first, int rows, const F& f) {
  for (; rows - first >= R; first += R) f(Int<R>(), first);
  if constexpr (R > 1) each_block<R / 2>(first, rows, f);
}

// put(k, n, vector) of C[k][n] = sum_m a[k][m] b[m][n] for k < rows, n < columns (a multiple of W),
// in blocks whose sums stay in registers beside what they are made of. Row k of a is a + k * a_row,
// and its elements lie a_step apart.
template <class A, class Put>
GATV2_INLINE void multiply(const A* a, int64_t a_row, int64_t a_step, int rows, const A* b,
                           int64_t b_row, int64_t depth, int64_t columns, const Put& put) {
  using V = typename Simd<A>::V;
  constexpr int W = Simd<A>::W;
  auto strip = [&](auto rows_at_once, auto vectors, int64_t n) GATV2_LAMBDA_INLINE {
    constexpr int N = decltype(vectors)::value;
    each_block<decltype(rows_at_once)::value>(0, rows, [&](auto kr, int k) GATV2_LAMBDA_INLINE {
      constexpr int R = decltype(kr)::value;
      V sum[R][N];
      GATV2_UNROLL
      for (int i = 0; i < R; ++i) GATV2_UNROLL
      for (int j = 0; j < N; ++j) sum[i][j] = V{};
      for (int64_t m = 0; m < depth; ++m) {
        V bv[N];
        GATV2_UNROLL
        for (int j = 0; j < N; ++j) bv[j] = load(b + m * b_row + n + j * W);
        GATV2_UNROLL
        for (int i = 0; i < R; ++i) {
          const V av = broadcast<V>(a[(k + i) * a_row + m * a_step]);
          GATV2_UNROLL
          for (int j = 0; j < N; ++j) sum[i][j] = fma(av, bv[j], sum[i][j]);
        }
      }
      GATV2_UNROLL
      for (int i = 0; i < R; ++i) GATV2_UNROLL
      for (int j = 0; j < N; ++j) put(k + i, n + j * W, sum[i][j]);
    });
  };
  constexpr int wide = kManyRegisters ? 4 : 2;
  int64_t n = 0;
  for (; columns - n >= wide * W; n += wide * W) strip(Int<4>(), Int<wide>(), n);
  for (; n < columns; n += W) strip(Int<8>(), Int<1>(), n);
}

GATV2_END
