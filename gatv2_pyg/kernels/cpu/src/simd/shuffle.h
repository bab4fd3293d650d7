// Moving lanes: within a vector, between two, and between the rows of a small matrix.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

// Lane i is lane K_i of a followed by b.
template <class V, int... K>
GATV2_INLINE V pick(V a, V b, Sequence<K...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, K...);
#else
  using M = decltype(a > a);
  return __builtin_shuffle(a, b, M{K...});
#endif
}
template <class A>
using LaneNumbers = typename MakeSequence<Simd<A>::W>::type;

// Lane i is a[i ^ bit].
template <int bit, class V, int... I>
GATV2_INLINE V swap_lanes(V a, Sequence<I...>) {
  return pick(a, a, Sequence<(I ^ bit)...>());
}
template <class A, int bit>
GATV2_INLINE typename Simd<A>::V swap_lanes(typename Simd<A>::V a) {
  return swap_lanes<bit>(a, LaneNumbers<A>());
}

// Lane i is lane index[i] of a; vectors of at least eight lanes.
#if defined(__AVX512F__)
GATV2_INLINE VF permute(VF a, Simd<float>::I index) {
  return (VF)_mm512_maskz_permutexvar_ps(0xFFFF, (__m512i)index, (__m512)a);
}
GATV2_INLINE VD permute(VD a, Simd<double>::I index) {
  return (VD)_mm512_maskz_permutexvar_pd(0xFF, (__m512i)index, (__m512d)a);
}
#elif defined(__AVX2__)
GATV2_INLINE VF permute(VF a, Simd<float>::I index) {
  return (VF)_mm256_permutevar8x32_ps((__m256)a, (__m256i)index);
}
#endif
// Lane i is lane index[i] of a followed by b.
#if defined(__AVX512F__)
constexpr bool kPermutesTwo = true;
GATV2_INLINE VF permute(VF a, VF b, Simd<float>::I index) {
  return (VF)_mm512_maskz_permutex2var_ps(0xFFFF, (__m512)a, (__m512i)index, (__m512)b);
}
#else
constexpr bool kPermutesTwo = false;
#endif

// Lanes [first, end) of a, 0 in the others; and what they are added to.
template <class A, int first, int end>
GATV2_INLINE typename Simd<A>::V take_lanes(typename Simd<A>::V a) {
  constexpr int W = Simd<A>::W;
  for (int i = 0; i < W; ++i) a[i] = i >= first && i < end ? a[i] : 0;
  return a;
}
template <class A, int first, int end>
GATV2_INLINE typename Simd<A>::V add_taken(typename Simd<A>::V sum, typename Simd<A>::V a) {
#if defined(__AVX512F__)
  constexpr unsigned bits = (1u << end) - (1u << first);
  if constexpr (sizeof(A) == 4)
    return (VF)_mm512_mask_add_ps((__m512)sum, (__mmask16)bits, (__m512)sum, (__m512)a);
  else
    return (VD)_mm512_mask_add_pd((__m512d)sum, (__mmask8)bits, (__m512d)sum, (__m512d)a);
#else
  return sum + take_lanes<A, first, end>(a);
#endif
}

// Lane i: a[i] + a[i ^ bit] where i lacks the bit, b[i] + b[i ^ bit] where it has it.
template <int bit, class V, int... I>
GATV2_INLINE V combine(V a, V b, Sequence<I...>) {
  constexpr int W = sizeof...(I);
  return pick(a, b, Sequence<((I & bit) ? W + I : I)...>()) +
         pick(a, b, Sequence<((I & bit) ? W + (I ^ bit) : (I ^ bit))...>());
}
template <class A, int bit>
GATV2_INLINE typename Simd<A>::V combine(typename Simd<A>::V a, typename Simd<A>::V b) {
  return combine<bit>(a, b, LaneNumbers<A>());
}

// Adds up the vectors of leaf(0), leaf(1), ... over the lanes of each of HS heads, which repeat:
// lane k * HS + h of the result is head h of leaf(k).
template <class A, int HS, int k, int bit, class Leaf>
GATV2_INLINE typename Simd<A>::V add_lanes(const Leaf& leaf) {
  if constexpr (bit == Simd<A>::W) {
    return leaf(Int<k>());
  } else {
    const auto a = add_lanes<A, HS, k, bit * 2>(leaf);
    return combine<A, bit>(a, add_lanes<A, HS, k + bit / HS, bit * 2>(leaf));
  }
}

// The first (half = 0) or second half of: `run` lanes of a, as many of b, the next of a, ...
template <int run, int half, class V, int... I>
GATV2_INLINE V zip_lanes(V a, V b, Sequence<I...>) {
  constexpr int W = sizeof...(I);
  return pick(a, b, Sequence<(I / run % 2 * W + half * W / 2 + I / run / 2 * run + I % run)...>());
}
template <class A, int run, int half>
GATV2_INLINE typename Simd<A>::V zip_lanes(typename Simd<A>::V a, typename Simd<A>::V b) {
  return zip_lanes<run, half>(a, b, LaneNumbers<A>());
}

// The even (half = 0) or odd lanes of a, then of b.
template <int half, class V, int... I>
GATV2_INLINE V unzip_lanes(V a, V b, Sequence<I...>) {
  return pick(a, b, Sequence<(2 * I + half)...>());
}
template <class A, int half>
GATV2_INLINE typename Simd<A>::V unzip_lanes(typename Simd<A>::V a, typename Simd<A>::V b) {
  return unzip_lanes<half>(a, b, LaneNumbers<A>());
}

// Lane i is p[i % period]. A load of what two stores wrote, or that ends in a line that is far,
// waits for both, so AVX reads no more than that.
template <int period, class V, int... I>
GATV2_INLINE V repeat_lanes(V a, Sequence<I...>) {
  return pick(a, a, Sequence<(I % period)...>());
}
template <int period, class A>
GATV2_INLINE typename Simd<A>::V load_repeated(const A* p) {
  if constexpr (period == 1) return broadcast<typename Simd<A>::V>(*p);
#if defined(__AVX512F__)
  using V = typename Simd<A>::V;
  constexpr size_t bytes = period * sizeof(A);
  if constexpr (bytes == 32)
    return (V)_mm512_maskz_broadcast_f64x4(0xFF, _mm256_loadu_pd((const double*)p));
  if constexpr (bytes == 16)
    return (V)_mm512_maskz_broadcast_f32x4(0xFFFF, _mm_loadu_ps((const float*)p));
  if constexpr (bytes == 8)
    return (V)_mm512_maskz_broadcastsd_pd(0xFF, _mm_load_sd((const double*)p));
#elif defined(__AVX2__)
  using V = typename Simd<A>::V;
  constexpr size_t bytes = period * sizeof(A);
  if constexpr (bytes == 16) return (V)_mm256_broadcast_ps((const __m128*)p);
  if constexpr (bytes == 8) return (V)_mm256_broadcast_sd((const double*)p);
#endif
  return repeat_lanes<period>(load(p), LaneNumbers<A>());
}

// Lane i is p[i / run].
template <int run, class V, int... I>
GATV2_INLINE V repeat_each(V a, Sequence<I...>) {
  return pick(a, a, Sequence<(I / run)...>());
}
template <int run, class A>
GATV2_INLINE typename Simd<A>::V spread_runs(const A* p) {
#if defined(__AVX512F__)
  // Loads that repeat what they read take no shuffle.
  if constexpr (run == 8 && sizeof(A) == 4)
    return (VF)_mm512_mask_broadcastss_ps(_mm512_set1_ps(p[0]), 0xFF00, _mm_load_ss(p + 1));
  if constexpr (run == 4 && sizeof(A) == 8)
    return (VD)_mm512_mask_broadcastsd_pd(_mm512_set1_pd(p[0]), 0xF0, _mm_load_sd(p + 1));
#endif
  return repeat_each<run>(load_repeated<Simd<A>::W / run>(p), LaneNumbers<A>());
}

// Runs of S lanes, each of S / U groups of U: lane [run][group][place] to [group][place][run].
template <int S, int U, class V, int... I>
GATV2_INLINE V interleave_runs(V a, Sequence<I...>) {
  constexpr int P = sizeof...(I) / S;  // runs
  return pick(a, a, Sequence<(I % P * S + I / (U * P) * U + I / P % U)...>());
}
template <class A, int S, int U>
GATV2_INLINE typename Simd<A>::V interleave_runs(typename Simd<A>::V a) {
  return interleave_runs<S, U>(a, LaneNumbers<A>());
}

// N vectors of W elements as rows of a matrix [N][W], to its transpose [W][N] in as many vectors,
// and back. A zip of the first half of the vectors with the second moves the highest bit of an
// element's index down to the lowest place.
template <class A, int N, int step = 1>
GATV2_INLINE void zip_rows(typename Simd<A>::V (&v)[N]) {
  typename Simd<A>::V to[N];
  GATV2_UNROLL
  for (int i = 0; i < N / 2; ++i) {
    to[2 * i] = zip_lanes<A, 1, 0>(v[i], v[i + N / 2]);
    to[2 * i + 1] = zip_lanes<A, 1, 1>(v[i], v[i + N / 2]);
  }
  GATV2_UNROLL
  for (int i = 0; i < N; ++i) v[i] = to[i];
  if constexpr (2 * step < N) zip_rows<A, N, 2 * step>(v);
}
template <class A, int N, int step = 1>
GATV2_INLINE void unzip_rows(typename Simd<A>::V (&v)[N]) {
  typename Simd<A>::V to[N];
  GATV2_UNROLL
  for (int i = 0; i < N / 2; ++i) {
    to[i] = unzip_lanes<A, 0>(v[2 * i], v[2 * i + 1]);
    to[i + N / 2] = unzip_lanes<A, 1>(v[2 * i], v[2 * i + 1]);
  }
  GATV2_UNROLL
  for (int i = 0; i < N; ++i) v[i] = to[i];
  if constexpr (2 * step < N) unzip_rows<A, N, 2 * step>(v);
}

GATV2_END
