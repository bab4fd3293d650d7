// Lanes of 64 bits, for counters and addresses.
#pragma once

#include "simd/vector.h"

GATV2_BEGIN

constexpr int kWordLanes = kVectorBytes / 8;
typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));

// low half of a * m, all 64 bits of it
GATV2_INLINE Words multiply_low_halves(Words a, uint32_t m) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
  return (a & 0xFFFFFFFFu) * (uint64_t)m;
#endif
}

GATV2_END
