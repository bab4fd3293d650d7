// Choices lane by lane: by a comparison with 0, by a sign, and by bits that are kept.
#pragma once

#include "simd/vector.h"

GATV2_BEGIN

// Lanes of `below` where z has its sign set, else of `above`; where that takes no comparison.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kBlendsBySign = true;
GATV2_INLINE VF by_sign(VF z, VF above, VF below) {
  return (VF)_mm256_blendv_ps((__m256)above, (__m256)below, (__m256)z);
}
GATV2_INLINE VD by_sign(VD z, VD above, VD below) {
  return (VD)_mm256_blendv_pd((__m256d)above, (__m256d)below, (__m256d)z);
}
#else
constexpr bool kBlendsBySign = false;
#endif

// Which lanes of a vector are above 0, kept as a bit each: kMaskBytes for a vector. Of the last up
// to kMaskRoom bytes more are read.
constexpr int kMaskRoom = 3;
template <class A>
constexpr int kMaskBytes = Simd<A>::W >= 8 ? Simd<A>::W / 8 : 1;
#if defined(__AVX512F__)
GATV2_INLINE __mmask16 above_zero(VF v) {
  return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
}
GATV2_INLINE __mmask8 above_zero(VD v) {
  return _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_GT_OQ);
}
GATV2_INLINE VF select(__mmask16 m, VF a, VF b) {
  return (VF)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a);
}
GATV2_INLINE VD select(__mmask8 m, VD a, VD b) {
  return (VD)_mm512_mask_blend_pd(m, (__m512d)b, (__m512d)a);
}
template <class M>
GATV2_INLINE bool any_lane(M m) {
  return m != 0;
}
template <class M>
GATV2_INLINE void store_mask(uint8_t* p, M m) {
  memcpy(p, &m, sizeof m);
}
// a where the bit of a lane is set, else b.
template <class A>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b) {
  decltype(above_zero(a)) m;
  memcpy(&m, bits, sizeof m);
  return select(m, a, b);
}
#else
template <class V>
GATV2_INLINE auto above_zero(V v) {
  return v > V{};
}
template <class M, class V>
GATV2_INLINE V select(M m, V a, V b) {
  return m ? a : b;
}
// The sign of each lane. Compilers differ in the type of a comparison, but not in its lanes.
template <class M>
GATV2_INLINE int lane_bits(M m) {
#if defined(__AVX2__)
  if constexpr (sizeof m[0] == 4)
    return _mm256_movemask_ps((__m256)m);
  else
    return _mm256_movemask_pd((__m256d)m);
#elif defined(__SSE2__)
  if constexpr (sizeof m[0] == 4)
    return _mm_movemask_ps((__m128)m);
  else
    return _mm_movemask_pd((__m128d)m);
#elif defined(__aarch64__)
  if constexpr (sizeof m[0] == 4)
    return vaddvq_s32(vandq_s32((int32x4_t)m, int32x4_t{1, 2, 4, 8}));
  else
    return (int)vaddvq_s64(vandq_s64((int64x2_t)m, int64x2_t{1, 2}));
#else
  int bits = 0;
  for (int i = 0; i < (int)(sizeof m / sizeof m[0]); ++i) bits |= (int)(m[i] & 1) << i;
  return bits;
#endif
}
template <class M>
GATV2_INLINE bool any_lane(M m) {
  return lane_bits(m) != 0;
}
template <class M>
GATV2_INLINE void store_mask(uint8_t* p, M m) {
  *p = (uint8_t)lane_bits(m);
}
#if defined(__AVX2__)
// Each lane's bit becomes its sign, by which a blend goes.
template <class A>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b) {
  int32_t word;
  memcpy(&word, bits, sizeof word);
  const __m256i words = _mm256_set1_epi32(word);
  if constexpr (sizeof(A) == 4) {
    const __m256i signs =
        _mm256_sllv_epi32(words, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
    return (VF)_mm256_blendv_ps((__m256)b, (__m256)a, _mm256_castsi256_ps(signs));
  } else {
    const __m256i signs = _mm256_sllv_epi32(words, _mm256_setr_epi32(0, 31, 0, 30, 0, 29, 0, 28));
    return (VD)_mm256_blendv_pd((__m256d)b, (__m256d)a, _mm256_castsi256_pd(signs));
  }
}
#else
template <class A, int... I>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b, Sequence<I...>) {
  using M = typename Simd<A>::I;
  return select(((M{} + (typename Simd<A>::Int) * bits) & M{(1 << I)...}) != M{}, a, b);
}
template <class A>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b) {
  return select_stored<A>(bits, a, b, typename MakeSequence<Simd<A>::W>::type());
}
#endif
#endif

GATV2_END
