// Half precision: numbers and vectors of it, widened to float and rounded back.
#pragma once

#include "simd/vector.h"

GATV2_BEGIN

GATV2_INLINE float to_float(bfloat16 x) {
  const uint32_t u = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
GATV2_INLINE float to_float(float16 x) {
  // The exponent of a half is re-biased by a multiplication, which also normalises subnormals.
  const uint32_t magnitude = (uint32_t)(x.bits & 0x7FFF) << 13;
  float f;
  memcpy(&f, &magnitude, 4);
  f *= 0x1p112f;
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((x.bits & 0x7C00) == 0x7C00) u = magnitude | 0x7F800000;
  u |= (uint32_t)(x.bits & 0x8000) << 16;
  memcpy(&f, &u, 4);
  return f;
}
GATV2_INLINE float to_float(float x) { return x; }
GATV2_INLINE double to_float(double x) { return x; }

GATV2_INLINE void from_float(float x, bfloat16& y) {
  uint32_t u;
  memcpy(&u, &x, 4);
  y.bits = x != x ? 0x7FC0 : (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
GATV2_INLINE void from_float(float x, float16& y) {
  uint32_t u;
  memcpy(&u, &x, 4);
  const uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
  u &= 0x7FFFFFFF;
  if (u > 0x7F800000) {
    y.bits = sign | 0x7E00;
    return;
  }
  if (u >= 0x477FF000) {
    y.bits = sign | 0x7C00;
    return;
  }
  if (u < 0x38800000) {
    // A sum with 1/2 rounds a subnormal half to its last bit.
    float f;
    memcpy(&f, &u, 4);
    f += 0.5f;
    memcpy(&u, &f, 4);
    y.bits = (uint16_t)(sign | (u - 0x3F000000));
    return;
  }
  u += 0xC8000FFF + ((u >> 13) & 1);
  y.bits = (uint16_t)(sign | (u >> 13));
}
GATV2_INLINE void from_float(float x, float& y) { y = x; }
GATV2_INLINE void from_float(double x, double& y) { y = x; }

#if defined(__AVX512F__)
GATV2_INLINE VF widen(__m256i h, bfloat16*) {
  return (VF)_mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, h), 16);
}
GATV2_INLINE VF widen(__m256i h, float16*) { return (VF)_mm512_maskz_cvtph_ps(0xFFFF, h); }
template <class H>
GATV2_INLINE VF load_half(const H* p) {
  return widen(_mm256_loadu_si256((const __m256i*)p), (H*)0);
}
GATV2_INLINE __m256i narrow(VF v, bfloat16*) {
  typedef uint32_t U __attribute__((vector_size(64)));
  const U u = (U)v;
  const U rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  return _mm512_maskz_cvtepi32_epi16(0xFFFF, (__m512i)(v == v ? rounded : U{} + 0x7FC0));
}
// The zero-masked forms are the plain ones; their headers draw no warning.
GATV2_INLINE __m256i narrow(VF v, float16*) {
  return _mm512_maskz_cvtps_ph(0xFFFF, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <class H>
GATV2_INLINE void store_half(H* p, VF v) {
  _mm256_storeu_si256((__m256i*)p, narrow(v, (H*)0));
}

#elif defined(__AVX2__)
GATV2_INLINE VF widen(__m128i h, bfloat16*) {
  return (VF)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
}
GATV2_INLINE VF widen(__m128i h, float16*) { return (VF)_mm256_cvtph_ps(h); }
template <class H>
GATV2_INLINE VF load_half(const H* p) {
  return widen(_mm_loadu_si128((const __m128i*)p), (H*)0);
}
GATV2_INLINE __m128i narrow(VF v, bfloat16*) {
  typedef uint32_t U __attribute__((vector_size(32)));
  const U u = (U)v;
  const U rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  const __m256i bits = (__m256i)(v == v ? rounded : U{} + 0x7FC0);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}
GATV2_INLINE __m128i narrow(VF v, float16*) {
  return _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <class H>
GATV2_INLINE void store_half(H* p, VF v) {
  _mm_storeu_si128((__m128i*)p, narrow(v, (H*)0));
}
#else
typedef uint16_t Halves __attribute__((vector_size(8)));
typedef uint32_t Bits __attribute__((vector_size(16)));
GATV2_INLINE VF widen(Halves h, bfloat16*) { return (VF)(__builtin_convertvector(h, Bits) << 16); }
GATV2_INLINE Halves narrow(VF v, bfloat16*) {
  const Bits u = (Bits)v;
  const Bits rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : Bits{} + 0x7FC0, Halves);
}
#if defined(__aarch64__)
GATV2_INLINE VF widen(Halves h, float16*) { return (VF)vcvt_f32_f16((float16x4_t)h); }
GATV2_INLINE Halves narrow(VF v, float16*) { return (Halves)vcvt_f16_f32((float32x4_t)v); }
#else
// As to_float and from_float do it.
GATV2_INLINE VF widen(Halves h, float16*) {
  const Bits bits = __builtin_convertvector(h, Bits), magnitude = (bits & 0x7FFF) << 13;
  const Bits finite = (Bits)((VF)magnitude * 0x1p112f);
  const Bits u = (bits & 0x7C00) == 0x7C00 ? magnitude | 0x7F800000 : finite;
  return (VF)(u | (bits & 0x8000) << 16);
}
GATV2_INLINE Halves narrow(VF v, float16*) {
  const Bits sign = ((Bits)v >> 16) & 0x8000, u = (Bits)v & 0x7FFFFFFF;
  const Bits normal = (u + 0xC8000FFF + ((u >> 13) & 1)) >> 13;
  const Bits subnormal = (Bits)((VF)u + 0.5f) - 0x3F000000;
  // Compared as signed numbers, which these are too.
  typedef int32_t Signed __attribute__((vector_size(16)));
  const Signed size = (Signed)u;
  Bits to = size < 0x38800000 ? subnormal : normal;
  to = size >= 0x477FF000 ? Bits{} + 0x7C00 : to;
  to = size > 0x7F800000 ? Bits{} + 0x7E00 : to;
  return __builtin_convertvector(sign | to, Halves);
}
#endif
template <class H>
GATV2_INLINE VF load_half(const H* p) {
  Halves h;
  memcpy(&h, p, sizeof h);
  return widen(h, (H*)0);
}
template <class H>
GATV2_INLINE void store_half(H* p, VF v) {
  const Halves h = narrow(v, (H*)0);
  memcpy(p, &h, sizeof h);
}
#endif

GATV2_INLINE VF load(const bfloat16* p) { return load_half(p); }
GATV2_INLINE VF load(const float16* p) { return load_half(p); }
GATV2_INLINE void store(bfloat16* p, VF v) { store_half(p, v); }
GATV2_INLINE void store(float16* p, VF v) { store_half(p, v); }

GATV2_END
