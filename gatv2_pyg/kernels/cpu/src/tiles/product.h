// A product of two small dense matrices, for the edge features.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

// C[k][n] (+)= sum_m a[k][m] b[m][n] for k < rows, n < columns (a multiple of W), in blocks of up
// to 4 x 4 vectors. Row k of a is a + k * a_row, and its elements lie a_step apart.
template <class A, class Put>
GATV2_INLINE void multiply(const A* a, int64_t a_row, int64_t a_step, int rows, const A* b,
                           int64_t b_row, int64_t depth, int64_t columns, const Put& put) {
  using V = typename Simd<A>::V;
  constexpr int W = Simd<A>::W;
  auto block = [&](auto kr, auto kc, int k, int64_t n) GATV2_LAMBDA_INLINE {
    constexpr int R = decltype(kr)::value, N = decltype(kc)::value;
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
  };
  for (int64_t n = 0; n < columns;) {
    const bool wide = columns - n >= 4 * W;
    for (int k = 0; k < rows;) {
      auto strip = [&](auto kr) GATV2_LAMBDA_INLINE {
        if (wide)
          block(kr, Int<4>(), k, n);
        else
          block(kr, Int<1>(), k, n);
        k += decltype(kr)::value;
      };
      switch (rows - k) {
        case 1: strip(Int<1>()); break;
        case 2: strip(Int<2>()); break;
        case 3: strip(Int<3>()); break;
        default: strip(Int<4>());
      }
    }
    n += wide ? 4 * W : W;
  }
}

GATV2_END
